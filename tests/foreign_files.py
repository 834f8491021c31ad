"""Foreign files for tests: any bytes, damaged files, and JSON of which a part is wrong.

`DIEKAE_FOREIGN_FILES` in the environment is the number of files of each kind; the default is small, to be fast.
"""

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FILES = int(os.environ.get("DIEKAE_FOREIGN_FILES", 12))
"""Files that are tried in each test."""
foreign = settings(
    max_examples=FILES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

HUGE = "a huge number"
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", " ", "\udcff", "\ud800", "[/b]", "\x1b[2J", "\u2028", "\x00", HUGE, -1, 0]),
)
VALUES = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part))


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """Return a JSON value with one part replaced, removed or doubled."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 4)):
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: draw(mutated(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        index = draw(st.integers(0, len(value) - 1))
        part = draw(st.sampled_from([[], [value[index]] * 2, [draw(mutated(value[index]))]]))
        return [*value[:index], *part, *value[index + 1 :]]
    return draw(VALUES)


def dump(value: Any) -> bytes:
    """Return JSON, with NaN where the value has it; the text `HUGE` becomes a number of 5,000 digits."""
    return json.dumps(value).replace(f'"{HUGE}"', "9" * 5000).encode()


def nest(depth: int) -> bytes:
    """Return an example whose knowledge is in lists that are nested this deep."""
    return b'{"input": "x", "target": "y", "knowledge": ' + b"[" * depth + b"]" * depth + b"}"


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return a file that is cut, or in which some bytes are others."""
    if draw(st.booleans()):
        return whole[: draw(st.integers(0, len(whole)))]
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4)) if content else 0):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


def contents(*rows: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy of foreign files: any bytes, or lines of JSON of which some part is wrong."""
    whole = b"\n".join(map(dump, rows))
    lines = st.tuples(*(st.one_of(st.just(row), mutated(row)) for row in rows)).map(
        lambda changed: b"\n".join(map(dump, changed))
    )
    nested = st.sampled_from([100, 10_000]).map(nest)
    return st.one_of(st.binary(max_size=200), lines, damaged(whole), nested)
