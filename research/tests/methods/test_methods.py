"""The methods, against the decoder asked row by row, against each other, and against what they must leave alone."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from method_tasks import loss, make_fitted, make_task, rows_logits
from safetensors import safe_open
from transformers import PreTrainedModel

from builders import make_decoder, make_prompts
from diekae.data.prompt import Prompt
from diekae.training import run
from diekae.training.greedy_targets import use_greedy_targets
from diekae_research.methods import fit
from diekae_research.methods.base import without_knowledge
from diekae_research.methods.decoders import Plain, twin
from diekae_research.methods.lora import find_targets, with_adapters

TRAINED = ["lora", "ours", "ours_finetuned", "ours_finetuned_from_scratch", "sft"]


def rows_greedy(decoder: PreTrainedModel, prompts: list[Prompt], how: str, anchor: str, count: int) -> list[list[int]]:
    found = []
    for p in prompts:
        made: list[int] = []
        while len(made) < count and not (made and made[-1] == 2):
            probe = dataclasses.replace(p, target=(*made, 0))
            made.append(int(rows_logits(decoder, [probe], how, anchor)[-1].argmax()))
        found.append(made)
    return found


@pytest.mark.parametrize("name", ["bare", "prompted", "prompted_cached", *TRAINED])
def test_every_method_scores_the_same_labels_and_leaves_the_decoder_alone(
    name: str, state: PreTrainedModel, tmp_path: Path
) -> None:
    fitted = make_fitted(name, tmp_path, decoder=state)
    prompts = make_prompts(5, seed=1)
    scored = fitted.target_logits(prompts)
    assert scored.labels.tolist() == [token for prompt in prompts for token in prompt.target]
    assert scored.logits.shape == (len(scored.labels), 128)
    assert fitted.last_states(prompts).shape == (5, 32)
    assert len(fitted.generate(prompts, 3)) == 5
    assert fitted.name == name
    trained = name in TRAINED
    assert (fitted.cost.parameters > 0, fitted.cost.seconds > 0, fitted.cost.epoch_seconds > 0) == (trained,) * 3


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma2"])
@pytest.mark.parametrize("anchor", ["shared", "own"])
@pytest.mark.parametrize("name", ["bare", "prompted", "prompted_cached"])
def test_untrained_methods_are_the_decoder_asked_row_by_row(name: str, kind: str, anchor: str, tmp_path: Path) -> None:
    decoder = make_decoder(kind)
    fitted = make_fitted(name, tmp_path, decoder=decoder, anchor=anchor)
    first, *rest = make_prompts(4, seed=2)
    prompts = [first, *rest, dataclasses.replace(rest[1], knowledge=first.knowledge)]  # two rows with one K
    how = "bare" if name == "bare" else "prompted"
    expected = rows_logits(decoder, prompts, how, anchor)
    for _ in range(2):  # the second time from the cache
        torch.testing.assert_close(fitted.target_logits(prompts).logits, expected, rtol=1e-4, atol=1e-4)
    rows = fitted.extend(without_knowledge(prompts) if how == "bare" else prompts, 4)
    assert rows == rows_greedy(decoder, prompts, how, anchor, 4)


def test_states_are_what_the_head_reads(tmp_path: Path) -> None:
    prompts = make_prompts(4)
    firsts = [sum(len(p.target) for p in prompts[:row]) for row in range(4)]
    for name in ("bare", "prompted", "prompted_cached", "ours"):
        fitted = make_fitted(name, tmp_path / name)
        head = fitted.decoder.get_output_embeddings()
        assert head is not None
        logits = fitted.target_logits(prompts).logits[firsts]
        torch.testing.assert_close(head(fitted.last_states(prompts)), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_lora_at_initialisation_is_prompted_exactly(kind: str, tmp_path: Path) -> None:
    decoder = make_decoder(kind)
    task, prompts = make_task(tmp_path, decoder), make_prompts(4)
    fresh = Plain(name="lora", decoder=with_adapters(decoder), tokenizer=task.tokenizer)
    expected = fit("prompted", task).target_logits(prompts).logits
    assert torch.equal(fresh.target_logits(prompts).logits, expected)
    adapters = {n: p for n, p in fresh.decoder.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in adapters.items():
            parameter.fill_(0.1 if "lora_B" in name else 0.2)
    assert not torch.allclose(fresh.target_logits(prompts).logits, expected), "the adapters are not in the way"


def test_lora_takes_queries_and_values(tmp_path: Path) -> None:
    fitted = make_fitted("lora", tmp_path)
    # r (in + out) for q 32 → 32 and v 32 → 16, in 4 layers.
    assert fitted.cost.parameters == 4 * 24 * ((32 + 32) + (32 + 16))
    assert find_targets(make_decoder("gpt2")) == ["c_attn"]
    decoder = make_decoder("gpt2")
    decoder.config.model_type = "gtp2"
    with pytest.raises(ValueError, match=r"modules of 'gtp2' project.*expected q_proj and v_proj.*among c_attn, c_fc"):
        find_targets(decoder)


@pytest.mark.parametrize("name", ["lora", "sft", "ours_finetuned_from_scratch"])
def test_training_memorises_and_selects_on_validation(name: str, tmp_path: Path) -> None:
    task = make_task(tmp_path, steps=60)
    before = loss(fit("bare" if name.startswith("ours") else "prompted", task), list(task.train))
    fitted = fit(name, task)
    after = loss(fitted, list(task.train))
    assert after < 0.7 * before
    # Token-weighted validation loss of the kept checkpoint, as the trainer wrote it.
    states = sorted((tmp_path / name).glob("checkpoint-*/trainer_state.json"))
    best = min(json.loads(path.read_text())["best_metric"] for path in states)
    assert after == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("name", ["lora", "sft"])
def test_the_best_checkpoint_is_kept_not_the_last(name: str, tmp_path: Path) -> None:
    # Validation that contradicts training: the better the one, the worse the other.
    task = make_task(tmp_path, steps=60)
    others = make_prompts(4, seed=9)
    contrary = [dataclasses.replace(p, target=o.target) for p, o in zip(task.train, others, strict=True)]
    often = dataclasses.replace(task.training, evaluations=12)
    task = dataclasses.replace(task, validation=contrary, learning_rates={"lora": 1e-2, "sft": 1e-2}, training=often)
    fitted = fit(name, task)
    log = json.loads((tmp_path / name / "checkpoint-60" / "trainer_state.json").read_text())["log_history"]
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert min(losses) < losses[-1] - 0.02, "the test needs a run that overfits"
    assert loss(fitted, list(task.validation)) == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("name", ["lora", "sft"])
def test_without_knowledge_a_method_never_sees_it(name: str, tmp_path: Path) -> None:
    task = make_task(tmp_path, knowledge=False)
    fitted = fit(name, task)
    prompts = make_prompts(4)
    other = [dataclasses.replace(prompt, knowledge=prompt.knowledge[::-1]) for prompt in prompts]
    assert torch.equal(fitted.target_logits(prompts).logits, fitted.target_logits(other).logits)
    bare = dataclasses.replace(task, train=without_knowledge(task.train), validation=without_knowledge(task.validation))
    again = fit(name, dataclasses.replace(bare, folder=tmp_path / "again"))
    torch.testing.assert_close(again.target_logits(prompts).logits, fitted.target_logits(prompts).logits)


def test_ours_learns_edits_without_knowledge(tmp_path: Path) -> None:
    task = make_task(tmp_path, steps=60, knowledge=False)
    before = loss(fit("bare", task), list(task.train))
    fitted = fit("ours_finetuned_from_scratch", task)
    assert loss(fitted, list(task.train)) < 0.7 * before


def test_time_before_the_first_step_is_part_of_the_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(tmp_path, steps=1)
    fast = fit("ours", task).cost.seconds

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(fast + 0.1)  # as answering and collecting take
        return use_greedy_targets(*arguments, **options)

    monkeypatch.setattr(run, "use_greedy_targets", slow)
    assert fit("ours", dataclasses.replace(task, folder=tmp_path / "slow")).cost.seconds > 2 * (fast + 0.1)


@pytest.mark.parametrize("name", ["lora", "sft", "ours"])
def test_a_finished_run_is_read_back(name: str, tmp_path: Path) -> None:
    task = make_task(tmp_path)
    first = fit(name, task)
    again = fit(name, dataclasses.replace(task, resume=True, decoder=make_decoder()))
    prompts = make_prompts(3)
    assert torch.equal(first.target_logits(prompts).logits, again.target_logits(prompts).logits)
    assert 0 < again.cost.seconds <= first.cost.seconds


@pytest.mark.parametrize("name", ["lora", "sft"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(_what: str, done: int, _all: int) -> None:
        if done == 3:  # after the checkpoint at step 2
            raise Cut

    whole = fit(name, make_task(tmp_path / "whole"))
    task = make_task(tmp_path / "cut")
    with pytest.raises(Cut):
        fit(name, dataclasses.replace(task, progress=cut))
    resumed = fit(name, dataclasses.replace(task, resume=True))
    prompts = make_prompts(3)
    torch.testing.assert_close(resumed.target_logits(prompts).logits, whole.target_logits(prompts).logits)


@pytest.mark.parametrize("name", ["lora", "sft"])
def test_bf16_decoders_are_trained_in_fp32_and_run_as_they_were(name: str, tmp_path: Path) -> None:
    task = make_task(tmp_path, make_decoder().to(torch.bfloat16), steps=60)
    task = dataclasses.replace(task, training=dataclasses.replace(task.training, precision="bf16"))
    before = loss(fit("prompted", task), list(task.train))
    fitted = fit(name, task)
    assert loss(fitted, list(task.train)) < 0.8 * before
    assert fitted.target_logits(task.train).logits.dtype == torch.bfloat16
    kinds = {parameter.dtype for key, parameter in fitted.decoder.named_parameters() if "lora_" not in key}
    assert kinds == {torch.bfloat16}
    stored = safe_open(str(sorted((tmp_path / name).glob("checkpoint-*/model.safetensors"))[0]), framework="pt")
    assert {stored.get_tensor(key).dtype for key in stored.keys()} == {torch.float32}


def test_injection_is_generated_as_it_is_scored(tmp_path: Path) -> None:
    fitted = make_fitted("ours_finetuned", tmp_path, steps=30)
    prompts = make_prompts(4)
    for prompt, row in zip(prompts, fitted.extend(prompts, 3), strict=True):
        said = dataclasses.replace(prompt, target=tuple(row))
        assert fitted.target_logits([said]).logits.argmax(-1).tolist() == row


def test_a_twin_shares_weights_and_nothing_else() -> None:
    decoder = make_decoder("gpt2")  # with tied embeddings
    copied = twin(decoder)
    assert [p.data_ptr() for p in copied.parameters()] == [p.data_ptr() for p in decoder.parameters()]
    assert copied.get_output_embeddings().weight is copied.get_input_embeddings().weight
    copied.requires_grad_(False).train()
    assert all(p.requires_grad for p in decoder.parameters()) and not decoder.training


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'promted' is not known; choose one of bare.*Did you mean 'prompted'"):
        make_fitted("promted", tmp_path)
    task = make_task(tmp_path)
    with pytest.raises(ValueError, match="'lora' got 0 training and 4 validation"):
        fit("lora", dataclasses.replace(task, train=[]))
    with pytest.raises(ValueError, match="'bare' was given no prompt"):
        fit("bare", task).target_logits([])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        fit("bare", task).generate(make_prompts(1), 0)
    assert not list(tmp_path.iterdir()), "nothing is half written"
