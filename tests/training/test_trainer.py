"""The trainer: gradients that are not finite, clipping, accumulation, the schedule and weight decay."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import assert_same, changed, tiny_prompts, tiny_run, weights
from torch import Tensor
from transformers import TrainerCallback

from builders import make_model
from diekae.model import DiekaeModel
from diekae.training.checkpoints import last_whole_checkpoint
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import OBJECTIVES, DifferenceObjective
from diekae.training.run import build_trainer, train
from diekae.training.trainer import BankTrainer, NotFinite


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


def test_a_nan_target_stops_the_run_before_it_changes_a_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_an_infinite_weight_stops_the_run_at_the_first_step(tmp_path: Path, objective: str, clip: float) -> None:
    model = make_model()
    with torch.no_grad():
        model.bank.get_parameter("encoder.up.weight")[1, 0, 0] = float("inf")
    before = {name: tensor.clone() for name, tensor in model.bank.named_parameters()}
    prompts = tiny_prompts(16)
    config = TrainingConfig(objective=objective, max_steps=4, batch_size=8, evaluations=1, clip=clip)
    with pytest.raises(NotFinite, match="step 1"):
        train(model, prompts, prompts, config, tmp_path)
    assert_same(before, dict(model.bank.named_parameters()))


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_accumulation_equals_one_large_batch(tmp_path: Path, objective: str) -> None:
    # Not from the identity: there the gradients below the up-projection are so small that Adam, which divides by
    # their size, makes rounding as large as a step.
    training, bank = {"objective": objective, "max_steps": 6}, {"effect": 0.05}
    whole, _ = tiny_run(tmp_path / "8", model=bank, training={**training, "batch_size": 8})
    parts, _ = tiny_run(
        tmp_path / "2x4", model=bank, training={**training, "batch_size": 4, "gradient_accumulation": 2}
    )
    assert_same(weights(parts), weights(whole), within=1e-6)
    assert changed(weights(whole), weights(make_model(effect=0.05)))


def test_the_schedule_has_the_configured_start_peak_and_end(tmp_path: Path) -> None:
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


def test_clipping_one_encoder_leaves_the_gradients_of_the_others_unchanged(tmp_path: Path) -> None:
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
def test_only_matrices_decay(tmp_path: Path, encoder: str) -> None:
    trainer, model = make_trainer(tmp_path, encoder, weight_decay=0.5)
    groups = {
        id(p): group["weight_decay"] for group in trainer.create_optimizer().param_groups for p in group["params"]
    }
    for name, parameter in model.bank.named_parameters():
        matrix = parameter.ndim > 2  # the first dimension counts encoders
        assert groups[id(parameter)] == (0.5 if matrix else 0.0), name
