"""From a module to a graph of operations: ``torch.export`` without decompositions, and ``make_fx`` behind it."""

from __future__ import annotations

import builtins
import inspect
import logging
import operator
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from ...errors import InvalidInput, Unsupported
from ._lines import failing_line
from ._run import ARITHMETIC, execute
from ._state import put
from ._tidy import tidy


@dataclass
class Captured:
    """A module as a graph.

    Attributes:
        network: a graph module that computes the same; parameters keep their names.
        inputs: the tensors that it was captured with, in the order of the graph's placeholders.
        batch: the size of the first axis of the inputs, where the graph takes any; 1 where it does not.
        dynamic: whether the graph takes batches of any size.
    """

    network: fx.GraphModule
    inputs: tuple[torch.Tensor, ...]
    batch: int
    dynamic: bool


def as_graph(module: nn.Module, inputs: Sequence[torch.Tensor]) -> fx.GraphModule:
    """A module as a graph: what was captured or cut before as it is, any other by :func:`capture`.

    Raises:
        InvalidInput, Unsupported: as :func:`capture`.
    """
    if isinstance(module, fx.GraphModule) and all("given" in node.meta for node in module.graph.find_nodes(op="placeholder")):
        return module
    return capture(module, inputs, {}).network


def capture(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Captured:
    """Capture a module in evaluation mode.

    Args:
        module: any module in float32 or float64 on the CPU; left as it is.
        args: example inputs.
        kwargs: example inputs by keyword.

    Raises:
        InvalidInput: the module does not run on the inputs, or they hold no tensor.
        Unsupported: the module is elsewhere than on the CPU or in another precision, or it cannot be captured, for example since
            what it computes depends on the values in its tensors; the message names the line.
    """
    _check_tensors(module)
    try:
        bound = _signature(module).bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidInput(f"The inputs do not fit {type(module).__name__}.forward: {error}.") from error
    if not any(isinstance(each, torch.Tensor) for each in pytree.tree_leaves((args, dict(kwargs)))):
        raise InvalidInput("The inputs hold no tensor, so there is nothing to run the network on.")
    places = list(bound.signature.parameters)
    ordered = dict(sorted(kwargs.items(), key=lambda each: places.index(each[0]) if each[0] in places else len(places)))
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            _register(_run(module, args, kwargs), type(module).__name__)
            found = _exported(module, tuple(args), ordered)
    finally:
        for each, mode in modes.items():
            each.training = mode
    if isinstance(module, fx.GraphModule):
        _order(found.network.graph, module.graph)
    return found


def _order(graph: fx.Graph, before: fx.Graph) -> None:
    """Read the tensors of a graph that was captured again where it read them before, since fingerprints go by the order."""
    reading = {str(node.target): node for node in graph.find_nodes(op="get_attr")}
    others = [node for node in graph.nodes if node.op != "get_attr"]
    places = [str(node.target) if node.op == "get_attr" else None for node in before.nodes]
    if {each for each in places if each} != set(reading) or len(places) != len(reading) + len(others):
        return
    waiting = iter(others)
    for name in places[:-1]:
        graph.output_node().prepend(next(waiting) if name is None else reading[name])


def _signature(module: nn.Module) -> inspect.Signature:
    """What ``forward`` takes; anything where it is compiled and does not say."""
    try:
        return inspect.signature(module.forward)
    except ValueError:
        kinds = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}
        return inspect.Signature([inspect.Parameter(name, kind) for name, kind in kinds.items()])


def _register(outputs: Any, module: str) -> None:
    """Have PyTorch look into the dataclasses among a module's outputs.

    Raises:
        Unsupported: the outputs hold something else that cannot be looked into.
    """
    for leaf in pytree.tree_leaves(outputs):
        if is_dataclass(leaf) and type(leaf) not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(type(leaf))
            _register(leaf, module)
        elif leaf is not None and not isinstance(leaf, torch.Tensor | int | float | str | torch.Size | torch.dtype | torch.device):
            raise Unsupported(
                f"{module} returns a {type(leaf).__name__}, but outputs have to be tensors in tuples, lists, dicts or dataclasses. "
                f"Wrap the module in one whose forward returns these."
            )


def _run(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return module(*args, **kwargs)
    except Exception as error:
        # Whatever the user's module raises.
        raise InvalidInput(f"{type(module).__name__} does not run on the example inputs, at {failing_line(error)}: {error}") from error


_TAKEN = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph()))) - frozenset(dir(nn.Module()))
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torchao.")


def _check_tensors(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if type(layer).__module__.startswith(_QUANTISED):
            raise Unsupported(
                f"{name or 'The module'} is quantised ({type(layer).__name__}), but a network is adopted in floating point. "
                f"Pass it as it was before, and quantise what is cut from it."
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        part = name.split(".")[0]
        if part in _TAKEN:
            raise Unsupported(
                f"{name} cannot be captured, since {part!r} is the name of something else in a torch.fx.GraphModule. Call it otherwise, or "
                f"pass torch.nn.Sequential(module), of which it is a part of a part."
            )
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64)):
            if tensor.device.type == "meta":
                raise Unsupported(
                    f"{name} is on the meta device, so it has a size and no values. Load the weights: module.to_empty(device='cpu'), then "
                    f"module.load_state_dict(...)."
                )
            raise Unsupported(
                f"{name} is {tensor.dtype} on {tensor.device}, but a network is adopted in float32 or float64 on the CPU. "
                f"Pass a copy: copy.deepcopy(module).cpu().float()."
            )


def _exported(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    failures: list[Exception] = []
    for grown in (True, False):
        both = _double((args, kwargs)) if grown else (args, kwargs)
        if both is None:
            continue
        flat = _tensors(both)
        try:
            network = _export(module, both[0], both[1], axes=(0,) if grown else ())
            opened = grown and all(not isinstance(node.meta["val"].shape[0], int) for node in _placeholders(network))
            found = tidy(network, flat)
            dynamic = opened and _takes_more(found, flat)
            if grown and not dynamic and flat[0].shape[0] != _tensors((args, kwargs))[0].shape[0]:
                continue
            if dynamic:
                found = _of_any_size(module, both[0], both[1], found)
            return Captured(found, flat, flat[0].shape[0] if dynamic else 1, dynamic)
        except Exception as error:
            # Export fails in as many ways as there are networks; what is said in the end names the first failure.
            failures.append(error)
    flat = _tensors((args, kwargs))
    try:
        return Captured(tidy(_by_tracing(module, args, kwargs), flat), flat, 1, dynamic=False)
    except Exception as error:
        failures.append(error)
    raise _refusal(module, failures) from failures[0]


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], axes: Collection[int]) -> fx.GraphModule:
    """A module as ``torch.export`` sees it, for any sizes of some axes of its inputs: the first one alone, or those of images as well."""
    signature = _signature(module)
    given = signature.bind(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(name, {})

    def shape(each: Any) -> dict[int, Any] | None:
        if not isinstance(each, torch.Tensor) or not each.ndim:
            return None
        return dict.fromkeys((axis for axis in axes if axis == 0 or each.ndim == 4), torch.export.Dim.AUTO)

    shapes = pytree.tree_map(shape, dict(given)) if axes else None
    with _open_lengths(), _unheard("torch.fx.experimental.symbolic_shapes"):
        network = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False).module(check_guards=False)
    assert isinstance(network, fx.GraphModule)
    return network


def _of_any_size(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], found: fx.GraphModule) -> fx.GraphModule:
    """A graph that follows images of other sizes, where the module does and a graph of the same operations can.

    What is resized to the size of another map, as in a feature pyramid or before the output of a segmentation network, has that size as a
    number in a graph of images of one size. Other graphs are left as they are: following sizes takes ``torch.export`` minutes where windows
    are moved over a map.

    Args:
        module, args, kwargs: what was captured, with at least two images.
        found: the graph for images of the size of these.
    """
    if not any("upsample" in str(each) for each in _operations(found)):
        return found
    larger = pytree.tree_map(_larger, (args, kwargs))
    with suppress(Exception):  # whatever the module or the export raise: such images are not for this network
        wanted = _tensors(module(*larger[0], **larger[1]))
        if _gives(found, _tensors(larger), wanted):
            return found
        network = tidy(_export(module, args, kwargs, axes=(0, 2, 3)), _tensors((args, kwargs)))
        if _operations(network) == _operations(found) and _gives(network, _tensors(larger), wanted):
            return network
    return found


def _larger(each: Any) -> Any:
    """Images with up to 32 more rows and 64 more columns, which are there already."""
    if not isinstance(each, torch.Tensor) or each.ndim != 4:
        return each
    taller = torch.cat([each, each[:, :, :32]], 2)
    return torch.cat([taller, taller[..., :64]], 3)


def _gives(network: fx.GraphModule, inputs: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> bool:
    """Whether a graph computes something."""
    try:
        made = execute(network, inputs)
    except RuntimeError:
        return False
    return [each.shape for each in made] == [each.shape for each in wanted] and all(
        torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4 * float(b.double().abs().amax()))
        for a, b in zip(made, wanted, strict=True)
        if b.numel()
    )


def _operations(network: fx.GraphModule) -> list[Any]:
    """What is computed of tensors, in order: all but sizes."""
    called = [node.target for node in network.graph.nodes if node.op == "call_function"]
    return [each for each in called if each is not torch.ops.aten.sym_size.int and (each is operator.getitem or each not in ARITHMETIC)]


def _takes_more(network: fx.GraphModule, inputs: tuple[torch.Tensor, ...]) -> bool:
    """Whether a graph also runs on more images than it was captured with; a number of them may stand in it in spite of open sizes."""
    try:
        execute(network, tuple(torch.cat([each, each[:1]]) for each in inputs))
    except RuntimeError:
        return False
    return True


@contextmanager
def _open_lengths() -> Iterator[None]:
    """Within this, ``len(x)`` of a tensor is the size that the export follows, and not the number that it is at the moment.

    Python wants a number from ``x.__len__()``, so that nothing less than another ``len`` helps.
    """
    plain = builtins.len

    def length(of: Any) -> Any:
        followed = isinstance(of, torch.Tensor) and of.ndim and not isinstance(of.shape[0], int)
        return of.shape[0] if followed else plain(of)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = plain


@contextmanager
def _unheard(name: str) -> Iterator[None]:
    """Within this, a logger says errors alone: what an export cannot prove of sizes is tried on images, and is no fault of the user's."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _tensors(inputs: Any) -> tuple[torch.Tensor, ...]:
    return tuple(each for each in pytree.tree_leaves(inputs) if isinstance(each, torch.Tensor))


def _placeholders(network: fx.GraphModule) -> list[fx.Node]:
    return [node for node in network.graph.nodes if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor)]


def _double(inputs: Any) -> Any:
    """Inputs with at least two images, since a batch of one is taken for a fixed size; ``None`` where there is no common batch axis."""
    sizes = {each.shape[0] if each.ndim else 0 for each in _tensors(inputs)}
    if len(sizes) != 1 or sizes == {0}:
        return None
    if sizes != {1}:
        return inputs
    return pytree.tree_map(lambda each: torch.cat([each, each.roll(1, -1)]) if isinstance(each, torch.Tensor) else each, inputs)


_DEPENDENT = ("data-dependent", "GuardOnDataDependent", "DataDependent", "Could not guard", "Dynamic control flow", "unbacked")


def _refusal(module: nn.Module, failures: list[Exception]) -> Unsupported:
    """What to say of a module that cannot be captured: which line is at fault, and what to do."""
    head = f"{type(module).__name__} cannot be captured"
    advice = "Adopt a submodule without such a line, for example part='backbone'."
    for error in failures:
        text = f"{type(error).__name__}: {error}"
        if any(word in text for word in _DEPENDENT):
            return Unsupported(f"{head}: at {failing_line(error)} what is computed depends on the values in a tensor. {advice}")
    first = failures[0]
    words = (str(first).splitlines() or ["nothing is said"])[0]
    return Unsupported(f"{head}: {type(first).__name__} at {failing_line(first)}: {words} {advice}")


def _by_tracing(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule:
    """Capture by running the module on tensors that record what is done to them."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    flat = tuple(leaves[place] for place in places)
    outputs: list[Any] = []

    def call(*tensors: torch.Tensor) -> tuple[Any, ...]:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        again, keywords = pytree.tree_unflatten(filled, spec)
        found, out_spec = pytree.tree_flatten(module(*again, **keywords))
        outputs.append(out_spec)
        return tuple(found)

    network = make_fx(call, tracing_mode="fake", _allow_non_fake_inputs=True, pre_dispatch=True)(*flat)
    _restore_names(network, module)
    _, in_spec = pytree.tree_flatten((flat, {}))
    names = [str(node.target) for node in network.graph.nodes if node.op == "placeholder"]
    network.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, in_spec, outputs[-1])))
    network.recompile()
    return network


def _restore_names(network: fx.GraphModule, module: nn.Module) -> None:
    """Give parameters and buffers their names back, which tracing loses."""
    names = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    fresh = nn.Module()
    for node in network.graph.nodes:
        if node.op == "get_attr":
            tensor = getattr(network, str(node.target))
            node.target = names.get(id(tensor), node.target)
            put(fresh, str(node.target), tensor)
    for name in [*network._parameters, *network._buffers, *network._modules]:
        delattr(network, name)
    for name, child in fresh.named_children():
        setattr(network, name, child)
    for name, tensor in (*fresh.named_parameters(recurse=False), *fresh.named_buffers(recurse=False)):
        put(network, name, tensor)
