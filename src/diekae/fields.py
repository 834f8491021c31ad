"""Checks of values that users write, by the types of a dataclass's fields, and suggestions for misspelt names."""

import dataclasses
import difflib
import math
import reprlib
import warnings
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "None",
}


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Refuse values by name that are not of the types of a dataclass's fields, by a ValueError.

    A list may stand for a tuple, numbers must be finite, and names that are no fields are left alone.
    """
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name in hints and get_origin(hints[name]) is Literal:
            check_choice(f"{name}={short(value)}", value, get_args(hints[name]))
        elif name in hints and not _fits(value, hints[name]):
            raise ValueError(f"{name}={short(value)} must be {_describe(hints[name])}.")


def check_choice(subject: str, name: object, names: Collection[str]) -> None:
    """Refuse a name that is none of some names; ``subject`` begins the message of the ValueError."""
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"{subject} is not known; choose one of {', '.join(names)}.{did_you_mean(name, names)}")


def known_fields(kind: type, values: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Return the values that are fields of a dataclass. Others, maybe of a newer version, are ignored with a warning.

    ``subject`` is what messages call the values: ``Training``. Values that are no table are a ValueError.
    """
    check_table(values, subject.lower())
    names = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in names:
            warnings.warn(f"{subject} key {key!r} is not known and is ignored.{did_you_mean(key, names)}", stacklevel=3)
    return {key: value for key, value in values.items() if key in names}


def check_table(value: Any, name: str) -> None:
    """Refuse what is not a mapping with texts as its keys, by a ValueError."""
    if not _fits(value, Mapping[str, Any]):
        raise ValueError(f"{name}={short(value)} must be a table of names and values.")


def short(value: Any) -> str:
    """Return a value as an error message shows it: a long one in part."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 80
    return shortener.repr(value)


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of an annotated type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items()
        )
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _describe(hint: Any) -> str:
    """Return what a type accepts, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} times "
        return f"a list of {count}{_describe(arguments[0])}"
    return "a table of names and values" if origin is Mapping else _WORDS.get(hint, "a value")


def did_you_mean(name: object, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return a sentence that suggests the valid name nearest to a misspelt one, to append to an error message.

    Example:
        >>> did_you_mean("raeder", ["reader", "token"])
        " Did you mean 'reader'?"
        >>> did_you_mean("xyz", ["reader", "token"])
        ''
    """
    nearest = difflib.get_close_matches(str(name), list(names), n=1, cutoff=cutoff)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
