from ._load import load_backend as load_backend
from ._onnx._check import differences as differences
from .base import Backend as Backend
from .base import Network as Network
from .base import Roofline as Roofline
from .base import Session as Session
from .base import Times as Times
