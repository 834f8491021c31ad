"""The methods of the paper's tables behind one interface."""

from diekae_research.methods.base import Cost, Fitted, Scored, Task, fit, method_names, register

__all__ = ["Cost", "Fitted", "Scored", "Task", "fit", "method_names", "register"]
