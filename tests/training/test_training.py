"""Training: what learns from what, and that splitting, killing and resuming change nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DEPTH, make_model, make_prompts
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diekae.data.prompt import collate
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset, collect_to_disk
from diekae.training.objectives import OBJECTIVES, DifferenceObjective
from diekae.training.run import train
from diekae.training.trainer import NotFinite, last_whole_checkpoint

HERE = Path(__file__).parent
OPTIONS = {"epochs": 2, "batch_size": 8, "evaluations": 4, "calibration": 8, "logging_steps": 2}


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE.parent.parent / 'src'}",
        "OMP_NUM_THREADS": "1",
    }


def worker(folder: Path, options: dict[str, Any], *more: str, processes: int = 1) -> subprocess.Popen[str]:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=29511"]
    command = [*launch, str(HERE / "worker.py"), str(folder), json.dumps(options), *more]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=HERE
    )


def finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output[-3000:]
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "bank").glob("bank-*.safetensors")))


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("encoder", ["reader", "token"])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_gradients_reach_the_bank_alone(objective: str, encoder: str) -> None:
    model = make_model(encoder, layers=(1, 2))
    graphs: dict[int, bool] = {}
    blocks = list(model.decoder.model.layers)
    for number, block in enumerate(blocks):
        block.register_forward_hook(
            lambda _m, _a, out, n=number: graphs.update({n: graphs.get(n, False) or out.requires_grad})
        )
    heads: list[int] = []
    model.decoder.lm_head.register_forward_hook(lambda *_: heads.append(1))
    for parameter in model.decoder.parameters():
        parameter.requires_grad_(False)
    batch = collate(make_prompts(3), scope="all", anchor="shared")
    sums = OBJECTIVES[objective](model)(**batch)
    sums.loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in [model.bank.encoder.up.weight])
    assert all(parameter.grad is None for parameter in model.decoder.parameters())
    if objective == "difference":
        assert not any(graphs.values()) and not heads, "no graph through the decoder, no head"
        assert DEPTH - 1 not in graphs, "the decoder stops at the highest layer that is needed"
    else:
        assert not graphs[0], "below the lowest injection there is no graph"
        assert graphs[3] and heads


@pytest.mark.parametrize("rollout", ["teacher", "student"])
@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_encoders_do_not_influence_each_other_s_gradients(encoder: str, rollout: str) -> None:
    model = make_model(encoder, layers=(1, 2), rollout=rollout)
    batch = collate(make_prompts(3), scope="all", anchor="shared")
    found = DifferenceObjective(model).collect(batch)
    grads = []
    for changed in (False, True):
        targets = found.targets.clone()
        targets[1] += 5.0 * changed
        model.zero_grad()
        values = {**vars(found), "targets": targets}
        DifferenceObjective(model)(**values).loss.backward()
        grads.append([p.grad.clone() for p in model.bank.parameters() if p.grad is not None])
    for before, after in zip(*grads, strict=True):
        assert torch.equal(before[0], after[0])
    assert any(not torch.equal(before[1], after[1]) for before, after in zip(*grads, strict=True))


def test_a_padded_batch_is_the_sum_of_its_rows() -> None:
    for encoder in ("reader", "token"):
        for objective in OBJECTIVES.values():
            model = make_model(encoder, layers=(1, 3))
            prompts = make_prompts(4)
            together = objective(model)(**collate(prompts, scope="all", anchor="shared"))
            alone = [objective(model)(**collate([prompt], scope="all", anchor="shared")) for prompt in prompts]
            torch.testing.assert_close(together.loss, sum(one.loss for one in alone), rtol=1e-4, atol=1e-4)
            assert int(together.positions) == sum(int(one.positions) for one in alone)


def test_the_cache_holds_what_the_decoder_says_and_is_not_made_twice(tmp_path: Path) -> None:
    model = make_model("reader", layers=(1, 3))
    data = PromptDataset(make_prompts(12), scope="all", anchor="shared")
    objective = DifferenceObjective(model)
    runs: list[int] = []

    def gather(batch: Any) -> Any:
        runs.append(1)
        return objective.collect(batch)

    cached = collect_to_disk(tmp_path, data, gather, key={"a": 1}, limit_gb=1)
    live = objective(**data.collate(data.prompts))
    stored = objective(**cached.collate([cached[n] for n in range(len(cached))]))
    torch.testing.assert_close(live.loss, stored.loss, rtol=2e-2, atol=1e-3)
    assert live.positions == stored.positions
    collect_to_disk(tmp_path, data, gather, key={"a": 1}, limit_gb=1)
    assert len(runs) == 1
    shard = next(tmp_path.glob("*/shard-00000.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    collect_to_disk(tmp_path, data, gather, key={"a": 1}, limit_gb=1)
    assert len(runs) == 2, "a damaged shard is made again"
    collect_to_disk(tmp_path, data, gather, key={"a": 2}, limit_gb=1)
    assert len(runs) == 3, "another decoder has a cache of its own"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="cache_limit_gb"):
        collect_to_disk(tmp_path, data, gather, key={"a": 3}, limit_gb=1e-9)
    assert sorted(tmp_path.iterdir()) == before


def test_training_learns_and_logs(tmp_path: Path) -> None:
    model = make_model("reader", layers=(1, 3), effect=0.0)
    options = {**OPTIONS, "epochs": 30, "learning_rate": 1e-2, "start_learning_rate": 1e-3, "final_learning_rate": 1e-4}
    prompts = make_prompts(8)
    flags = [parameter.requires_grad for parameter in model.decoder.parameters()]
    log = train(model, prompts, prompts, TrainingConfig(**options), tmp_path)
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert [parameter.requires_grad for parameter in model.decoder.parameters()] == flags
    rates = [line["learning_rate"] for line in log if "learning_rate" in line]
    assert max(rates) == pytest.approx(1e-2, rel=0.05) and rates[-1] == pytest.approx(1e-4, rel=0.2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert any("unexplained/layer_3" in tag for tag in events.Tags()["scalars"])


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    prompts = make_prompts(24, seed=2)
    prompts = [p for p in prompts if len(p.knowledge) < 40]
    for objective in ("difference", "cross_entropy"):
        banks = []
        for name, size, steps in (("whole", 8, 1), ("parts", 2, 4)):
            model = make_model("reader", layers=(1, 3))
            config = {**OPTIONS, "objective": objective, "batch_size": size, "gradient_accumulation": steps}
            train(model, prompts[:8], prompts[:8], TrainingConfig(**config), tmp_path / objective / name)
            banks.append(weights(tmp_path / objective / name))
        assert_same(*banks, tolerance=2e-5)


def test_nan_stops_and_keeps_what_was_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("reader", layers=(1, 3))
    prompts = make_prompts(8)
    collect = DifferenceObjective.collect
    calls: list[int] = []

    def poisoned(self: Any, *args: Any) -> Any:
        found = collect(self, *args)
        calls.append(1)
        if len(calls) > 6:
            found.targets[0] = float("nan")
        return found

    monkeypatch.setattr(DifferenceObjective, "collect", poisoned)
    config = TrainingConfig(**{**OPTIONS, "epochs": 20, "evaluations": 20})
    with pytest.raises(NotFinite, match="no weight was changed"):
        train(model, prompts, prompts, config, tmp_path)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.bank.parameters())
    assert last_whole_checkpoint(tmp_path) is not None


def test_each_encoder_is_clipped_by_its_own_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diekae.training.trainer import BankTrainer

    norms: list[Any] = []
    original = BankTrainer._clip_grad_norm

    def clip(self: Any, wrapped: Any) -> Any:
        for parameter in wrapped.parameters():
            parameter.grad[0] *= 1e6
        before = [parameter.grad[1].clone() for parameter in wrapped.parameters()]
        result = original(self, wrapped)
        for number in (0, 1):
            squares = sum(parameter.grad[number].square().sum() for parameter in wrapped.parameters())
            norms.append(float(squares) ** 0.5)
        small = sum(g.square().sum() for g in before) ** 0.5 <= 1e3
        if small:
            assert all(torch.equal(a, p.grad[1]) for a, p in zip(before, wrapped.parameters(), strict=True))
        return result

    monkeypatch.setattr(BankTrainer, "_clip_grad_norm", clip)
    model = make_model("reader", layers=(1, 3))
    prompts = make_prompts(8)
    train(model, prompts, prompts, TrainingConfig(**{**OPTIONS, "max_steps": 2, "clip": 1e3}), tmp_path)
    assert norms[0] == pytest.approx(1e3, rel=1e-3) and norms[1] < 1e3


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, accumulation: int) -> None:
    options = {**OPTIONS, "batch_size": 4, "gradient_accumulation": accumulation, "epochs": 3, "evaluations": 5}
    finish(worker(tmp_path / "left alone", options))
    process = worker(tmp_path / "killed", options)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step") and int(line.split()[1]) >= 9 and list((tmp_path / "killed").glob("checkpoint-*")):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert not (tmp_path / "killed" / "bank").exists(), "killed before its end"
    newest = max((tmp_path / "killed").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    broken = newest.with_name("checkpoint-9999")
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    output = finish(worker(tmp_path / "killed", options, "resume"))
    assert "step 1\n" not in output, "it went on, it did not begin anew"
    assert_same(weights(tmp_path / "left alone"), weights(tmp_path / "killed"))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["difference", "cross_entropy"])
def test_two_processes_give_the_weights_of_one(tmp_path: Path, objective: str) -> None:
    options = {**OPTIONS, "objective": objective, "max_steps": 6, "patience": 2}
    finish(worker(tmp_path / "one", {**options, "batch_size": 8}))
    finish(worker(tmp_path / "two", {**options, "batch_size": 4}, processes=2))
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"), tolerance=2e-5)


@pytest.mark.slow
def test_two_processes_stop_early_together(tmp_path: Path) -> None:
    options = {**OPTIONS, "batch_size": 4, "epochs": 30, "evaluations": 30, "patience": 1, "learning_rate": 1.0}
    output = finish(worker(tmp_path, options, processes=2))
    steps = [int(number) for number in re.findall(r"step (\d+)", output)]  # two processes may share a line
    assert steps.count(max(steps)) == 2, "both stopped at the same step"
    assert max(steps) < 90, "before the end"
