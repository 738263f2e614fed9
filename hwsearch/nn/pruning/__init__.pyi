from ._masks import UNITS as UNITS
from ._sparsity import Sparsity as Sparsity
from ._sparsity import prune as prune
from ._sparsity import sparsity_of as sparsity_of
from ._spread import SPREADS as SPREADS
