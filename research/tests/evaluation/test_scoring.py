"""Scores, against the decoder asked row by row, official definitions, closed forms and known distributions."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import make_decoder, make_model, make_prompts, make_tokenizer
from diekae.data.prompt import Prompt, Prompter
from diekae.evaluation.answers import first_line
from diekae.evaluation.evaluate import evaluate, swap_knowledge
from diekae_research.evaluation.head import collect_states, fit_head, train_head
from diekae_research.evaluation.intervals import bootstrap, resample
from diekae_research.evaluation.scoring import (
    compare_answers,
    count_tokens,
    harm,
    label_targets,
    nll,
    score_answers,
    score_labels,
    target_texts,
)
from diekae_research.methods import Fitted, Task, fit
from diekae_research.methods.ours import Injected


def make_fitted(name: str, decoder: torch.nn.Module | None = None) -> Fitted:
    prompts = make_prompts(1)
    decoder = decoder or make_decoder()
    return fit(name, Task(decoder, make_tokenizer(), prompts, prompts, Path("unused")))  # type: ignore[arg-type]


def varied_prompts() -> list[Prompt]:
    return [prompt for seed in range(3) for prompt in make_prompts(4, seed=seed)]


def row_log_probabilities(decoder: torch.nn.Module, prompt: Prompt, how: str) -> Tensor:
    """All log-probabilities before each target token, [tokens, vocabulary]."""
    before = prompt.anchor + (prompt.knowledge if how == "prompted" else ()) + prompt.input
    with torch.no_grad():
        logits = decoder(input_ids=torch.tensor([before + prompt.target])).logits[0].double()
    return logits.log_softmax(-1)[len(before) - 1 : -1]


@pytest.mark.parametrize("how", ["bare", "prompted", "prompted_cached"])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_losses_are_each_examples_own(how: str, batch_size: int) -> None:
    fitted, prompts = make_fitted(how), varied_prompts()
    seen: list[tuple[str, int, int]] = []
    found = nll(fitted, prompts, batch_size, lambda *step: seen.append(step))
    known = how.removesuffix("_cached")
    rows = [row_log_probabilities(fitted.decoder, p, known)[range(len(p.target)), p.target] for p in prompts]
    np.testing.assert_allclose(found, [-float(row.sum()) for row in rows], rtol=1e-4)
    assert seen[-1] == (how, 12, 12)


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@pytest.mark.parametrize("scope", ["all", "prompt"])
@pytest.mark.parametrize("anchor", ["shared", "own"])
def test_the_methods_agree_with_evaluate(encoder: str, scope: str, anchor: str) -> None:
    model, prompts = make_model(encoder, scope=scope, anchor=anchor), varied_prompts()
    expected = evaluate(model, prompts, time_passes=False)["nll"]
    ours = Injected(name="ours", decoder=model.decoder, tokenizer=make_tokenizer(), anchor=anchor, model=model)
    tokens = count_tokens(prompts).sum()
    assert nll(ours, prompts).sum() / tokens == pytest.approx(expected["ours"], rel=1e-5)
    swapped = swap_knowledge(prompts, 64)
    assert swapped is not None
    assert nll(ours, swapped).sum() / tokens == pytest.approx(expected["ours_other"], rel=1e-5)
    assert abs(expected["ours"] - expected["bare"]) > 1e-3, "the bank does nothing"


def test_harm_is_the_divergence_from_the_bare_decoder() -> None:
    decoder, prompts = make_decoder(), varied_prompts()
    bare, prompted = make_fitted("bare", decoder), make_fitted("prompted", decoder)
    assert harm(bare, bare, prompts).max() == 0
    found = harm(bare, prompted, prompts)
    for prompt, value in zip(prompts, found, strict=True):
        base, moved = (row_log_probabilities(decoder, prompt, how) for how in ("bare", "prompted"))
        assert value == pytest.approx(float((base.exp() * (base - moved)).sum()), rel=1e-3)


def test_labels_are_scored_whole_and_by_length() -> None:
    fitted, prompts = make_fitted("prompted"), varied_prompts()
    candidates = [(7,), (9, 11, 13)]
    total = np.zeros((len(prompts), 2))
    for row, prompt in enumerate(prompts):
        for column, target in enumerate(candidates):
            log = row_log_probabilities(fitted.decoder, dataclasses.replace(prompt, target=target), "prompted")
            total[row, column] = float(log[range(len(target)), target].sum())
    found = score_labels(fitted, prompts, candidates)
    assert found["likelihood"].tolist() == total.argmax(1).tolist()
    assert found["by_length"].tolist() == (total / np.array([1, 3])).argmax(1).tolist()
    assert found["likelihood"].tolist() != found["by_length"].tolist(), "the lengths make no difference here"


def test_labels_are_tokenized_as_targets() -> None:
    prompter = Prompter(make_tokenizer(), "{knowledge}")
    tokenizer = make_tokenizer()
    assert label_targets(prompter, ["red", "blue sea"]) == [
        tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in ("red", "blue sea")
    ]
    for candidates in ([], [(3,)], [(3,), ()]):
        with pytest.raises(ValueError, match="at least two labels of at least one token"):
            score_labels(make_fitted("bare"), make_prompts(1), candidates)
    with pytest.raises(ValueError, match="got 0 prompts and batch_size=16"):
        nll(make_fitted("bare"), [])
    with pytest.raises(ValueError, match="got 0 prompts and batch_size=16"):
        score_answers(make_fitted("bare"), [])


def test_answers_are_compared_with_their_own_targets() -> None:
    scores = compare_answers(["the red house", "blue", "sea"], ["red", "Blue.", "lake"])
    assert scores["exact"].tolist() == [0, 1, 0] and scores["right"].tolist() == [1, 1, 0]
    assert scores["f1"].tolist() == pytest.approx([2 / 3, 1, 0])
    fitted, prompts = make_fitted("prompted"), varied_prompts()
    texts = fitted.generate(prompts, 24)
    expected = compare_answers([first_line(text) for text in texts], target_texts(fitted.tokenizer, prompts))
    np.testing.assert_array_equal(score_answers(fitted, prompts, batch_size=5)["f1"], expected["f1"])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Ratios of sums with unequal weights: the truth is E[weight · value] / E[weight] = 2."""
    draw, inside, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        weights = draw.integers(1, 9, 150)
        values = weights * draw.normal(2.0, 1.0, 150)
        found = bootstrap([{"v": values, "w": weights}], lambda s: s["v"] / s["w"], trial, rounds=400)
        assert found.low < found.value < found.high
        inside += found.low <= 2.0 <= found.high
    # Binomial(300, 0.95): three standard deviations are 0.038; percentile intervals of 150 examples are a little short.
    assert 0.90 < inside / trials < 0.985


def test_a_paired_difference_has_a_narrower_interval_than_its_terms() -> None:
    draw = np.random.default_rng(1)
    hard = draw.normal(3.0, 2.0, 200)
    columns = {"a": hard, "b": hard - 0.1 + draw.normal(0, 0.05, 200), "n": np.ones(200)}
    found = bootstrap([columns], lambda s: (s["a"] - s["b"]) / s["n"])
    alone = bootstrap([columns], lambda s: s["a"] / s["n"])
    assert found.high - found.low < 0.02
    assert alone.high - alone.low > 0.4
    assert found == bootstrap([columns], lambda s: (s["a"] - s["b"]) / s["n"]), "the same seed"
    assert found != bootstrap([columns], lambda s: (s["a"] - s["b"]) / s["n"], seed=1)


def test_resamples_have_the_moments_of_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(50.0)
    sums = resample({"v": values, "one": np.ones(50)}, rounds=20000)
    assert set(sums["one"]) == {50.0}
    assert sums["v"].mean() == pytest.approx(values.sum(), rel=5e-3)
    assert sums["v"].std() == pytest.approx(math.sqrt(50 * values.var()), rel=2e-2)
    monkeypatch.setattr("diekae_research.evaluation.intervals.BLOCK", 500)
    np.testing.assert_array_equal(resample({"v": values}, rounds=20000)["v"], sums["v"])


def test_columns_that_cannot_be_resampled_are_refused() -> None:
    for columns in ({"a": [1.0], "b": [1.0, 2.0]}, {"a": []}, {}):
        with pytest.raises(ValueError, match=r"expected one \[examples\] for all"):
            resample(columns)
    assert bootstrap([], lambda s: s["a"]) is None


def test_a_head_learns_linear_classes_and_chooses_its_decay_on_validation() -> None:
    draw = np.random.default_rng(0)
    direction = draw.normal(size=(3, 8))

    def make(count: int) -> tuple[Any, Any]:
        states = 5 + 20 * draw.normal(size=(count, 8))
        return states, ((states - 5) @ direction.T).argmax(-1)

    head = train_head(make(400), make(100))
    assert head.score(*make(500)) > 0.95
    noise, labels = draw.normal(size=(20, 8)), draw.integers(0, 3, 20)
    over = train_head((noise, labels), (noise, labels))
    other = draw.normal(size=(40, 8)), draw.integers(0, 4, 40)  # one class was never trained
    calm = train_head((noise, labels), other)
    assert over.score(noise, labels) >= calm.score(noise, labels)
    assert calm.score(*other) >= over.score(*other)


def test_a_head_is_the_optimum_of_its_objective() -> None:
    draw = np.random.default_rng(0)
    states, labels = draw.normal(1.0, 3.0, size=(60, 4)), draw.integers(0, 3, 60)
    regression = fit_head(states, labels, 0.1)[-1]
    standard = torch.tensor((states - states.mean(0)) / states.std(0))
    weight, bias = (torch.tensor(values, requires_grad=True) for values in (regression.coef_, regression.intercept_))
    loss = torch.nn.functional.cross_entropy(standard @ weight.T + bias, torch.tensor(labels))
    (loss + 0.05 * weight.square().sum()).backward()
    assert weight.grad is not None and bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-3 and float(bias.grad.abs().max()) < 1e-3


def test_heads_read_states() -> None:
    states = collect_states(make_fitted("prompted"), varied_prompts(), batch_size=5)
    assert states.shape == (12, 32)
    expected = make_fitted("prompted").last_states(varied_prompts()[:1]).double().numpy()
    np.testing.assert_allclose(states[:1], expected, rtol=1e-4, atol=1e-5)
