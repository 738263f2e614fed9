from ._compared import Compared as Compared
from ._report import write_report as write_report
from ._search_figures import front_figure as front_figure
from ._search_figures import history_figure as history_figure
from ._search_figures import verification_figure as verification_figure
from ._table_figures import families as families
from ._table_figures import prediction_figure as prediction_figure
from ._table_figures import staircase_figure as staircase_figure
