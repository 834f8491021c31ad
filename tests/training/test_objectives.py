"""What each objective computes, where its gradients go, and what it leaves alone."""

from typing import Any

import pytest
import torch
from builders import DEPTH, hook_count, make_decoder, make_model, make_prompts
from torch import Tensor, nn

from diekae.data.prompt import Prompt, collate
from diekae.differences import collect
from diekae.inject.hookpoints import find_blocks, first_tensor
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.training.objectives import OBJECTIVES, DifferenceObjective, Sums

BOTH_ENCODERS = pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
THROUGH = pytest.mark.parametrize("name", ["cross_entropy", "distill"])


def layout(model: DiekaeModel, prompts: list[Prompt]) -> Any:
    return collate(prompts, scope=model.config.scope, anchor=model.config.anchor)


def run_objective(model: DiekaeModel, prompts: list[Prompt], name: str = "difference") -> Sums:
    sums: Sums = OBJECTIVES[name](model)(**layout(model, prompts))
    return sums


def gradients(model: DiekaeModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.bank.named_parameters() if p.grad is not None}


class Runs:
    """Counts the forwards of modules, and notes whether each block's output hung in a graph."""

    def __init__(self, decoder: Any) -> None:
        self.blocks = [0] * DEPTH
        self.graphs: list[list[bool]] = [[] for _ in range(DEPTH)]
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
            self.graphs[number].append(first_tensor(output).requires_grad)

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
    run_objective(model, make_prompts()).loss.backward()
    assert runs.blocks == [2, 2, 2, 0], "two runs, up to the last hookpoint"
    assert runs.heads == 0
    assert not any(flag for flags in runs.graphs for flag in flags)
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert all(bool(grad.abs().sum() > 0) for name, grad in gradients(model).items() if "null" not in name)


@BOTH_ENCODERS
@pytest.mark.parametrize("kind", ["sequential", "independent"])
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
        assert torch.equal(grad[others], after[name][others]), name
    assert not torch.equal(before["encoder.up.weight"][1], after["encoder.up.weight"][1])


@BOTH_ENCODERS
@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_a_padded_batch_is_the_sum_of_its_rows(encoder: str, name: str, anchor: str, scope: str) -> None:
    model, prompts = make_model(encoder, anchor=anchor, scope=scope), make_prompts(4)
    whole = run_objective(model, prompts, name)
    rows = [run_objective(model, [prompt], name) for prompt in prompts]
    assert len({len(p.knowledge) + len(p.input) for p in prompts}) > 1, "nothing would be padded"
    for part in ("loss", "errors", "spread"):
        torch.testing.assert_close(getattr(whole, part), sum(getattr(row, part) for row in rows), rtol=1e-4, atol=1e-5)
    assert int(whole.positions) == sum(int(row.positions) for row in rows)
    assert whole.loss.item() > 0


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_count_is_what_forward_counts(name: str) -> None:
    model, batch = make_model(), layout(make_model(), make_prompts())
    objective = OBJECTIVES[name](model)
    assert int(objective.count(batch)) == int(objective(**batch).positions) > 0


@BOTH_ENCODERS
def test_the_loss_is_the_mean_squared_error_in_units_of_the_scale(encoder: str) -> None:
    model, prompts = make_model(encoder, effect=0.0), make_prompts()
    objective, batch = DifferenceObjective(model), layout(model, prompts)
    found = objective.collect(batch)
    model.bank.calibrate(found.targets, found.receives)
    sums = objective(**batch)
    # An untrained bank says the centre everywhere, so it explains nothing: its error is the spread itself.
    torch.testing.assert_close(sums.errors, sums.spread)
    expected = found.targets[:, found.receives]
    expected = (expected - model.bank.bias[:, None]) / model.bank.scale[:, None, None]
    torch.testing.assert_close(sums.spread, expected.square().mean(-1).sum(1))
    torch.testing.assert_close(sums.loss, sums.errors.sum())


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


def test_cross_entropy_of_an_identity_bank_is_that_of_the_bare_decoder() -> None:
    model, prompts = make_model(effect=0.0), make_prompts()
    expected = 0.0
    for prompt in prompts:
        ids = prompt.anchor + prompt.input + prompt.target
        log = model.decoder(input_ids=torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        first = len(ids) - len(prompt.target)
        expected -= sum(float(log[first + i - 1, token]) for i, token in enumerate(prompt.target))
    assert run_objective(model, prompts, "cross_entropy").loss.item() == pytest.approx(expected, rel=1e-5)


def test_distill_of_a_perfect_run_is_zero() -> None:
    model = make_model(effect=0.0)
    prompts = [Prompt(p.anchor, (), p.input, p.target) for p in make_prompts()]  # D(K, x) is D(x) itself
    assert abs(run_objective(model, prompts, "distill").loss.item()) < 1e-5
    assert run_objective(model, make_prompts(), "distill").loss.item() > 0.1


@BOTH_ENCODERS
def test_student_rollout_on_differences_that_are_exactly_zero(encoder: str) -> None:
    model = make_model(encoder, effect=0.0, rollout="student")
    prompts = [Prompt(p.anchor, (), p.input, p.target) for p in make_prompts()]
    objective, batch = DifferenceObjective(model), layout(model, prompts)
    found = objective.collect(batch)
    assert torch.equal(found.targets, torch.zeros_like(found.targets))
    model.bank.calibrate(found.targets, found.receives)
    assert torch.equal(model.bank.scale, torch.ones(DEPTH)), "a layer without differences must not be divided by zero"
    sums = objective(**batch)
    assert sums.loss.item() == 0.0
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
