"""The torch wing: supernets, their training, evaluation, quantisation and export. Nothing outside of it imports torch."""

from __future__ import annotations

from ..errors import require

for _package in ("torch", "safetensors"):
    require(_package, feature="Training, evaluating and exporting networks", extra="torch")

from .arrays import ArrayData, make_data  # noqa: E402
from .coded import Coded, coded_size, load_coded, save_coded  # noqa: E402
from .data import load_data  # noqa: E402
from .deploy import Deployed, deploy  # noqa: E402
from .export import export  # noqa: E402
from .files import evaluate_file  # noqa: E402
from .finish import finish  # noqa: E402
from .folder import DamagedWarning, FolderData, folder_data  # noqa: E402
from .images import Data, Normalize  # noqa: E402
from .phases import PHASES, Phase  # noqa: E402
from .plain import calibrate_bn, resize  # noqa: E402
from .quantize import Quantization  # noqa: E402
from .recipe import RECIPES, Recipe  # noqa: E402
from .samples import fit_predictor, score_networks, score_samples  # noqa: E402
from .score import evaluate  # noqa: E402
from .supernet import Supernet  # noqa: E402
from .trace import trace  # noqa: E402
from .train import train  # noqa: E402
from .tune import tune  # noqa: E402

__all__ = [
    "PHASES",
    "RECIPES",
    "ArrayData",
    "Coded",
    "DamagedWarning",
    "Data",
    "Deployed",
    "FolderData",
    "Normalize",
    "Phase",
    "Quantization",
    "Recipe",
    "Supernet",
    "calibrate_bn",
    "coded_size",
    "deploy",
    "evaluate",
    "evaluate_file",
    "export",
    "finish",
    "fit_predictor",
    "folder_data",
    "load_coded",
    "load_data",
    "make_data",
    "resize",
    "save_coded",
    "score_networks",
    "score_samples",
    "trace",
    "train",
    "tune",
]
