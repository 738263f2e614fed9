from ._predictor import KINDS as KINDS
from ._predictor import Predictor as Predictor
from ._predictor_file import load_predictor as load_predictor
from ._report import Report as Report
