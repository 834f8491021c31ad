"""Evaluation: scores made independently, and the ends of the scale."""

from typing import Any

import pytest
import torch
from builders import make_decoder, make_model, make_prompts
from torch.nn import functional as F

from diekae import DiekaeConfig, DiekaeModel
from diekae.data.prompt import Prompt
from diekae.differences import collect
from diekae.evaluation import Scores, evaluate
from diekae.evaluation.evaluate import lay_out, nll
from diekae.evaluation.metrics import mean_defined, other_knowledge
from diekae.inject.hooks import visiting
from diekae.training.objectives import score_logits


def quiet(*_: Any) -> None:
    """No progress."""


@torch.no_grad()
def nll_of(decoder: Any, context: tuple[int, ...], target: tuple[int, ...]) -> float:
    """The target's summed NLL after a context, with plain Transformers."""
    logits = decoder(torch.tensor([context + target])).logits[0, len(context) - 1 : -1]
    return float(F.cross_entropy(logits, torch.tensor(target), reduction="sum"))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma2", "falcon"])
def test_the_baselines_are_what_transformers_says(kind: str) -> None:
    decoder = make_decoder(kind)
    model = make_model("reader", decoder=decoder)
    prompts = make_prompts(5)
    tokens = sum(len(p.target) for p in prompts)
    bare = sum(nll_of(decoder, p.anchor + p.input, p.target) for p in prompts)
    prompted = sum(nll_of(decoder, p.anchor + p.knowledge + p.input, p.target) for p in prompts)
    for size in (1, 2, 16):
        found = evaluate(model, prompts, batch_size=size, time_passes=False)
        assert found["nll"]["bare"] == pytest.approx(bare / tokens, rel=1e-5)
        assert found["nll"]["prompted"] == pytest.approx(prompted / tokens, rel=1e-5)
        if size == 1:
            ours = found["nll"]["ours"]
        assert found["nll"]["ours"] == pytest.approx(ours, rel=1e-4)
    assert found["tokens"] == tokens and found["n"] == 5
    assert abs(bare - prompted) > 0.1, "K matters to these targets"


@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_an_untrained_bank_recovers_nothing(encoder: str) -> None:
    model = DiekaeModel(make_decoder(), DiekaeConfig(encoder=encoder))
    # Targets that D(K, x) finds likely, so that there is a gap to divide by.
    prompts = [_likely(model.decoder, prompt) for prompt in make_prompts(4)]
    found = evaluate(model, prompts, time_passes=False)
    assert found["nll"]["bare"] - found["nll"]["prompted"] > 0.05
    assert found["recovered"] == 0.0 and found["grounded"] == 0.0


@torch.no_grad()
def _likely(decoder: Any, prompt: Prompt) -> Prompt:
    ids = torch.tensor([prompt.anchor + prompt.knowledge + prompt.input])
    out = decoder.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    return Prompt(prompt.anchor, prompt.knowledge, prompt.input, tuple(out[0, ids.shape[1] :].tolist()))


def test_the_exact_differences_recover_everything() -> None:
    model = make_model("reader", layers="all")
    prompts = [_likely(model.decoder, prompt) for prompt in make_prompts(4)]
    batch = lay_out(model, prompts)
    found = collect(model.decoder, model.points, batch)
    mask = batch["receives"][..., None]
    with (
        torch.no_grad(),
        visiting(model.points, lambda n, stream, _: torch.where(mask, found.targets[n], 0 * stream)),
    ):
        logits = score_logits(model, batch["input_ids"], batch["labels"], 0 * batch["offset"])
    labels = batch["labels"][batch["labels"] != -100]
    prompted = nll(model, prompts, "prompted", None, 4, quiet)
    bare = nll(model, prompts, "bare", None, 4, quiet)
    ours = float(F.cross_entropy(logits, labels))
    assert Scores(bare.mean, prompted.mean, ours).recovered == pytest.approx(1.0, abs=1e-4)


def test_scores_by_hand() -> None:
    scores = Scores(bare=4.0, prompted=3.0, ours=3.25, prompted_other=5.0, ours_other=4.25)
    assert scores.recovered == 0.75
    assert scores.grounded == 0.5
    assert Scores(bare=3.04, prompted=3.0, ours=3.0).recovered is None, "a gap under 0.05 nats divides nothing"
    assert Scores(bare=4.0, prompted=3.0, ours=3.0).grounded is None
    assert mean_defined([None, 0.5, 1.0]) == 0.75
    assert mean_defined([None]) is None


def test_other_knowledge_differs() -> None:
    knowledge = [(1,), (1,), (2,), (1,)]
    partners = other_knowledge(knowledge)
    assert partners is not None
    assert all(knowledge[mine] != knowledge[other] for mine, other in enumerate(partners))
    assert other_knowledge([(1,), (1,)]) is None


def test_examples_without_knowledge_are_refused() -> None:
    model = make_model("reader")
    prompts = [*make_prompts(2), Prompt((1,), (), (5,), (6,))]
    with pytest.raises(ValueError, match="1 of 3 examples have none"):
        evaluate(model, prompts)


def test_seconds_are_measured_for_every_pass() -> None:
    seconds = evaluate(make_model("token"), make_prompts(2))["seconds"]
    assert set(seconds) == {"bare", "prompted", "prompted_cached", "prepare", "ours"}
    assert all(value > 0 for value in seconds.values())
