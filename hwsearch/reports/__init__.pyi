from ._report import Compared as Compared
from ._report import families as families
from ._report import front_figure as front_figure
from ._report import history_figure as history_figure
from ._report import prediction_figure as prediction_figure
from ._report import staircase_figure as staircase_figure
from ._report import verification_figure as verification_figure
from ._report import write_report as write_report
