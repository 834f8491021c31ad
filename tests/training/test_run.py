"""Training runs: they lower the loss, change only the bank, and log what they should."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import assert_same, changed, tiny_prompts, tiny_run, weights
from torch import Tensor

from builders import DEPTH, make_decoder, make_model
from diekae.model import DiekaeModel
from diekae.training.cache import cache_examples
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import OBJECTIVES, DifferenceObjective
from diekae.training.run import build_trainer, train
from diekae.training.trainer import BankTrainer


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
def test_grouping_by_length_saves_padding_and_leaves_out_no_example(tmp_path: Path, cache: bool) -> None:
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


def test_patience_stops_a_run_early(tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "start_learning_rate": 1e-12, "final_learning_rate": 1e-12}
    _, log = tiny_run(tmp_path, training={"max_steps": 40, "evaluations": 8, "patience": 2, **still})
    assert [line["step"] for line in log if "eval_loss" in line] == [5, 10, 15]
    assert (tmp_path / "bank").is_dir()
    _, log = tiny_run(tmp_path / "free", training={"max_steps": 40, "evaluations": 8, **still})
    assert max(line["step"] for line in log) == 40


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


def test_an_untrained_bank_explains_none_of_the_variance_of_its_calibration_examples(tmp_path: Path) -> None:
    rates = {"learning_rate": 1e-12, "start_learning_rate": 1e-12, "final_learning_rate": 0.0}
    _, log = tiny_run(tmp_path, prompts=8, training={"max_steps": 1, "evaluations": 1, **rates})
    shares = [line[f"eval_unexplained/layer_{layer}"] for line in log for layer in range(DEPTH) if "eval_loss" in line]
    assert shares == pytest.approx([1.0] * DEPTH, rel=1e-4)


def test_the_unexplained_share_of_slots_is_measured_at_validations_and_falls(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("cached", [False, True])
def test_training_in_bf16_lowers_the_loss(tmp_path: Path, cached: bool) -> None:
    training: dict[str, Any] = {"max_steps": 20, "precision": "bf16"}
    if cached:
        training["cache"] = str(tmp_path / "cache")
    model, log = tiny_run(tmp_path / "run", training=training)
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert losses[-1] < losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.bank.parameters())


@pytest.mark.parametrize("parts", [(0, 4), (4, 0)])
def test_a_part_without_examples_is_refused(tmp_path: Path, parts: tuple[int, int]) -> None:
    learn, check = (tiny_prompts(count) for count in parts)
    with pytest.raises(ValueError, match="at least one each"):
        train(make_model(), learn, check, TrainingConfig(), tmp_path)
