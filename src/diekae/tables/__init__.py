"""The paper's tables and figures, measured rightly; one file each, a command for all: `diekae reproduce`."""

from diekae.tables.lab import Lab
from diekae.tables.plan import Plan
from diekae.tables.reproduce import TABLES, reproduce, table_names

__all__ = ["TABLES", "Lab", "Plan", "reproduce", "table_names"]
