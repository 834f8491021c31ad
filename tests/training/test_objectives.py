"""What all objectives have in common, and the two that run through the decoder."""

from typing import Any

import pytest
import torch
from objective_runs import ENCODERS, Runs, gradients, layout, run_objective

from builders import DEPTH, hook_count, make_decoder, make_model, make_prompts
from diekae.data.prompt import Prompt
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import frozen
from diekae.training.objectives import OBJECTIVES

THROUGH = pytest.mark.parametrize("name", ["cross_entropy", "distill"])


@ENCODERS
@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_a_padded_batch_is_the_sum_of_its_rows(encoder: str, name: str, anchor: str, scope: str) -> None:
    model, prompts = make_model(encoder, anchor=anchor, scope=scope), make_prompts(4)
    assert len({len(p.knowledge) + len(p.input) for p in prompts}) > 1, "nothing would be padded"
    for with_graph in (True, False):
        with torch.set_grad_enabled(with_graph):
            whole = run_objective(model, prompts, name)
            rows = [run_objective(model, [prompt], name) for prompt in prompts]
        for part in ("loss", "parts"):
            expected = sum(getattr(row, part) for row in rows)
            torch.testing.assert_close(getattr(whole, part), expected, rtol=1e-4, atol=1e-5)
        assert int(whole.positions) == sum(int(row.positions) for row in rows)
        assert whole.loss.item() > 0
    assert bool(whole.parts.any()) is (name == "difference")


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_count_equals_the_positions_of_forward(name: str) -> None:
    model, batch = make_model(), layout(make_model(), make_prompts())
    objective = OBJECTIVES[name](model)
    assert int(objective.count(batch)) == int(objective(**batch).positions) > 0


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


@ENCODERS
@THROUGH
def test_gradients_pass_through_the_decoder_and_leave_its_parameters_alone(encoder: str, name: str) -> None:
    model = make_model(encoder)
    with frozen(model.decoder):
        sums = run_objective(model, make_prompts(), name)
    sums.loss.backward()
    assert all(parameter.grad is None for parameter in model.decoder.parameters())
    found = gradients(model)
    assert set(found) == {parameter for parameter, _ in model.bank.named_parameters()}
    for number in range(DEPTH):
        assert float(found["encoder.up.weight"][number].abs().sum()) > 0, f"encoder {number}"


@ENCODERS
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
def test_cross_entropy_of_an_untrained_bank_is_that_of_the_decoder(encoder: str) -> None:
    model, prompts = make_model(encoder, effect=0.0), make_prompts()
    expected = 0.0
    for prompt in prompts:
        known = prompt.knowledge if encoder == "attention" else ()
        ids = prompt.anchor + known + prompt.input + prompt.target
        log = model.decoder(input_ids=torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        first = len(ids) - len(prompt.target)
        expected -= sum(float(log[first + i - 1, token]) for i, token in enumerate(prompt.target))
    assert run_objective(model, prompts, "cross_entropy").loss.item() == pytest.approx(expected, rel=1e-5)


def test_distill_is_zero_where_the_distributions_agree() -> None:
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
def test_a_whole_input_counts_every_target_token_under_every_scope(scope: str) -> None:
    model, prompts = make_model("attention", layers=(1, 3), scope=scope), make_prompts()
    objective: Any = OBJECTIVES["distill"](model, whole_input=True)
    batch = layout(model, prompts)
    assert int(objective.count(batch)) == sum(len(p.input) + len(p.target) - 1 for p in prompts)
    assert int(objective(**batch).positions) == int(objective.count(batch))


def test_frozen_restores_everything_after_an_exception() -> None:
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
