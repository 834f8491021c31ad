"""Several processes that make and revert edits, and are killed while they do: what was acknowledged stays."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from builders import make_model
from diekae import DiekaeModel
from diekae.edit import Edit, edit_model, load_edits
from diekae.edit.edits import make_store
from diekae.edit.store import EditStore
from diekae.edit.trained_parts import TrainedParts

Report = Callable[[str, int], None]
KILLS = [pytest.param(20, id="20"), pytest.param(200, id="200", marks=pytest.mark.long)]
"""Kills of a test."""


class Process:
    """A copy of this process that runs a function and acknowledges what it has done."""

    def __init__(self, work: Callable[[Report], None]) -> None:
        reading, writing = os.pipe()
        self.number = os.fork()
        if self.number == 0:
            try:
                work(lambda action, id: os.write(writing, f"{action} {id}\n".encode()) and None)
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        os.close(writing)
        self._lines = os.fdopen(reading)

    def wait(self) -> None:
        """Wait for the first action, and leave it out."""
        self._lines.readline()

    def kill(self) -> None:
        os.kill(self.number, signal.SIGKILL)

    def acknowledged(self, *, killed: bool) -> list[tuple[str, int]]:
        """Wait for the end, and return the acknowledged actions, each with the number of an edit."""
        with self._lines as lines:
            actions = [(action, int(id)) for action, id in (line.split() for line in lines)]
        status = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        assert status == 0 or (killed and status == -signal.SIGKILL), "the work failed"
        return actions


def add_and_revert(folder: Path, name: str, most: int) -> Callable[[Report], None]:
    """Return work that makes edits, and reverts every third."""

    def work(report: Report) -> None:
        store = EditStore(folder, "decoder", "bank")
        report("opened", 0)
        for number in range(most):
            id = store.add(Edit("the dog is", "dog", f"{name} {number}")).id
            report("added", id)
            if number % 3 == 2:
                store.revert(id)
                report("reverted", id)

    return work


def check(folder: Path, actions: list[tuple[str, int]], in_hand: int) -> None:
    """Check that a store holds what was acknowledged, and at most so many edits or reversions besides."""
    store = EditStore(folder, "decoder", "bank")
    states = {record.id: record.state for record in store.records(every=True)}
    added = [id for action, id in actions if action == "added"]
    reverted = [id for action, id in actions if action == "reverted"]
    assert len(set(added)) == len(added) and set(added) <= set(states)
    assert all(states[id] == "reverted" for id in reverted)
    others = len(states) - len(added) + [*states.values()].count("reverted") - len(reverted)
    assert 0 <= others <= in_hand
    newest = max((id for id, state in states.items() if state != "reverted"), default=None)
    assert [record.id for record in store.records()] == ([] if newest is None else [newest])
    store.close()


def test_two_processes_make_and_revert_edits_at_once(tmp_path: Path) -> None:
    processes = [Process(add_and_revert(tmp_path, name, 20)) for name in ("a", "b")]
    actions = [action for process in processes for action in process.acknowledged(killed=False)]
    check(tmp_path, actions, in_hand=0)
    assert sorted(id for action, id in actions if action == "added") == list(range(1, 41))


@pytest.mark.parametrize("kills", KILLS)
def test_two_processes_that_are_killed_lose_the_edit_in_hand_at_most(
    tmp_path: Path, kills: int, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", kills)
    draw, actions = random.Random(0), list[tuple[str, int]]()
    for kill in range(kills // 2):
        processes = [Process(add_and_revert(tmp_path, f"{name} {kill}", 10_000)) for name in ("a", "b")]
        for process in processes:
            process.wait()
            time.sleep(draw.uniform(0.0, 0.04))
            process.kill()
        for process in processes:
            actions += process.acknowledged(killed=True)
        check(tmp_path, actions, in_hand=2 * (kill + 1))
    assert len(actions) > kills, "the kills hit the work"


@pytest.fixture
def model() -> DiekaeModel:
    return make_model("attention")


@pytest.mark.parametrize("kills", KILLS)
def test_a_kill_at_any_point_of_making_an_edit_leaves_it_whole_or_out(
    model: DiekaeModel,
    trained: TrainedParts,
    tmp_path: Path,
    kills: int,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("tries", kills)
    draw, added = random.Random(0), list[int]()
    things = ("house", "tower", "bridge", "castle", "boat", "door", "garden", "wall", "book", "cat")
    make_store(model, tmp_path).close()

    def work(report: Report) -> None:
        edits = edit_model(model, [], folder=tmp_path, gate="learned", trained=trained)
        report("opened", 0)
        for number in range(10_000):
            thing = things[number % len(things)]
            (record,) = edits.add([Edit(f"the {thing} is", thing, f"red {kill} {number}")])
            report("added", record.id)

    for kill in range(kills):
        process = Process(work)
        process.wait()
        time.sleep(draw.uniform(0.0, 0.2))
        process.kill()
        added += [id for action, id in process.acknowledged(killed=True) if action == "added"]
        loaded = load_edits(model, tmp_path, gate="learned", trained=trained)
        ids = [record.id for record in loaded.list(every=True)]
        assert set(added) <= set(ids) and len(set(added)) == len(added) and len(ids) - len(added) <= kill + 1
        (prepared,) = loaded.knowledge(["the house is"])
        newest = [record.id for record in loaded.list() if record.edit.subject == "house"]
        assert loaded.which(["the house is"]) == [newest] and (prepared is not None) == bool(newest)
        with torch.no_grad():
            assert torch.isfinite(model(**model.tokenize("the house is")).logits).all()
        loaded.store.close()
        model.editor = None
    assert len(added) > kills // 4, "the kills hit the work"
