"""Errors as the command line shows them: a sentence each, without a traceback."""

from __future__ import annotations

import re

from diekae.cli.output import one_line

_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|not enough memory", re.IGNORECASE)
"""What PyTorch's errors say when memory is full, on a CPU and on a GPU."""


def explain(error: Exception) -> str | None:
    """Return the sentence for an error that a user can mend; None for a fault of the program."""
    if _is_out_of_memory(error):
        return (
            f"the memory is full ({_text_of(error)}). Work on less at a time: a smaller --batch-size, --passages or "
            "--max-knowledge, or shorter documents; or choose another --device."
        )
    if isinstance(error, OSError) and error.strerror:
        path = "" if error.filename is None else f"{error.filename!r}: "
        return one_line(f"{path}{error.strerror}")
    if isinstance(error, UnicodeError):
        return f"a text, a file or its name is not UTF-8 ({_text_of(error)}). Save or name it in UTF-8."
    if isinstance(error, ValueError | OSError | ModuleNotFoundError | FloatingPointError):
        return _text_of(error)
    if _is_damaged_tensor_file(error):
        return f"a safetensors file is damaged ({_text_of(error)}). Restore it from a copy, or make it again."
    if _is_nested_too_deep(error):
        return f"a file holds JSON that is nested too deep ({_text_of(error)}). Write it anew."
    if isinstance(error, RuntimeError):
        return f"{_text_of(error)} (DIEKAE_DEBUG=1 shows where)"
    return None


def exit_code(error: Exception) -> int:
    """Return the exit code for an explained error: 2 if another call or other files mend it, else 1."""
    mendable = _is_out_of_memory(error) or _is_nested_too_deep(error)
    return 1 if isinstance(error, RuntimeError) and not mendable else 2


def _text_of(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )


def _is_nested_too_deep(error: Exception) -> bool:
    return isinstance(error, RecursionError) and "JSON" in str(error)


def _is_damaged_tensor_file(error: Exception) -> bool:
    from safetensors import SafetensorError  # imported here: only some errors need it

    return isinstance(error, SafetensorError)
