from ._device import Check as Check
from ._device import Device as Device
from ._device import Estimate as Estimate
from ._device import Protocol as Protocol
from ._device import Row as Row
from ._table import LatencyTable as LatencyTable
from ._table import load_table as load_table
