"""Evaluation, against the plain decoder run row by row."""

import dataclasses
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from builders import hook_count, make_decoder, make_model, make_prompts
from diekae.data.prompt import Prompt, other_knowledge
from diekae.evaluation import evaluate
from diekae.model import DiekaeModel
from diekae.run.score import nll, target_logits

Ids = tuple[int, ...]


def varied_prompts() -> list[Prompt]:
    return [prompt for seed in range(3) for prompt in make_prompts(4, seed=seed)]


def likely_prompts(decoder: PreTrainedModel) -> list[Prompt]:
    """Prompts whose target is what the decoder generates after K, so that K helps."""
    found = []
    for prompt in varied_prompts():
        ids = torch.tensor([prompt.anchor + prompt.knowledge + prompt.input])
        generated = decoder.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        found.append(dataclasses.replace(prompt, target=tuple(generated[0, ids.shape[1] :].tolist())))
    return found


def row_nll(decoder: PreTrainedModel, before: Ids, target: Ids) -> float:
    """NLL of the target after the tokens before it, in nats."""
    with torch.no_grad():
        log = decoder(input_ids=torch.tensor([before + target])).logits[0].double().log_softmax(-1)
    return -sum(float(log[len(before) + i - 1, token]) for i, token in enumerate(target))


def by_rows(decoder: PreTrainedModel, prompts: list[Prompt], how: str, anchor: str = "shared") -> float:
    total = 0.0
    for p in prompts:
        between = p.anchor if anchor == "own" else ()
        before = p.anchor + p.input if how == "bare" else p.anchor + p.knowledge + between + p.input
        total += row_nll(decoder, before, p.target)
    return total / sum(len(p.target) for p in prompts)


def measured(model: DiekaeModel, prompts: list[Prompt], **options: Any) -> dict[str, Any]:
    return evaluate(model, prompts, **{"time_passes": False, "batch_size": 5, **options})


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("anchor", ["shared", "own"])
def test_bare_and_prompted_are_the_decoders_own(kind: str, anchor: str) -> None:
    model, prompts = make_model(decoder=make_decoder(kind), anchor=anchor), varied_prompts()
    found = measured(model, prompts)
    assert found["n"] == 12
    assert found["tokens"] == sum(len(prompt.target) for prompt in prompts)
    for how in ("bare", "prompted"):
        assert found["nll"][how] == pytest.approx(by_rows(model.decoder, prompts, how, anchor), rel=1e-5)
    partners = other_knowledge([prompt.knowledge for prompt in prompts])
    assert partners is not None
    swapped = [
        dataclasses.replace(prompt, knowledge=prompts[partner].knowledge)
        for prompt, partner in zip(prompts, partners, strict=True)
    ]
    expected = by_rows(model.decoder, swapped, "prompted", anchor)
    assert found["nll"]["prompted_other"] == pytest.approx(expected, rel=1e-5)
    assert found["perplexity"]["bare"] == pytest.approx(torch.tensor(found["nll"]["bare"]).exp().item(), rel=1e-5)


@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_an_untrained_bank_recovers_nothing_and_is_not_grounded(encoder: str) -> None:
    decoder = make_decoder()
    found = measured(make_model(encoder, decoder=decoder, effect=0.0), likely_prompts(decoder))
    assert found["nll"]["bare"] - found["nll"]["prompted"] > 0.2, "K must help"
    assert found["recovered"] == 0.0
    assert found["grounded"] == pytest.approx(0.0, abs=1e-5), "rounding: other rows are batched together"
    assert found["nll"]["ours"] == found["nll"]["bare"]


def test_an_untrained_attention_bank_in_all_layers_recovers_all_and_is_grounded() -> None:
    decoder = make_decoder()
    found = measured(make_model("attention", decoder=decoder, effect=0.0), likely_prompts(decoder))
    assert found["nll"]["bare"] - found["nll"]["prompted"] > 0.2, "K must help"
    assert found["nll"]["ours"] == pytest.approx(found["nll"]["prompted"], rel=1e-5)
    assert found["nll"]["ours_other"] == pytest.approx(found["nll"]["prompted_other"], rel=1e-5)
    assert found["recovered"] == pytest.approx(1.0, abs=1e-4)
    assert found["grounded"] == pytest.approx(1.0, abs=1e-4)


def test_an_oracle_recovers_all_and_is_grounded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder()
    prompts = likely_prompts(decoder)

    def oracle(model: DiekaeModel, rows: list[Prompt], how: str, **options: Any) -> torch.Tensor:
        return target_logits(model, rows, "prompted" if how == "ours" else how, **options)

    monkeypatch.setattr("diekae.run.score.target_logits", oracle)
    found = measured(make_model(decoder=decoder, effect=0.0), prompts)
    assert found["recovered"] == 1.0
    assert found["grounded"] == 1.0


def test_recovered_and_grounded_follow_from_the_reported_nll() -> None:
    decoder = make_decoder()
    found = measured(make_model(decoder=decoder), likely_prompts(decoder))
    loss = found["nll"]
    assert found["recovered"] == pytest.approx((loss["bare"] - loss["ours"]) / (loss["bare"] - loss["prompted"]))
    cost = loss["ours_other"] - loss["ours"], loss["prompted_other"] - loss["prompted"]
    assert found["grounded"] == pytest.approx(cost[0] / cost[1])
    assert abs(found["recovered"]) > 1e-3 and abs(cost[0]) > 1e-3, "the bank does nothing"


def test_recovered_is_undefined_where_knowledge_does_not_help() -> None:
    decoder = make_decoder()
    # Tokens that the decoder finds likely without K: reading K can only harm.
    prompts = []
    for prompt in varied_prompts():
        ids = torch.tensor([prompt.anchor + prompt.input])
        generated = decoder.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        prompts.append(dataclasses.replace(prompt, target=tuple(generated[0, ids.shape[1] :].tolist())))
    found = measured(make_model(decoder=decoder), prompts)
    assert found["nll"]["bare"] - found["nll"]["prompted"] < 0.05
    assert found["recovered"] is None


def test_grounded_is_undefined_if_all_examples_have_the_same_knowledge() -> None:
    knowledge = make_prompts(1)[0].knowledge
    found = measured(make_model(), [dataclasses.replace(p, knowledge=knowledge) for p in varied_prompts()])
    assert found["grounded"] is None
    assert set(found["nll"]) == {"bare", "prompted", "ours"}


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@pytest.mark.parametrize("how", ["bare", "prompted", "ours"])
def test_the_batch_size_and_the_order_do_not_matter(encoder: str, how: str) -> None:
    model, prompts = make_model(encoder), varied_prompts()
    seen: list[tuple[int, int]] = []

    def measure(rows: list[Prompt], size: int) -> float:
        return nll(model, rows, how, batch_size=size, progress=lambda *step: seen.append(step)).mean

    one = measure(prompts, 1)
    assert measure(prompts[::-1], 5) == pytest.approx(one, rel=1e-5)
    assert measure(prompts, 100) == pytest.approx(one, rel=1e-5)
    assert seen[-1] == (len(prompts), len(prompts))


def test_the_scope_is_the_banks_own() -> None:
    prompts = varied_prompts()
    everywhere, prompt_only = make_model(scope="all"), make_model(scope="prompt")
    ours = [measured(model, prompts)["nll"]["ours"] for model in (everywhere, prompt_only)]
    assert abs(ours[0] - ours[1]) > 1e-4


def test_knowledge_over_the_limit_is_cut_with_a_warning() -> None:
    model, prompts = make_model(), varied_prompts()
    with pytest.warns(UserWarning, match="was cut to fit"):
        found = measured(model, prompts, max_knowledge=8)
    cut = [dataclasses.replace(prompt, knowledge=prompt.knowledge[:8]) for prompt in prompts]
    assert found["nll"]["prompted"] == pytest.approx(by_rows(model.decoder, cut, "prompted"), rel=1e-5)


def test_examples_without_knowledge_are_refused_and_counted() -> None:
    prompts = varied_prompts()
    prompts[3] = dataclasses.replace(prompts[3], knowledge=())
    with pytest.raises(ValueError, match=r"1 of 12 examples have none \(first: \[3\]\)"):
        measured(make_model(), prompts)
    with pytest.raises(ValueError, match="0 of 0"):
        measured(make_model(), [])


def test_seconds_are_measured_for_every_pass_and_the_decoder_is_restored() -> None:
    decoder = make_decoder()
    decoder.train()
    model = make_model(decoder=decoder)
    found = evaluate(model, varied_prompts())
    assert set(found["seconds"]) == {"bare", "prompted", "prompted_cached", "prepare", "ours"}
    assert all(value > 0 for value in found["seconds"].values())
    assert hook_count(decoder) == 0
    assert decoder.training and all(parameter.requires_grad for parameter in decoder.parameters())
