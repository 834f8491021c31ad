"""lm-evaluation-harness on a bank, from a task that the test writes to its figures; skipped where it is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import make_decoder, make_model, make_tokenizer

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `harness`)")

from diekae.model import DiekaeModel  # noqa: E402
from diekae_research.evaluation import harness  # noqa: E402

TEXT = "the old bridge was painted green in the cold east"
ROWS = [
    {"question": "the bridge was painted", "choices": ["green", "red"], "answer": 0},
    {"question": "what", "choices": ["cold wind", "old stone tower"], "answer": 1},
    {"question": "one two three four five six", "choices": ["seven", "under the hill"], "answer": 0},
]


@pytest.fixture(params=["reader", "token", "attention"])
def setting(request: Any, tmp_path: Path) -> dict[str, Any]:
    decoder, tokenizer = make_decoder(max_position_embeddings=256), make_tokenizer()
    make_model(request.param, decoder=decoder, tokenizer=tokenizer, effect=2.0).save_pretrained(tmp_path / "bank")
    (tmp_path / "knowledge.txt").write_text(TEXT)
    return {"bank": str(tmp_path / "bank"), "decoder": decoder, "tokenizer": tokenizer, "folder": tmp_path}


def make_lm(setting: dict[str, Any], known: bool, **options: Any) -> Any:
    folder = setting["folder"]
    arguments = {key: setting[key] for key in ("bank", "decoder", "tokenizer")}
    return harness.DiekaeLM(**arguments, knowledge=str(folder / "knowledge.txt") if known else None, **options)


def own_logits(setting: dict[str, Any], ids: list[int], known: bool) -> Tensor:
    """The model's own answer to anchor and ids, one row, nothing of the harness in between."""
    model = DiekaeModel.from_pretrained(setting["bank"], setting["decoder"], setting["tokenizer"])
    with torch.no_grad():
        row = torch.tensor([[*model.anchor, *ids]])
        logits: Tensor = model(row, knowledge=TEXT if known else None).logits[0, len(model.anchor) - 1 :]
    return logits.double().log_softmax(-1)


def log_likelihood(setting: dict[str, Any], before: str, after: str, known: bool) -> float:
    encode = setting["tokenizer"].encode
    first, second = (encode(text, add_special_tokens=False) for text in (before, after))
    rows = own_logits(setting, first + second, known)[len(first) : -1]
    return float(rows[range(len(second)), second].sum())


def request(kind: str, *arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_likelihoods_are_the_models_own(setting: dict[str, Any], known: bool, batch_size: int) -> None:
    lm = make_lm(setting, known, batch_size=batch_size)
    pairs = [(row["question"], f" {choice}") for row in ROWS for choice in row["choices"]]
    found = lm.loglikelihood([request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    expected = [log_likelihood(setting, *pair, known) for pair in pairs]
    assert [value for value, _greedy in found] == pytest.approx(expected, rel=1e-4)
    other = [log_likelihood(setting, *pair, not known) for pair in pairs]
    assert max(abs(a - b) for a, b in zip(expected, other, strict=True)) > 0.1, "the knowledge makes no difference"


@pytest.mark.parametrize("known", [True, False])
def test_whole_texts_are_scored_from_their_first_token(setting: dict[str, Any], known: bool) -> None:
    lm = make_lm(setting, known, batch_size=2)
    texts = ["the cat", "a deep blue sea under the moon"]
    found = lm.loglikelihood_rolling([request("loglikelihood_rolling", text) for text in texts], disable_tqdm=True)
    assert found == pytest.approx([log_likelihood(setting, "", text, known) for text in texts], rel=1e-4)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_the_models_own(setting: dict[str, Any], known: bool, batch_size: int) -> None:
    lm, tokenizer = make_lm(setting, known, batch_size=batch_size), setting["tokenizer"]
    asked = [request("generate_until", row["question"], {"until": ["\n"], "max_gen_toks": 4}) for row in ROWS]
    found = lm.generate_until(asked, disable_tqdm=True)
    for row, answer in zip(ROWS, found, strict=True):
        ids = tokenizer.encode(row["question"], add_special_tokens=False)
        made: list[int] = []
        while len(made) < 4 and 2 not in made:
            made.append(int(own_logits(setting, ids + made, known)[-1].argmax()))
        assert answer == tokenizer.decode(made, skip_special_tokens=True)


def test_a_task_runs_end_to_end_by_the_types_name(setting: dict[str, Any]) -> None:
    folder = setting["folder"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    arguments = {key: setting[key] for key in ("bank", "decoder", "tokenizer")}
    arguments["knowledge"] = str(folder / "knowledge.txt")
    result = lm_eval.simple_evaluate(model="diekae", model_args=arguments, tasks=[task], bootstrap_iters=0)
    right = [
        max((0, 1), key=lambda n: log_likelihood(setting, row["question"], f" {row['choices'][n]}", True))
        == row["answer"]
        for row in ROWS
    ]
    assert result["results"]["tiny"]["acc,none"] == pytest.approx(sum(right) / len(right))


def test_missing_files_are_named_and_the_window_is_whole(setting: dict[str, Any]) -> None:
    with pytest.raises(FileNotFoundError, match="no knowledge file at 'nowhere.txt'"):
        harness.DiekaeLM(bank=setting["bank"], knowledge="nowhere.txt")
    with pytest.raises(FileNotFoundError, match="is not a bank"):
        harness.DiekaeLM(bank="nowhere")
    assert make_lm(setting, True).max_length == 255
