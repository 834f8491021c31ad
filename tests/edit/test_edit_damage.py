"""Damage to a store of edits: an error in a sentence, or the same answers as before; never another edit's answer."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import make_model
from diekae import DiekaeModel
from diekae.edit import Edit, edit_model, load_edits
from diekae.edit.database import FILE
from diekae.edit.trained_parts import TrainedParts
from diekae.knowledge import PreparedKnowledge

TEXTS = (
    "the red house is",
    "the old tall tower is",
    "the king of the island is",
    "the bridge by the lake is",
    "the sea is",
)
Damage = Callable[[Path, random.Random], object]


@pytest.fixture
def model() -> DiekaeModel:
    return make_model("attention")


@pytest.fixture
def folder(model: DiekaeModel, trained: TrainedParts, edits: list[Edit], tmp_path: Path) -> Path:
    """Edits of which one is superseded and one reverted, in a file without a log."""
    made = edit_model(model, edits, folder=tmp_path / "whole", gate="learned", trained=trained)
    made.add([Edit("the red house is", "red house", "gold")])
    made.revert(3)
    made.store.close()
    return tmp_path / "whole"


def answers(model: DiekaeModel, folder: Path, trained: TrainedParts) -> list[Any]:
    """What is injected for each text, and the listed edits."""
    loaded = load_edits(model, folder, gate="learned", trained=trained)
    try:
        return [*loaded.knowledge(TEXTS), loaded.list(every=True)]
    finally:
        loaded.store.close()


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, PreparedKnowledge) and isinstance(other, PreparedKnowledge):
        # What is computed again may be rounded in another way.
        return all(torch.allclose(t, other.tensors[name], atol=0.02, rtol=0.02) for name, t in one.tensors.items())
    return type(one) is type(other) and bool(one == other)


def mutate(path: Path, draw: random.Random) -> str:
    """Replace one value of one row by random bytes, by itself with one other byte, or by that of another row."""
    base = sqlite3.connect(path, isolation_level=None)
    base.text_factory = bytes
    tables = [row[0].decode() for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = draw.choice([name for name in tables if not name.startswith("sqlite_")])
    column, kind = draw.choice(
        [(row[1].decode(), row[2].decode()) for row in base.execute(f"PRAGMA table_info({table})")]
    )
    rowid = draw.choice(base.execute(f"SELECT rowid FROM {table}").fetchall())[0]
    value = base.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,)).fetchone()[0]
    new: int | bytearray = draw.choice([0, 1, -7, 5, 2**62])
    if kind != "INTEGER":
        other = draw.choice(base.execute(f"SELECT {column} FROM {table} ORDER BY rowid").fetchall())[0]
        new = bytearray(draw.choice([value, other, draw.randbytes(draw.choice([0, 8, len(value)]))]))
        if new == value and new:
            new[draw.randrange(len(new))] = draw.randrange(256)
    try:
        expression = f"CAST(? AS {kind})"
        base.execute(f"UPDATE {table} SET {column} = {expression} WHERE rowid = ?", (new, rowid))
    except sqlite3.IntegrityError:
        return "refused by SQLite"
    finally:
        base.close()
    return f"{table}.{column} of row {rowid}: {value!r} -> {new!r}"[:300]


def flip(path: Path, draw: random.Random) -> str:
    """Flip one bit of the file."""
    content, position = bytearray(path.read_bytes()), draw.randrange(path.stat().st_size)
    content[position] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return f"bit in byte {position}"


@pytest.mark.parametrize("damage", [mutate, flip])
def test_damage_gives_an_error_or_the_same_answers(
    damage: Damage,
    model: DiekaeModel,
    trained: TrainedParts,
    folder: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    draw, damaged = random.Random(0), tmp_path / "damaged"
    expected = answers(model, folder, trained)
    refused = 0
    record_property("tries", 200)
    for number in range(200):
        shutil.rmtree(damaged, ignore_errors=True)
        damaged.mkdir()
        shutil.copy(folder / FILE, damaged / FILE)
        what = damage(damaged / FILE, draw)
        try:
            got = answers(model, damaged, trained)
        except (ValueError, OSError) as error:
            assert "edits.sqlite" in str(error) and str(error).endswith("."), f"{number}: {what}: {error}"
            refused += 1
            continue
        assert all(map(equal, got, expected)), f"{number}: {what}"
    assert 0 < refused < 190, "the test sees both"
