"""Suggestions for misspelt names in error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return a sentence that suggests the valid name nearest to a misspelt one, to append to an error message.

    Example:
        >>> did_you_mean("raeder", ["reader", "token"])
        " Did you mean 'reader'?"
        >>> did_you_mean("xyz", ["reader", "token"])
        ''

    Args:
        name: The unknown name.
        names: The valid names.
        cutoff: Least similarity of a suggestion, from 0 to 1.
    """
    nearest = difflib.get_close_matches(str(name), list(names), n=1, cutoff=cutoff)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
