"""The objective `difference`: its loss, its rollouts and its calibration."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from objective_runs import ENCODERS, Runs, gradients, layout, run_objective
from torch import Tensor

from builders import DEPTH, SMALL, make_decoder, make_model, make_prompts
from diekae.data.prompt import Prompt
from diekae.inject.contexts import HookContext
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import apply_hook
from diekae.training.differences import collect
from diekae.training.objectives import DifferenceObjective, difference_objective, parts_of, unexplained


@ENCODERS
@pytest.mark.parametrize("rollout", ["teacher", "student"])
def test_difference_makes_no_graph_in_the_decoder_and_stops_at_the_last_hookpoint(encoder: str, rollout: str) -> None:
    decoder = make_decoder()
    model = make_model(encoder, decoder=decoder, layers=(0, 2), rollout=rollout)
    runs = Runs(decoder)
    assert all(parameter.requires_grad for parameter in decoder.parameters()), "the test would show nothing"
    if encoder == "attention":  # the decoder's own attention is part of the graph, and so must be frozen
        decoder.requires_grad_(False)
    run_objective(model, make_prompts()).loss.backward()
    assert runs.blocks == [2, 2, 2, 0], "two runs, up to the last hookpoint"
    assert runs.heads == 0
    if encoder == "attention":  # its slots are read by the decoder itself, and each layer's gradient ends there
        assert any(runs.outputs)
        assert all(states.grad is None for outputs in runs.outputs for states in outputs)
    else:
        assert not any(flag for flags in runs.graphs for flag in flags)
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert all(bool(grad.abs().sum() > 0) for name, grad in gradients(model).items() if "null" not in name)


@pytest.mark.parametrize(
    ("encoder", "kind"),
    [
        (name, kind)
        for name in SMALL
        for kind in ("sequential", "independent")
        if (name, kind) != ("attention", "independent")
    ],
)
def test_an_encoder_does_not_change_the_gradients_of_another(encoder: str, kind: str) -> None:
    model = make_model(encoder, difference=kind)
    run_objective(model, make_prompts()).loss.backward()
    before = gradients(model)
    model.bank.zero_grad()
    with torch.no_grad():
        for parameter in model.bank.parameters():
            parameter[1] += torch.randn_like(parameter[1])
    run_objective(model, make_prompts()).loss.backward()
    after = gradients(model)
    others = [0, 2, 3]
    for name, grad in before.items():
        # The streams of D(K, x) are restored by adding what is missing, which is rounded.
        rounding = 1e-3 * float(grad.abs().max()) if encoder == "attention" else 0.0
        torch.testing.assert_close(grad[others], after[name][others], rtol=0, atol=rounding)
    assert not torch.equal(before["encoder.up.weight"][1], after["encoder.up.weight"][1])


@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_the_loss_is_the_mean_squared_error_in_units_of_the_scale(encoder: str) -> None:
    model, prompts = make_model(encoder, effect=0.0), make_prompts()
    objective, batch = DifferenceObjective(model), layout(model, prompts)
    found = objective.collect(batch)
    model.bank.calibrate(found.targets, found.receives)
    sums = objective(**batch)
    # An untrained bank says the centre everywhere, so it explains nothing: its error is the spread itself.
    shares = unexplained(sums.parts, float(sums.positions))
    torch.testing.assert_close(shares, torch.ones(DEPTH, dtype=torch.float64), rtol=1e-5, atol=0)
    expected = found.targets[:, found.receives]
    expected = (expected - model.bank.bias[:, None]) / model.bank.scale[:, None, None]
    torch.testing.assert_close(sums.loss, expected.square().mean(-1).sum())


@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("rollout", ["teacher", "student"])
@pytest.mark.parametrize("rank", [None, 4, 0])
def test_slots_in_all_layers_leave_no_error_and_slots_in_some_leave_an_error(
    rank: int | None, rollout: str, anchor: str
) -> None:
    sums = []
    for layers in ("all", (1, 3)):
        options = {"encoder_options": {"rank": rank, "mlp_width": 10}, "rollout": rollout, "anchor": anchor}
        model = make_model("attention", effect=0.0, layers=layers, **options)
        batch = layout(model, make_prompts(4))
        found = collect(model.decoder, model.hookpoints, batch)
        model.bank.calibrate(found.targets, found.receives)
        with torch.no_grad():
            sums.append(difference_objective(model)(**batch))
    every, some = sums
    assert every.loss.item() / int(every.positions) < 1e-9
    assert unexplained(every.parts, float(every.positions)).max() < 1e-9
    shares = unexplained(some.parts, float(some.positions))
    assert bool((shares > 1e-3).all()), "the layers below have not seen K"


@torch.no_grad()
@pytest.mark.parametrize("rollout", ["teacher", "student"])
def test_the_error_of_slots_is_that_of_the_streams_after_the_attention(rollout: str) -> None:
    """By hand: layer 1 alone, whose stream has missed what layer 0 would have read, and what its own MLP adds."""
    model = make_model("attention", layers=(1,), rollout=rollout)
    prompt = make_prompts(1)[0]
    batch = layout(model, [prompt])
    block, streams = find_blocks(model.decoder)[1], list[Tensor]()
    with block.post_attention_layernorm.register_forward_pre_hook(lambda _m, args: streams.append(args[0])):
        model.decoder(input_ids=batch["full_ids"])
        (prepared,) = model.prepare_prompts([prompt])
        model(batch["input_ids"], knowledge=prepared, injection_mask=batch["receives"])
    whole, own = streams[0], streams[-1]
    columns = batch["receives"][0].nonzero()[:, 0]
    model.bank.scale.fill_(1.5)
    missing = (whole[0, columns + batch["offset"]] - own[0, columns]) / 1.5
    sums = difference_objective(model)(**batch)
    assert missing.abs().max() > 0.1
    torch.testing.assert_close(sums.loss, missing.square().mean(-1).sum(), rtol=1e-4, atol=1e-5)


def test_the_unexplained_share_is_a_share_of_the_variance() -> None:
    draw = np.random.default_rng(0)
    goal = (
        draw.normal(size=(3, 50, 7)) * np.array([1.0, 5.0, 0.1])[:, None, None]
        + np.array([0.0, 9.0, 2.0])[:, None, None]
    )
    left = goal - draw.normal(size=(3, 50, 7))
    parts = torch.zeros(3, 2 + 7, dtype=torch.float64)
    for batch in (slice(0, 11), slice(11, 12), slice(12, 50)):
        errors = torch.tensor((left[:, batch] ** 2).mean(-1).sum(1))
        parts += parts_of(errors, torch.tensor(goal[:, batch]).float())
    want = (left**2).sum((1, 2)) / ((goal - goal.mean(1, keepdims=True)) ** 2).sum((1, 2))
    found = unexplained(parts, 50)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-4)
    assert unexplained(parts, 1) is None, "one target has no variance"
    assert unexplained(torch.zeros(3, 9, dtype=torch.float64), 50) is None, "no target has none"


@ENCODERS
def test_differences_of_exactly_zero_give_a_loss_of_zero(encoder: str) -> None:
    model = make_model(encoder, effect=0.0, rollout="student")
    prompts = [Prompt(p.anchor, (), p.input, p.target) for p in make_prompts()]
    objective, batch = difference_objective(model), layout(model, prompts)
    found = collect(model.decoder, model.hookpoints, batch) if encoder == "attention" else objective.collect(batch)
    assert torch.equal(found.targets, torch.zeros_like(found.targets))
    model.bank.calibrate(found.targets, found.receives)
    assert torch.equal(model.bank.scale, torch.ones(DEPTH)), "a layer without differences must not be divided by zero"
    sums = objective(**batch)
    # An anchor among the slots is the one it takes the place of, in a product of another order.
    assert sums.loss.item() == pytest.approx(0.0, abs=1e-9 if encoder == "attention" else 0.0)
    sums.loss.backward()
    assert all(bool(torch.isfinite(grad).all()) for grad in gradients(model).values())


def test_a_student_that_injects_nothing_sees_independent_differences() -> None:
    model = make_model(effect=0.0)
    batch = layout(model, make_prompts())

    student = collect(model.decoder, model.hookpoints, batch, student=lambda _states: nullcontext())
    apart = collect(model.decoder, model.hookpoints, batch, kind="independent")
    teacher = collect(model.decoder, model.hookpoints, batch)
    where = batch["receives"]
    torch.testing.assert_close(student.targets[:, where], apart.targets[:, where])
    assert not torch.allclose(teacher.targets[1:, where], apart.targets[1:, where], atol=1e-2)


def test_a_student_that_injects_the_targets_sees_the_teachers_states() -> None:
    model = make_model()
    batch = layout(model, make_prompts())
    teacher = collect(model.decoder, model.hookpoints, batch)

    def inject(_states: Tensor) -> HookContext:
        received = torch.where(batch["receives"][..., None], teacher.targets, 0.0)
        return apply_hook(model.hookpoints, lambda layer, _stream, _output: received[model.layers.index(layer)])

    student = collect(model.decoder, model.hookpoints, batch, student=inject)
    where = batch["input_mask"]
    torch.testing.assert_close(student.states[:, where], teacher.states[:, where], rtol=1e-4, atol=1e-4)
    other = DifferenceObjective(make_model(rollout="student")).collect(batch)
    assert not torch.allclose(other.states[1:, where], teacher.states[1:, where], atol=1e-2)


def test_calibrate_gives_zero_mean_and_unit_root_mean_square() -> None:
    model = make_model()
    found = DifferenceObjective(model).collect(layout(model, make_prompts(4)))
    model.bank.calibrate(found.targets, found.receives)
    kept = (found.targets[:, found.receives] - model.bank.bias[:, None]) / model.bank.scale[:, None, None]
    torch.testing.assert_close(kept.mean(1), torch.zeros_like(model.bank.bias), rtol=0, atol=1e-5)
    torch.testing.assert_close(kept.square().mean((1, 2)).sqrt(), torch.ones(DEPTH))
    assert float(found.targets[:, found.receives].mean(1).abs().max()) > 1e-3, "the centre was zero before"
