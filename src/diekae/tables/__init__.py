"""The paper's tables and figures, measured rightly; one file each, a command for all: `diekae reproduce`."""

from diekae.tables.lab import Lab, best_device
from diekae.tables.plan import Plan
from diekae.tables.reproduce import TABLES, reproduce, table_names

__all__ = ["TABLES", "Lab", "Plan", "best_device", "reproduce", "table_names"]
