"""Options that may be repeated and take some of a few names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from diekae.fields import check_choice


def chosen(option: str, names: Sequence[str] | None, choices: Any) -> list[Any]:
    """Return the names of a repeated option, all choices where there is none.

    Args:
        option: Its name, for the message.
        names: What the command line names.
        choices: A ``Literal`` type.

    Raises:
        ValueError: A name is none of the choices.
    """
    known = get_args(choices)
    for name in names or ():
        check_choice(f"--{option} {name!r}", name, known)
    return list(names or known)
