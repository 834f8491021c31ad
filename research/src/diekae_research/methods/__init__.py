"""The methods of the paper's tables behind one interface: a `Task` goes in, a `Fitted` method comes out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from diekae.fields import check_choice
from diekae_research.methods import cartridge, lora, ours, prompted, sft
from diekae_research.methods.base import Cost, Fitted, Scored, Task

__all__ = ["METHODS", "Cost", "Fitted", "Scored", "Task", "constants_of", "fit"]
METHODS: dict[str, Callable[[Task], Fitted]] = {
    "bare": prompted.bare,
    "cartridge": cartridge.cartridge,
    "lora": lora.lora,
    "ours": ours.ours,
    "ours_finetuned": ours.ours_finetuned,
    "ours_finetuned_from_scratch": ours.ours_finetuned_from_scratch,
    "prompted": prompted.prompted,
    "prompted_cached": prompted.prompted_cached,
    "sft": sft.sft,
}
"""Methods by name."""


def fit(name: str, task: Task) -> Fitted:
    """Fit a method by name.

    Raises:
        ValueError: No method has that name, or the task does not suit it.
    """
    check_choice(f"method {name!r}", name, METHODS)
    return METHODS[name](task)


def constants_of(name: str) -> dict[str, Any]:
    """Return the constants of a method's file, such as its learning rate: upper-case names with JSON values."""
    module = importlib.import_module(METHODS[name].__module__)
    return {key: value for key, value in sorted(vars(module).items()) if key.isupper() and _is_json(value)}


def _is_json(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int | float)
