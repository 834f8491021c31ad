"""Filling templates; the docstring of `kind.py` explains the placeholders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from diekae_research.fiction.names import NameMaker
from diekae_research.fiction.shared import SHARED


def fill(template: str, values: Mapping[str, str]) -> str:
    """Insert `values` for the placeholders {...}, and write "a" or "an" for "a(n)".

    Raises:
        ValueError: If there is no value for a placeholder.
    """

    def insert(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(f"unknown placeholder {match[0]} in {template!r}; there are {', '.join(values)}")
        return values[match[1]]

    text = re.sub(r"\{(.+?)\}", insert, template)
    # Right for the words of this package, not for all of English.
    text = re.sub(r"\b([Aa])\(n\)(?= [aeiouAEIOU])", r"\1n", text)
    return re.sub(r"\b([Aa])\(n\)", r"\1", text)


def draw_values(
    templates: Mapping[str, str], word_lists: Mapping[str, Sequence[str]], names: NameMaker
) -> dict[str, str]:
    """Fill the templates of a kind's values in order; each may use the values before it.

    Raises:
        ValueError: If a placeholder is neither a rule, nor a word list, nor an earlier value.
    """
    values: dict[str, str] = {}

    def draw(match: re.Match[str]) -> str:
        phrase = match[1]
        if phrase in word_lists:
            return draw_all(names.rng.choice(word_lists[phrase]))
        for pattern, rule in RULES.items():
            if arguments := re.fullmatch(pattern, phrase):
                return rule(names, values, *arguments.groups())
        raise ValueError(f"{match[0]} is neither a rule ({', '.join(RULES)}) nor a list ({', '.join(word_lists)})")

    def draw_all(template: str) -> str:
        return re.sub(r"<(.+?)>", draw, template)

    for key, template in templates.items():
        values[key] = fill(draw_all(template), values)
    return values


def _number(names: NameMaker, _values: Mapping[str, str], low: str, high: str) -> str:
    return str(names.rng.randint(int(low), int(high)))


def _number_after(names: NameMaker, values: Mapping[str, str], low: str, high: str, key: str) -> str:
    return str(int(values[key]) + names.rng.randint(int(low), int(high)))


def _day(names: NameMaker, values: Mapping[str, str], key: str) -> str:
    return f"{names.rng.randint(1, 28)} {names.rng.choice(SHARED['words']['months'])} {values[key]}"


def _is_female(name: str) -> bool:
    return name.split()[0] in SHARED["first_names"]["female"]


RULES: dict[str, Callable[..., str]] = {
    r"person": lambda names, _: names.person(),
    r"town": lambda names, _: names.word("town"),
    r"thing": lambda names, _: names.word("thing"),
    r"lowercase thing": lambda names, _: names.word("thing").lower(),
    r"(\d+) to (\d+)": _number,
    r"(\d+) to (\d+) after (\w+)": _number_after,
    r"later of (\w+) and (\d+)": lambda _, values, key, year: str(max(int(values[key]), int(year))),
    r"day in (\w+)": _day,
    r"surname of (\w+)": lambda _, values, key: values[key].split()[-1],
    r"pronoun of (\w+)": lambda _, values, key: "she" if _is_female(values[key]) else "he",
    r"possessive of (\w+)": lambda _, values, key: "her" if _is_female(values[key]) else "his",
}
"""What <...> may say, as a regular expression, and the function that returns the text for it.

A function receives the names, the values so far, and the groups of the expression.
"""
