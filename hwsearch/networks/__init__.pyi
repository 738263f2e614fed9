from ._blocks import KINDS as KINDS
from ._blocks import Block as Block
from ._blocks import Precision as Precision
from ._fused import Fused as Fused
from ._layers import ACTIVATIONS as ACTIVATIONS
from ._layers import Graph as Graph
from ._layers import Layer as Layer
