from ._predictor import KINDS as KINDS
from ._predictor import Predictor as Predictor
from ._predictor import Report as Report
from ._predictor import load_predictor as load_predictor
