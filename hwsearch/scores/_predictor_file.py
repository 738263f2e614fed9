"""Files of predictors, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .._files._reading import guarded, read_arrays
from .._files._writing import PathLike
from ..errors import CorruptFile, UnknownName, WrongSpace
from ..spaces._space import SearchSpace
from ._calibration import Calibration
from ._models import MODELS
from ._predictor import FORMAT, VERSION, Predictor
from ._report import Report
from ._warp import Warp


def load_predictor(path: PathLike, space: SearchSpace | None = None) -> Predictor:
    """Read a predictor.

    Args:
        path: an npz file written by :meth:`Predictor.save`.
        space: the space it must belong to; if omitted, found by its name.

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not a predictor that this hwsearch can read.
        WrongSpace: it belongs to another space.

    Example:
        >>> import hwsearch, numpy as np
        >>> space = hwsearch.load_space("resnet_digits")
        >>> X = space.sample(60, np.random.default_rng(0))
        >>> path = hwsearch.Predictor.fit(space, X, X.mean(axis=1), kind="linear").save("predictor.npz")
        >>> hwsearch.load_predictor(path)(X).shape
        (60,)
    """
    header, arrays = read_arrays(path, "predictor", format=FORMAT, version=VERSION)
    if space is None:
        from ..spaces._load import space_of_file

        space = space_of_file(header.get("space"), path)
    if header.get("fingerprint") != space.fingerprint:
        raise WrongSpace(
            f"{path} predicts for space {header.get('space')!r} ({header.get('fingerprint')}), not for {space.name!r} "
            f"({space.fingerprint}). Fit one for this space with: hwsearch fit-predictor"
        )
    with guarded(path, "predictor"):
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise CorruptFile(f"{path} holds weights that are not finite.")
    features = sum(space.sizes)
    own, learned = (
        {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)} for prefix in ("model.", "learned.")
    )
    seen, warp, calibration = arrays.get("seen"), _warp(arrays, path), _calibration(header, arrays, path)
    with guarded(path, "predictor: its header and its arrays do not fit together"):
        kind = str(header["kind"])
        if kind not in MODELS:
            raise UnknownName("kind of predictor", kind, MODELS)
        report = _report(header)
        mean, scale = float(header["mean"]), float(header["scale"])
        if not (np.isfinite(mean) and 0 < scale < np.inf):
            raise CorruptFile(f"its mean is {mean} and its scale is {scale}, but a finite number and a positive one were expected")
        if seen is not None and (seen.shape != (features,) or seen.dtype != np.bool_):
            raise CorruptFile(f"its list of values seen has the shape {seen.shape}, but {features} were expected")
        data, bits = msgspec.convert((header.get("data"), header.get("weight_bits")), tuple[str | None, int | None])
        model, where = MODELS[kind].read(own, features), space.knowing(learned) if learned else space
        predictor = Predictor(where, model, mean, scale, report, seen, data, bits, warp, calibration)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            predictor.std(space.sample(8, np.random.default_rng(0)))  # weights that overflow show here
        return predictor


def read_told(path: PathLike) -> tuple[str, Report | None]:
    """The space that a predictor names, and how good it is; for a space that is not here, without which the predictor cannot be made.

    Raises:
        FileError: the file cannot be read.
        CorruptFile, NewerVersion: it is not a predictor that this hwsearch can read.
    """
    header, _ = read_arrays(path, "predictor", format=FORMAT, version=VERSION)
    with guarded(path, "predictor"):
        return str(header["space"]), _report(header)


def _report(header: Mapping[str, Any]) -> Report | None:
    """How good the predictor is; JSON has no NaN, which is what the quality among equal scores is."""
    kept = header["report"]
    if isinstance(kept, dict):
        kept = {name: float("nan") if value is None and name != "coverage" else value for name, value in kept.items()}
    return msgspec.convert(kept, Report | None)


def _warp(arrays: Mapping[str, npt.NDArray[Any]], path: PathLike) -> Warp | None:
    """The warp that a file holds, if it holds one.

    Raises:
        CorruptFile: it does not ascend.
    """
    if "warp.normal" not in arrays:
        return None
    with guarded(path, "predictor: its warp"):
        warp = Warp(arrays["warp.normal"], arrays["warp.scores"])
        for array in (warp.normal, warp.scores):
            if array.dtype != np.float64 or array.shape != (len(warp.normal),) or len(array) < 2 or (np.diff(array) <= 0).any():
                raise CorruptFile(f"{path}: the warp of its scores does not ascend")
    return warp


def _calibration(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], path: PathLike) -> Calibration | None:
    """The errors of predictions that a file holds, if it holds them.

    Raises:
        CorruptFile: they are no errors.
    """
    if "errors" not in arrays:
        return None
    with guarded(path, "predictor: its errors"):
        found = Calibration(float(header["floor"]), arrays["errors"])
        if found.errors.dtype != np.float64 or found.errors.ndim != 1 or not len(found.errors) or (np.diff(found.errors) < 0).any():
            raise CorruptFile(f"{path}: the errors of its predictions do not ascend")
        if not 0 < found.floor < np.inf or found.errors[0] < 0:
            raise CorruptFile(f"{path}: the errors of its predictions are negative or endless")
    return found
