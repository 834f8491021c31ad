"""Every method of the paper's tables behind one interface; one file a method, found by itself."""

from diekae_research.methods.base import Cost, Fitted, Scored, Task, fit, method_names, register

__all__ = ["Cost", "Fitted", "Scored", "Task", "fit", "method_names", "register"]
