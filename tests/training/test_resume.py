"""Runs that are interrupted and resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_run import assert_same, tiny_run, weights

from builders import make_decoder
from diekae.model import DiekaeModel
from diekae.training.checkpoints import MANIFEST_NAME, last_whole_checkpoint, write_manifest

SCRIPT = Path(__file__).with_name("tiny_run.py")


def started(folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a run in another process, with as many threads as this one, for sums depend on how they are split."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps({"folder": str(folder), **options})],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("accumulation", "grouped"), [(1, False), (2, False), (1, True)])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, accumulation: int, grouped: bool
) -> None:
    # 44 examples, so that epochs end between batches, and a checkpoint stands in the middle of one.
    training = {
        "max_steps": 40,
        "evaluations": 8,
        "batch_size": 8 // accumulation,
        "gradient_accumulation": accumulation,
        "group_by_length": grouped,
    }
    alone, log = tiny_run(tmp_path / "alone", prompts=44, training=training)
    folder = tmp_path / "killed"
    process = started(folder, prompts=44, training=training, pause=0.05)
    try:
        while last_whole_checkpoint(folder) is None:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.01)
        wait = random.SystemRandom().uniform(0.0, 1.0)
        time.sleep(wait)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    print(f"killed {wait:.3f} s after the first checkpoint, at {last_whole_checkpoint(folder)}")
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    assert not (folder / "bank").exists()
    # Another seed: whatever is right afterwards came from the checkpoint.
    resumed, rest = tiny_run(folder, prompts=44, model={"seed": 9}, training=training, resume=True)
    assert_same(weights(resumed), weights(alone))
    ends = (load_file(run / "checkpoint-40" / "model.safetensors") for run in (folder, tmp_path / "alone"))
    assert_same(*ends)
    losses = [[line["eval_loss"] for line in lines if "eval_loss" in line] for lines in (log, rest)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("accumulation", "grouped"), [(1, False), (1, True), (2, True)])
def test_a_run_stopped_at_any_checkpoint_is_resumed_bit_for_bit(
    tmp_path: Path, accumulation: int, grouped: bool
) -> None:
    # Epochs of 5 steps and checkpoints every 3: all but one are in the middle of an epoch.
    training = {
        "max_steps": 18,
        "evaluations": 6,
        "batch_size": 8 // accumulation,
        "gradient_accumulation": accumulation,
        "group_by_length": grouped,
    }
    alone, _ = tiny_run(tmp_path / "alone", prompts=44, training=training)
    for step in (6, 9, 15):
        folder = tmp_path / str(step)
        tiny_run(folder, prompts=44, training=training, stop_at=step)
        assert last_whole_checkpoint(folder) == str(folder / f"checkpoint-{step}")
        resumed, _ = tiny_run(folder, prompts=44, model={"seed": 9}, training=training, resume=True)
        assert_same(weights(resumed), weights(alone))


def break_state(checkpoint: Path) -> None:
    state = checkpoint / "trainer_state.json"
    state.write_text(state.read_text()[:50])
    (checkpoint / "model.safetensors").write_bytes(b"half")


def flip(name: str) -> Callable[[Path], None]:
    """Damage that changes one bit in the middle of a file."""

    def damage(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 2] ^= 1
        (checkpoint / name).write_bytes(content)

    return damage


def cut(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: os.truncate(checkpoint / name, (checkpoint / name).stat().st_size - 1)


def drop(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def drop_all(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json")


@pytest.mark.parametrize("damage", [break_state, drop_all])
def test_a_run_with_a_damaged_newest_checkpoint_continues_from_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    training = {"max_steps": 20, "evaluations": 4}
    alone, _ = tiny_run(tmp_path, training=training)
    for _attempt in range(2):  # a second kill at the same step finds what the first one left
        damage(tmp_path / "checkpoint-20")
        with pytest.warns(UserWarning, match="checkpoint-20 cannot be used.*continuing from checkpoint-15"):
            resumed, _ = tiny_run(tmp_path, model={"seed": 9}, training=training, resume=True)
        assert_same(weights(resumed), weights(alone))
        assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20"), "it was written again"


def test_damage_of_any_file_of_a_checkpoint_is_recognised(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tiny_run(tmp_path / "run", training={"max_steps": 4, "evaluations": 2})
    newest = tmp_path / "run" / "checkpoint-4"
    assert {path.name for path in newest.iterdir()} >= {*CHECKPOINT_FILES, MANIFEST_NAME}
    tries = 0
    for name in (path.name for path in newest.iterdir()):
        # The manifest without its last line break says the same.
        for damage in (flip, drop) if name == MANIFEST_NAME else (flip, cut, drop):
            shutil.copytree(newest, tmp_path / "copy")
            damage(name)(newest)
            with pytest.warns(UserWarning, match="checkpoint-4 cannot be used"):
                assert last_whole_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-2"), (damage, name)
            shutil.rmtree(newest)
            (tmp_path / "copy").rename(newest)
            tries += 1
    record_property("tries", tries)
    assert last_whole_checkpoint(tmp_path / "run") == str(newest)


def test_every_flipped_bit_of_a_checkpoint_is_noticed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tiny_run(tmp_path, training={"max_steps": 4, "evaluations": 2})
    newest, draw = tmp_path / "checkpoint-4", random.Random(0)
    contents = {path: path.read_bytes() for path in sorted(newest.iterdir())}
    assert len(contents) > len(CHECKPOINT_FILES)
    tries = 0
    for path, content in contents.items():
        for _ in range(int(os.environ.get("FUZZ_EXAMPLES", "20"))):
            changed, place = bytearray(content), draw.randrange(len(content))
            changed[place] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            with pytest.warns(UserWarning, match="checkpoint-4 cannot be used"):
                assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2"), (path.name, place)
            tries += 1
        path.write_bytes(content)
    record_property("tries", tries)
    assert last_whole_checkpoint(tmp_path) == str(newest)


def test_a_damaged_best_checkpoint_is_reported(tmp_path: Path) -> None:
    # The rate is so high that the first validation is the best one.
    rates = {"learning_rate": 0.5, "final_learning_rate": 0.5, "start_learning_rate": 1e-6, "warmup": 0.25}
    training = {"max_steps": 20, "evaluations": 4, **rates}
    _, log = tiny_run(tmp_path, training=training, stop_at=10)
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert losses[0] < losses[1], "otherwise this test shows nothing"
    flip("model.safetensors")(tmp_path / "checkpoint-5")
    with pytest.warns(UserWarning, match="the best checkpoint so far, of step 5, is missing or damaged"):
        resumed, log = tiny_run(tmp_path, training=training, resume=True)
    best = min((line for line in log if line.get("step", 0) > 10 and "eval_loss" in line), key=lambda x: x["eval_loss"])
    saved = load_file(tmp_path / f"checkpoint-{best['step']}" / "model.safetensors")
    assert_same({name.removeprefix("bank."): tensor for name, tensor in saved.items()}, weights(resumed))
    flip("model.safetensors")(tmp_path / f"checkpoint-{best['step']}")
    if best["step"] != 20:
        with pytest.raises(FileNotFoundError, match="is missing or damaged.*put it back"):
            tiny_run(tmp_path, training=training, resume=True)


@pytest.mark.parametrize("steps", [19, 20])  # the last step is validated, or only saved
def test_a_run_killed_after_its_last_step_makes_no_more_steps(tmp_path: Path, steps: int) -> None:
    training = {"max_steps": steps, "evaluations": 4}
    alone, log = tiny_run(tmp_path, prompts=44, training=training)
    shutil.rmtree(tmp_path / "bank")
    for _attempt in range(2):
        resumed, rest = tiny_run(tmp_path, prompts=44, model={"seed": 9}, training=training, resume=True)
        assert_same(weights(resumed), weights(alone))
        assert_same(weights(DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder())), weights(alone))
    assert not (tmp_path / f"checkpoint-{steps + 1}").exists()
    losses = [[line["eval_loss"] for line in lines if "eval_loss" in line] for lines in (log, rest)]
    assert losses[0] == losses[1]


STILL = {"learning_rate": 1e-12, "start_learning_rate": 1e-12, "final_learning_rate": 1e-12}


def test_a_run_that_was_stopped_early_makes_no_more_steps(tmp_path: Path) -> None:
    training = {"max_steps": 40, "evaluations": 8, "patience": 2, **STILL}
    alone, log = tiny_run(tmp_path, training=training)
    assert max(line["step"] for line in log) == 15
    before = {path.name: path.read_bytes() for path in (tmp_path / "bank").iterdir()}
    for _attempt in range(2):
        resumed, rest = tiny_run(tmp_path, model={"seed": 9}, training=training, resume=True)
        assert_same(weights(resumed), weights(alone))
        assert max(line["step"] for line in rest) == 15
        assert {path.name: path.read_bytes() for path in (tmp_path / "bank").iterdir()} == before
    more, rest = tiny_run(tmp_path, training={**training, "patience": 3}, resume=True)
    assert max(line["step"] for line in rest) == 20, "a run with more patience goes on"


def test_validations_without_progress_are_counted_over_a_resumption(tmp_path: Path) -> None:
    training = {"max_steps": 40, "evaluations": 8, "patience": 3, **STILL}
    tiny_run(tmp_path, training=training, stop_at=15)
    _, log = tiny_run(tmp_path, training=training, resume=True)
    assert [line["step"] for line in log if "eval_loss" in line] == [5, 10, 15, 20]


def test_without_a_whole_checkpoint_a_run_starts_again(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path / "none") is None
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-old").mkdir()
    with pytest.warns(UserWarning, match="checkpoint-5 cannot be used.*there is no whole checkpoint"):
        resumed, _ = tiny_run(tmp_path, training={"max_steps": 10}, resume=True)
    alone, _ = tiny_run(tmp_path / "alone", training={"max_steps": 10})
    assert_same(weights(resumed), weights(alone))


def test_the_newest_checkpoint_has_the_greatest_step(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        write_manifest(tmp_path / f"checkpoint-{step}")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize("writer", ["torch.save", "safetensors"])
def test_a_full_disk_ends_a_run_with_a_sentence_and_loses_nothing(
    tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_steps": 20, "evaluations": 4}
    alone, _ = tiny_run(tmp_path / "alone", training=training)
    module, name = (torch, "save") if writer == "torch.save" else (transformers.trainer.safetensors.torch, "save_file")
    # As these libraries report it: RuntimeError and SafetensorError.
    error = RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    if writer == "safetensors":
        error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    whole = getattr(module, name)

    def fail(content: Any, path: Any, *rest: Any, **options: Any) -> None:
        if "checkpoint-10" not in str(path):
            return whole(content, path, *rest, **options)
        Path(path).write_bytes(b"the first part")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(module, name, fail)
        with pytest.raises(OSError, match="checkpoint-10' cannot be written.*not full. Free some space and resume"):
            tiny_run(tmp_path / "full", training=training)
    with pytest.warns(UserWarning, match="checkpoint-10 cannot be used.*continuing from checkpoint-5"):
        resumed, _ = tiny_run(tmp_path / "full", model={"seed": 9}, training=training, resume=True)
    assert_same(weights(resumed), weights(alone))
