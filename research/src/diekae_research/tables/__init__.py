"""The paper's tables and figures, one file each, and the command that measures them: `diekae-research reproduce`."""

from diekae_research.tables.lab import Lab
from diekae_research.tables.plan import Plan
from diekae_research.tables.reproduce import TABLES, reproduce, table_names

__all__ = ["TABLES", "Lab", "Plan", "reproduce", "table_names"]
