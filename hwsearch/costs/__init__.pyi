from ._limits import Limit as Limit
from ._metrics import METRICS as METRICS
from ._metrics import Metric as Metric
from ._metrics import available as available
from ._metrics import metric as metric
from ._metrics import values_of as values_of
from ._whole_networks import FitReport as FitReport
from ._whole_networks import fit_metric as fit_metric
