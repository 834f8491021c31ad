"""What each objective computes, where its gradients go, and what it leaves alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders import DEPTH, SMALL, hook_count, make_decoder, make_model, make_prompts
from diekae.data.prompt import Prompt, collate
from diekae.differences import collect
from diekae.inject.hookpoints import find_blocks, first_tensor
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.training.objectives import OBJECTIVES, DifferenceObjective, LossSums, parts_of, unexplained

BOTH_ENCODERS = pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
THROUGH = pytest.mark.parametrize("name", ["cross_entropy", "distill"])


def layout(model: DiekaeModel, prompts: list[Prompt]) -> Any:
    return collate(prompts, scope=model.config.scope, anchor=model.config.anchor)


def run_objective(model: DiekaeModel, prompts: list[Prompt], name: str = "difference") -> LossSums:
    sums: LossSums = OBJECTIVES[name](model)(**layout(model, prompts))
    return sums


def gradients(model: DiekaeModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.bank.named_parameters() if p.grad is not None}


class Runs:
    """Counts the forwards of modules, and notes whether each block's output hung in a graph."""

    def __init__(self, decoder: Any) -> None:
        self.blocks = [0] * DEPTH
        self.graphs: list[list[bool]] = [[] for _ in range(DEPTH)]
        self.outputs: list[list[Tensor]] = [[] for _ in range(DEPTH)]
        self.heads = 0
        for number, block in enumerate(find_blocks(decoder)):
            block.register_forward_hook(self._block(number), always_call=True)
            block.register_forward_pre_hook(self._started(number))
        decoder.get_output_embeddings().register_forward_pre_hook(self._head)

    def _started(self, number: int) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            self.blocks[number] += 1

        return hook

    def _block(self, number: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            states = first_tensor(output)
            self.graphs[number].append(states.requires_grad)
            if states.requires_grad:
                states.retain_grad()
                self.outputs[number].append(states)

        return hook

    def _head(self, _module: nn.Module, _args: Any) -> None:
        self.heads += 1


@BOTH_ENCODERS
@pytest.mark.parametrize("rollout", ["teacher", "student"])
def test_difference_makes_no_graph_in_the_decoder_and_runs_no_more_of_it_than_it_reads(
    encoder: str, rollout: str
) -> None:
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
def test_an_encoder_does_not_reach_the_gradients_of_another(encoder: str, kind: str) -> None:
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


@BOTH_ENCODERS
@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_a_padded_batch_is_the_sum_of_its_rows(encoder: str, name: str, anchor: str, scope: str) -> None:
    model, prompts = make_model(encoder, anchor=anchor, scope=scope), make_prompts(4)
    assert len({len(p.knowledge) + len(p.input) for p in prompts}) > 1, "nothing would be padded"
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            whole = run_objective(model, prompts, name)
            rows = [run_objective(model, [prompt], name) for prompt in prompts]
        for part in ("loss", "parts"):
            expected = sum(getattr(row, part) for row in rows)
            torch.testing.assert_close(getattr(whole, part), expected, rtol=1e-4, atol=1e-5)
        assert int(whole.positions) == sum(int(row.positions) for row in rows)
        assert whole.loss.item() > 0
    assert bool(whole.parts.any()) is (name == "difference")


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_count_is_what_forward_counts(name: str) -> None:
    model, batch = make_model(), layout(make_model(), make_prompts())
    objective = OBJECTIVES[name](model)
    assert int(objective.count(batch)) == int(objective(**batch).positions) > 0


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
def test_slots_of_all_layers_leave_no_difference_and_those_of_some_leave_a_part(
    rank: int | None, rollout: str, anchor: str
) -> None:
    sums = []
    for layers in ("all", (1, 3)):
        options = {"encoder_options": {"rank": rank, "mlp_width": 10}, "rollout": rollout, "anchor": anchor}
        model = make_model("attention", effect=0.0, layers=layers, **options)
        batch = layout(model, make_prompts(4))
        found = collect(model.decoder, model.points, batch)
        model.bank.calibrate(found.targets, found.receives)
        with torch.no_grad():
            sums.append(DifferenceObjective(model)(**batch))
    every, some = sums
    assert every.loss.item() / int(every.positions) < 1e-9
    assert unexplained(every.parts, float(every.positions)).max() < 1e-9
    shares = unexplained(some.parts, float(some.positions))
    assert bool((shares > 1e-3).all()), "the layers below have not seen K"


@torch.no_grad()
@pytest.mark.parametrize("rollout", ["teacher", "student"])
def test_the_error_of_slots_is_that_of_the_streams_behind_the_attention(rollout: str) -> None:
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
    sums = DifferenceObjective(model)(**batch)
    assert missing.abs().max() > 0.1
    torch.testing.assert_close(sums.loss, missing.square().mean(-1).sum(), rtol=1e-4, atol=1e-5)


def test_the_unexplained_share_is_that_of_the_variance() -> None:
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


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("rank", [None, 4, 0])
def test_gradients_reach_every_parameter_of_the_attention_encoder(rank: int | None, name: str) -> None:
    model = make_model("attention", layers=(1, 3), encoder_options={"rank": rank, "mlp_width": 10})
    if rank:  # the second map starts at zero, and would hide the first
        with torch.no_grad():
            for map in ("keys", "values"):
                getattr(model.bank.encoder, map).weight.normal_(0, 0.2)
    with frozen(model.decoder):
        run_objective(model, make_prompts(), name).loss.backward()
    found = gradients(model)
    assert set(found) == {parameter for parameter, _ in model.bank.named_parameters()}
    assert (rank == 0) is not any("keys" in parameter for parameter in found)
    for parameter, grad in found.items():
        assert all(float(grad[number].abs().max()) > 0 for number in range(2)), parameter
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


@BOTH_ENCODERS
@THROUGH
def test_gradients_pass_the_decoder_and_stay_out_of_it(encoder: str, name: str) -> None:
    model = make_model(encoder)
    with frozen(model.decoder):
        sums = run_objective(model, make_prompts(), name)
    sums.loss.backward()
    assert all(parameter.grad is None for parameter in model.decoder.parameters())
    found = gradients(model)
    assert set(found) == {parameter for parameter, _ in model.bank.named_parameters()}
    for number in range(DEPTH):
        assert float(found["encoder.up.weight"][number].abs().sum()) > 0, f"encoder {number}"


@BOTH_ENCODERS
@THROUGH
def test_blocks_below_the_lowest_injection_run_without_graph(encoder: str, name: str) -> None:
    decoder = make_decoder()
    runs = Runs(decoder)
    model = make_model(encoder, decoder=decoder, layers=(2,))
    with frozen(decoder):
        run_objective(model, make_prompts(), name)
    assert not any(runs.graphs[0] + runs.graphs[1])
    assert any(runs.graphs[3]), "nothing was injected"
    assert hook_count(decoder) == 2 * DEPTH + 1, "hooks were left behind"


@pytest.mark.parametrize("encoder", ["reader", "attention"])
def test_cross_entropy_of_an_untrained_bank_is_that_of_the_bare_or_of_the_prompted_decoder(encoder: str) -> None:
    model, prompts = make_model(encoder, effect=0.0), make_prompts()
    expected = 0.0
    for prompt in prompts:
        known = prompt.knowledge if encoder == "attention" else ()
        ids = prompt.anchor + known + prompt.input + prompt.target
        log = model.decoder(input_ids=torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        first = len(ids) - len(prompt.target)
        expected -= sum(float(log[first + i - 1, token]) for i, token in enumerate(prompt.target))
    assert run_objective(model, prompts, "cross_entropy").loss.item() == pytest.approx(expected, rel=1e-5)


def test_distill_of_a_perfect_run_is_zero() -> None:
    model = make_model(effect=0.0)
    prompts = [Prompt(p.anchor, (), p.input, p.target) for p in make_prompts()]  # D(K, x) is D(x) itself
    assert abs(run_objective(model, prompts, "distill").loss.item()) < 1e-5
    assert run_objective(model, make_prompts(), "distill").loss.item() > 0.1
    reading = make_model("attention", effect=0.0)
    assert abs(run_objective(reading, make_prompts(), "distill").loss.item()) < 1e-5
    assert (
        run_objective(make_model("attention", effect=0.0, layers=(1, 3)), make_prompts(), "distill").loss.item() > 0.1
    )


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
def test_distill_of_a_whole_input_is_that_of_an_input_of_one_token(encoder: str) -> None:
    model, prompts = make_model(encoder, layers=(1, 3)), make_prompts()
    objective: Any = OBJECTIVES["distill"](model, whole_input=True)
    batch = layout(model, prompts)
    short = [Prompt(p.anchor, p.knowledge, p.input[:1], p.input[1:] + p.target) for p in prompts]
    expected = run_objective(model, short, "distill")
    for given in (batch, {**batch, **objective.keep(batch)}):  # as it comes, and as a cache keeps it
        found = objective(**given)
        assert int(found.positions) == int(expected.positions)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
    assert int(objective.count(batch)) == sum(len(p.input) + len(p.target) - 1 for p in prompts)


@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_a_whole_input_keeps_every_target_token_whoever_receives(scope: str) -> None:
    model, prompts = make_model("attention", layers=(1, 3), scope=scope), make_prompts()
    objective: Any = OBJECTIVES["distill"](model, whole_input=True)
    batch = layout(model, prompts)
    assert int(objective.count(batch)) == sum(len(p.input) + len(p.target) - 1 for p in prompts)
    assert int(objective(**batch).positions) == int(objective.count(batch))


@BOTH_ENCODERS
def test_student_rollout_on_differences_that_are_exactly_zero(encoder: str) -> None:
    model = make_model(encoder, effect=0.0, rollout="student")
    prompts = [Prompt(p.anchor, (), p.input, p.target) for p in make_prompts()]
    objective, batch = DifferenceObjective(model), layout(model, prompts)
    found = collect(model.decoder, model.points, batch) if encoder == "attention" else objective.collect(batch)
    assert torch.equal(found.targets, torch.zeros_like(found.targets))
    model.bank.calibrate(found.targets, found.receives)
    assert torch.equal(model.bank.scale, torch.ones(DEPTH)), "a layer without differences must not be divided by zero"
    sums = objective(**batch)
    # An anchor among the slots is the one it takes the place of, in a product of another order.
    assert sums.loss.item() == pytest.approx(0.0, abs=1e-9 if encoder == "attention" else 0.0)
    sums.loss.backward()
    assert all(bool(torch.isfinite(grad).all()) for grad in gradients(model).values())


def test_a_student_that_injects_nothing_misses_the_whole_difference_of_untouched_runs() -> None:
    model = make_model(effect=0.0)
    batch = layout(model, make_prompts())

    def nothing(known: Tensor) -> Any:
        return lambda number, stream: torch.zeros_like(stream)

    student = collect(model.decoder, model.points, batch, student=nothing)
    apart = collect(model.decoder, model.points, batch, kind="independent")
    teacher = collect(model.decoder, model.points, batch)
    where = batch["receives"]
    torch.testing.assert_close(student.targets[:, where], apart.targets[:, where])
    assert not torch.allclose(teacher.targets[1:, where], apart.targets[1:, where], atol=1e-2)


def test_a_student_that_knows_the_answer_sees_the_teachers_states() -> None:
    model = make_model()
    batch = layout(model, make_prompts())
    teacher = collect(model.decoder, model.points, batch)
    student = collect(
        model.decoder, model.points, batch, student=lambda known: lambda number, stream: teacher.targets[number]
    )
    where = batch["input_mask"]
    torch.testing.assert_close(student.states[:, where], teacher.states[:, where], rtol=1e-4, atol=1e-4)
    other = DifferenceObjective(make_model(rollout="student")).collect(batch)
    assert not torch.allclose(other.states[1:, where], teacher.states[1:, where], atol=1e-2)


def test_frozen_puts_everything_back_after_an_exception() -> None:
    decoder = make_decoder()
    decoder.train()
    find_blocks(decoder)[1].eval()
    first = next(decoder.parameters())
    first.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in decoder.parameters()]
    modes = [module.training for module in decoder.modules()]
    with pytest.raises(KeyError), frozen(decoder):
        assert not any(parameter.requires_grad for parameter in decoder.parameters())
        assert not any(module.training for module in decoder.modules())
        raise KeyError
    assert [parameter.requires_grad for parameter in decoder.parameters()] == flags
    assert [module.training for module in decoder.modules()] == modes
    assert any(flags) and not all(flags) and any(modes) and not all(modes)


def test_calibrate_gives_zero_mean_and_unit_root_mean_square() -> None:
    model = make_model()
    found = DifferenceObjective(model).collect(layout(model, make_prompts(4)))
    model.bank.calibrate(found.targets, found.receives)
    kept = (found.targets[:, found.receives] - model.bank.bias[:, None]) / model.bank.scale[:, None, None]
    torch.testing.assert_close(kept.mean(1), torch.zeros_like(model.bank.bias), rtol=0, atol=1e-5)
    torch.testing.assert_close(kept.square().mean((1, 2)).sqrt(), torch.ones(DEPTH))
    assert float(found.targets[:, found.receives].mean(1).abs().max()) > 1e-3, "the centre was zero before"
