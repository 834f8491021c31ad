"""Training runs: they learn, resume bit for bit, stop where they must, and say what they did."""

import dataclasses
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
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import tiny_prompts, tiny_run
from torch import Tensor
from transformers import TrainerCallback

from builders import DEPTH, make_decoder, make_model
from diekae.model import DiekaeModel
from diekae.training.cache import cache_examples
from diekae.training.checkpoints import last_whole_checkpoint
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import OBJECTIVES, DifferenceObjective
from diekae.training.run import build_trainer, train
from diekae.training.trainer import BankTrainer, NotFinite

SCRIPT = Path(__file__).with_name("tiny_run.py")


def weights(model: DiekaeModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.bank.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], within: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=within, msg=lambda text, n=name: f"{n}: {text}")


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


def started(folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a run in another process, with as many threads as this one, for sums depend on how they are split."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps({"folder": str(folder), **options})],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_training_lowers_the_loss_and_saves_the_bank(tmp_path: Path, encoder: str, objective: str) -> None:
    model, log = tiny_run(
        tmp_path,
        # In all layers the decoder's own attention would have nothing to learn.
        model={"encoder": encoder, "layers": (1, 3)},
        training={"objective": objective, "max_steps": 40, "learning_rate": 1e-2},
    )
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert len(losses) == 4
    assert losses[-1] < 0.95 * losses[0]
    loaded = DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder())
    assert_same(weights(loaded), weights(model))


def test_only_the_bank_is_trained(tmp_path: Path) -> None:
    decoder = make_decoder()
    decoder.train()
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    model, _ = tiny_run(tmp_path, model={"decoder": decoder}, training={"max_steps": 4})
    assert_same(before, dict(decoder.state_dict()))
    assert decoder.training and all(parameter.requires_grad for parameter in decoder.parameters())
    assert changed(weights(model), weights(make_model(effect=0.0)))


def test_the_saved_bank_is_the_best_of_all_validations(tmp_path: Path) -> None:
    model, log = tiny_run(
        tmp_path, training={"max_steps": 30, "evaluations": 6, "learning_rate": 0.3, "final_learning_rate": 0.3}
    )
    best = min((line for line in log if "eval_loss" in line), key=lambda line: line["eval_loss"])
    saved = load_file(tmp_path / f"checkpoint-{best['step']}" / "model.safetensors")
    assert_same({name.removeprefix("bank."): tensor for name, tensor in saved.items()}, weights(model))


@pytest.mark.parametrize("cache", [False, True])
def test_grouping_by_length_leaves_less_padding_and_no_example_out(tmp_path: Path, cache: bool) -> None:
    padding, examples = {}, {}
    for grouped in (False, True):
        seen: list[Tensor] = []

        class Watched(BankTrainer):
            def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Tensor:
                seen.append(inputs["knowledge_mask"])  # noqa: B023
                return super().compute_loss(model, inputs, *args, **options)

        model = make_model("reader", effect=0.0)
        objective = DifferenceObjective(model)
        options = {"cache": str(tmp_path / "cache")} if cache else {}
        config = TrainingConfig(batch_size=8, evaluations=1, group_by_length=grouped, **options)  # type: ignore[arg-type]
        prompts = [
            dataclasses.replace(prompt, knowledge=prompt.knowledge[:1] * (1 + 4 * (number % 16)))
            for number, prompt in enumerate(tiny_prompts(64))
        ]
        data: Any = [PromptDataset(prompts, scope="all", anchor="shared")] * 2
        if cache:
            data = [cache_examples(objective, data[0], config)] * 2
        trainer = build_trainer(objective, data, config, tmp_path / str(grouped), None, (), kind=Watched)
        trainer.train()
        padding[grouped] = sum(int((~mask).sum()) for mask in seen)
        examples[grouped] = sorted(length for mask in seen for length in mask.sum(1).tolist())
    assert padding[True] < 0.6 * padding[False]
    assert examples[True] == examples[False] == sorted(1 + 4 * (number % 16) for number in range(64))


@pytest.mark.slow
@pytest.mark.parametrize(("accumulation", "grouped"), [(1, False), (2, False), (1, True)])
def test_a_run_that_is_killed_and_resumed_ends_bit_for_bit_as_one_left_alone(
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


def break_state(checkpoint: Path) -> None:
    state = checkpoint / "trainer_state.json"
    state.write_text(state.read_text()[:50])
    (checkpoint / "model.safetensors").write_bytes(b"half")


def drop_state(checkpoint: Path) -> None:
    (checkpoint / "trainer_state.json").unlink()


def drop_all(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.parametrize("damage", [break_state, drop_state, drop_all])
def test_a_newest_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    training = {"max_steps": 20, "evaluations": 4}
    alone, _ = tiny_run(tmp_path, training=training)
    for _again in range(2):  # a second kill at the same step finds what the first one left
        damage(tmp_path / "checkpoint-20")
        assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-15")
        resumed, _ = tiny_run(tmp_path, model={"seed": 9}, training=training, resume=True)
        assert_same(weights(resumed), weights(alone))


@pytest.mark.parametrize("steps", [19, 20])  # the last step is validated, or only saved
def test_a_run_that_was_killed_after_its_last_step_makes_no_other(tmp_path: Path, steps: int) -> None:
    training = {"max_steps": steps, "evaluations": 4}
    alone, log = tiny_run(tmp_path, prompts=44, training=training)
    shutil.rmtree(tmp_path / "bank")
    for _again in range(2):
        resumed, rest = tiny_run(tmp_path, prompts=44, model={"seed": 9}, training=training, resume=True)
        assert_same(weights(resumed), weights(alone))
        assert_same(weights(DiekaeModel.from_pretrained(tmp_path / "bank", make_decoder())), weights(alone))
    assert not (tmp_path / f"checkpoint-{steps + 1}").exists()
    losses = [[line["eval_loss"] for line in lines if "eval_loss" in line] for lines in (log, rest)]
    assert losses[0] == losses[1]


def test_without_a_whole_checkpoint_a_run_begins_anew(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path / "none") is None
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-old").mkdir()
    assert last_whole_checkpoint(tmp_path) is None
    resumed, _ = tiny_run(tmp_path, training={"max_steps": 10}, resume=True)
    alone, _ = tiny_run(tmp_path / "alone", training={"max_steps": 10})
    assert_same(weights(resumed), weights(alone))


def test_checkpoints_are_taken_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


class Watch(TrainerCallback):
    """Keeps the weights and the learning rate of every step."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.rates: list[float] = []
        self.steps = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        bank = kwargs["model"].bank
        self.weights = {name: tensor.clone() for name, tensor in bank.state_dict().items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps = state.global_step


def test_a_poisoned_example_stops_the_run_before_it_touches_a_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = DifferenceObjective.collect, [0]

    def poisoned(self: DifferenceObjective, *args: Any) -> Any:
        found = whole(self, *args)
        if torch.is_grad_enabled():
            calls[0] += 1
        if calls[0] == 8:
            row, column = found.receives.nonzero()[3].tolist()
            targets = found.targets.clone()
            targets[2, row, column, 0] = float("nan")
            return dataclasses.replace(found, targets=targets)
        return found

    model, watch = make_model(effect=0.0), Watch()
    prompts, config = tiny_prompts(32), TrainingConfig(max_steps=20, batch_size=8, evaluations=4)
    with monkeypatch.context() as patched:
        patched.setattr(DifferenceObjective, "collect", poisoned)
        with pytest.raises(NotFinite, match=r"not finite at step 8 \(encoders \[2\]\)"):
            train(model, prompts, prompts[:8], config, tmp_path, callbacks=[watch])
    assert watch.steps == 7
    assert_same(weights(model), watch.weights)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(model).values())
    assert not (tmp_path / "bank").exists()
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())
    resumed, _ = tiny_run(tmp_path, training={"max_steps": 20}, resume=True)
    alone, _ = tiny_run(tmp_path / "alone", training={"max_steps": 20})
    assert_same(weights(resumed), weights(alone))


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_weight_that_is_infinite_stops_the_run_at_once(tmp_path: Path, objective: str, clip: float) -> None:
    model = make_model()
    with torch.no_grad():
        model.bank.get_parameter("encoder.up.weight")[1, 0, 0] = float("inf")
    before = {name: tensor.clone() for name, tensor in model.bank.named_parameters()}
    prompts = tiny_prompts(16)
    config = TrainingConfig(objective=objective, max_steps=4, batch_size=8, evaluations=1, clip=clip)
    with pytest.raises(NotFinite, match="step 1"):
        train(model, prompts, prompts, config, tmp_path)
    assert_same(before, dict(model.bank.named_parameters()))


def test_early_stopping_stops(tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "start_learning_rate": 1e-12, "final_learning_rate": 1e-12}
    _, log = tiny_run(tmp_path, training={"max_steps": 40, "evaluations": 8, "patience": 2, **still})
    assert [line["step"] for line in log if "eval_loss" in line] == [5, 10, 15]
    assert (tmp_path / "bank").is_dir()
    _, log = tiny_run(tmp_path / "free", training={"max_steps": 40, "evaluations": 8, **still})
    assert max(line["step"] for line in log) == 40


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_accumulation_is_one_large_batch(tmp_path: Path, objective: str) -> None:
    # Not from the identity: there the gradients below the up-projection are so small that Adam, which divides by
    # their size, makes rounding as large as a step.
    training, bank = {"objective": objective, "max_steps": 6}, {"effect": 0.05}
    whole, _ = tiny_run(tmp_path / "8", model=bank, training={**training, "batch_size": 8})
    parts, _ = tiny_run(
        tmp_path / "2x4", model=bank, training={**training, "batch_size": 4, "gradient_accumulation": 2}
    )
    assert_same(weights(parts), weights(whole), within=1e-6)
    assert changed(weights(whole), weights(make_model(effect=0.05)))


def test_tensorboard_holds_the_unexplained_share_of_every_layer(tmp_path: Path) -> None:
    _, log = tiny_run(tmp_path, training={"max_steps": 20})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    for part in ("train", "eval"):
        assert {f"{part}/unexplained/layer_{layer}" for layer in range(DEPTH)} <= set(names)
        assert f"{part}/loss" in names
    shares = [event.value for event in events.Scalars("eval/unexplained/layer_2")]
    assert shares == pytest.approx(
        [line["eval_unexplained/layer_2"] for line in log if "eval_unexplained/layer_2" in line]
    )
    assert 0 < shares[-1] < shares[0]


def test_an_untrained_bank_leaves_all_the_variance_of_what_it_was_calibrated_on(tmp_path: Path) -> None:
    rates = {"learning_rate": 1e-12, "start_learning_rate": 1e-12, "final_learning_rate": 0.0}
    _, log = tiny_run(tmp_path, prompts=8, training={"max_steps": 1, "evaluations": 1, **rates})
    shares = [line[f"eval_unexplained/layer_{layer}"] for line in log for layer in range(DEPTH) if "eval_loss" in line]
    assert shares == pytest.approx([1.0] * DEPTH, rel=1e-4)


def test_the_share_that_slots_of_some_layers_leave_is_measured_at_validations_and_falls(tmp_path: Path) -> None:
    model = {"encoder": "attention", "layers": (1, 3)}
    _, log = tiny_run(tmp_path, model=model, training={"max_steps": 40, "learning_rate": 1e-2})
    for layer in (1, 3):
        shares = [line[f"eval_unexplained/layer_{layer}"] for line in log if "eval_loss" in line]
        assert 0 < shares[-1] < 0.95 * shares[0]
    assert not any(name.startswith("unexplained") for line in log for name in line), "a run more for every step"


def test_a_monitor_is_logged_at_each_validation(tmp_path: Path) -> None:
    prompts = tiny_prompts(8)
    config = TrainingConfig(max_steps=4, batch_size=8, evaluations=2)
    log = train(make_model(), prompts, prompts, config, tmp_path, monitor=lambda: {"recovered": 0.25})
    assert [line["eval_recovered"] for line in log if "eval_recovered" in line] == [0.25, 0.25]


def test_the_schedule_starts_peaks_and_ends_where_it_should(tmp_path: Path) -> None:
    watch = Watch()
    tiny_run(
        tmp_path,
        training={
            "max_steps": 40,
            "warmup": 0.25,
            "start_learning_rate": 1e-4,
            "learning_rate": 2e-3,
            "final_learning_rate": 5e-5,
        },
        callbacks=(watch,),
    )
    rates = watch.rates
    assert len(rates) == 40
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(2e-3)
    assert rates[9] == pytest.approx(2e-3), "the last of ten steps of warming up"
    assert rates[-1] == pytest.approx(5e-5)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def make_trainer(folder: Path, encoder: str = "reader", **config: Any) -> tuple[BankTrainer, DiekaeModel]:
    model = make_model(encoder)
    data = PromptDataset(tiny_prompts(8), scope="all", anchor="shared")
    trainer = build_trainer(DifferenceObjective(model), [data, data], TrainingConfig(**config), folder, None, ())
    return trainer, model


def test_a_huge_gradient_of_one_encoder_leaves_the_others_untouched(tmp_path: Path) -> None:
    trainer, model = make_trainer(tmp_path, clip=1.0)
    parameters = dict(model.bank.named_parameters())
    draw = torch.Generator().manual_seed(0)
    for parameter in parameters.values():
        parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=draw)
        parameter.grad[1] *= 1e9
    before = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    norm = trainer._clip_grad_norm(trainer.model)
    others = [0, 2, 3]
    assert float(norm) > 1e5
    for name, parameter in parameters.items():
        assert torch.equal(parameter.grad[others], before[name][others]), name
    clipped = torch.cat([parameter.grad[1].flatten() for parameter in parameters.values()])
    assert float(clipped.norm()) == pytest.approx(1.0, rel=1e-4)
    large = before["encoder.up.weight"][1]
    torch.testing.assert_close(parameters["encoder.up.weight"].grad[1] / large, torch.ones_like(large) / norm)


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
def test_weight_decay_is_for_matrices_alone(tmp_path: Path, encoder: str) -> None:
    trainer, model = make_trainer(tmp_path, encoder, weight_decay=0.5)
    groups = {
        id(p): group["weight_decay"] for group in trainer.create_optimizer().param_groups for p in group["params"]
    }
    for name, parameter in model.bank.named_parameters():
        matrix = parameter.ndim > 2  # the first dimension counts encoders
        assert groups[id(parameter)] == (0.5 if matrix else 0.0), name


@pytest.mark.parametrize("cached", [False, True])
def test_bf16_trains_too(tmp_path: Path, cached: bool) -> None:
    training: dict[str, Any] = {"max_steps": 20, "precision": "bf16"}
    if cached:
        training["cache"] = str(tmp_path / "cache")
    model, log = tiny_run(tmp_path / "run", training=training)
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert losses[-1] < losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.bank.parameters())


@pytest.mark.parametrize("parts", [(0, 4), (4, 0)])
def test_nothing_to_train_on_is_said(tmp_path: Path, parts: tuple[int, int]) -> None:
    learn, check = (tiny_prompts(count) for count in parts)
    with pytest.raises(ValueError, match="at least one each"):
        train(make_model(), learn, check, TrainingConfig(), tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objective": "diference"}, "Did you mean 'difference'"),
        ({"precision": "fp8"}, "choose one of auto, fp32, bf16"),
        ({"batch_size": 0}, "batch_size=0 must be positive"),
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"epochs": "3,5"}, "epochs='3,5'"),
    ],
)
def test_a_wrong_training_value_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingConfig.from_dict(values)


def test_an_unknown_training_key_warns_with_the_nearest() -> None:
    with pytest.warns(UserWarning, match="'epoch' is not known and is ignored; did you mean 'epochs'"):
        TrainingConfig.from_dict({"epoch": 3})
