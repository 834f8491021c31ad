"""Every method of the paper's tables behind one interface; one file a method, found by itself."""

from diekae.evaluation.methods.base import Cost, Fitted, Scored, Task, fit, method_names, register

__all__ = ["Cost", "Fitted", "Scored", "Task", "fit", "method_names", "register"]
