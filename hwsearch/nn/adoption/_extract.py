"""From a row of an adopted network's genes to the smaller network."""

from __future__ import annotations

from torch import fx

from ...errors import InvalidInput, check_count
from ...spaces._space import Architecture
from ._adopted import Adopted
from ._examples import Examples, examples
from ._importance import importance


def extract(architecture: Architecture, *, data: Examples | None = None, images: int = 800, epochs: int = 0) -> fx.GraphModule:
    """The network that a search in an adopted network found, as an ordinary PyTorch module.

    Of each group those units are kept that matter most: by what the architecture's space has learned, as it has in a result of a search by
    a score of :func:`hwsearch.nn.adoption.additive`. If it has learned nothing, the criterion ``"reconstruction"`` tells on the data, or
    ``"l2"`` without data.

    Args:
        architecture: such as the ``best`` of a result.
        data: images to repair the network on, without training: a tensor, a tuple of tensors (inputs, and perhaps targets), a PyTorch
            ``DataLoader`` or another iterable of batches, or what :func:`hwsearch.nn.load_data` takes. Targets are ignored. Nothing is
            repaired if omitted.
        images: how many of them to use at most.
        epochs: how often to look at them where layers that follow one another, such as those of a residual branch, are fitted together
            by descent towards what the whole network computes there, without labels. It is worth most where half of the network or more
            is gone, and takes about as long as that many epochs of training on these images. 0 leaves it at least squares in
            closed form, and so do so few images that they are one batch (100, or that of the network).

    Returns:
        The module, in evaluation mode and in floats; :func:`hwsearch.export` writes its kernels in the precisions of the architecture. It
        shares nothing with the whole network. Of a network that was adopted with ``part=`` it is the
        part, which ``architecture.space.insert`` puts back.

    Raises:
        InvalidInput: the architecture is of no adopted network, the images do not fit it, or there are epochs and no data.

    Example:
        >>> import hwsearch
        >>> import torch
        >>> layers = torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 4, 3)
        >>> space = hwsearch.adopt(torch.nn.Sequential(*layers), torch.randn(1, 3, 8, 8))
        >>> small = hwsearch.extract(space.architecture(space.encode({"0.width": 8})), data=torch.randn(100, 3, 8, 8))
        >>> small(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 4, 4, 4])
    """
    space = architecture.space
    if not isinstance(space, Adopted):
        raise InvalidInput(
            f"{space.name!r} is not a network that was adopted in this process. Adopt it again with hwsearch.adopt() and load the result "
            "with load_result(path, space); networks of a supernet are extracted with hwsearch.nn.deploy()."
        )
    if check_count("epochs", epochs, least=0) and data is None:
        raise InvalidInput("epochs= fits layers on images, and there are none: give data= as well.")
    inputs = None if data is None else examples(space, data, check_count("images", images, least=1))[0]
    scores = dict(space.learned) or importance(space, "l2" if inputs is None else "reconstruction", inputs)
    genes = architecture.genes
    return space.extract(*space.plan(genes), scores, images=inputs, epochs=epochs, precisions=space.bits(genes))
