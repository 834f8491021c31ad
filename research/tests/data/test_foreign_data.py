"""Upstream files that are damaged, foreign or hostile: exit code 0 or 2, and one sentence."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_runs import run
from diekae_research.cli import typer_app
from foreign_files import contents, damaged, foreign

ROWS = {
    "folio": ("folio-train.jsonl", {"premises": ["P."], "conclusion": "C.", "label": "True"}),
    "dream": ("train.json", [[["M: A.", "W: B."], [{"question": "Q?", "choice": ["A", "B"], "answer": "A"}], "1"]]),
    "zsre": ("zsre_mend_a.json", [{"subject": "S", "src": "Who is S?", "alt": "A"}]),
    "counterfact": ("counterfact.json", [{"case_id": 1, "prompt": "P", "target_new": "T", "subject": "S"}]),
    "proofwriter": ("train.json", [{"context": "C", "question": "Q", "answer": "A"}]),
    "natural_questions": ("train.json", [{"contexts": "C", "questions": [{"input_text": "q"}], "answers": [{}]}]),
    "wizard_of_wikipedia": ("train.json", [{"persona": "p", "wizard_eval": 5, "dialog": [{"speaker": "0_Wizard"}]}]),
    "cmu_dog": ("Conversations/train/a.json", {"status": 1, "rating": 3, "wikiDocumentIdx": 1, "history": [{}]}),
    "quasar_t": ("questions/train_questions.json", {"uid": "s", "question": "Q", "answer": "A"}),
    "text": ("a.txt", "A sentence of some words here. Another sentence of words. And a third one here."),
}


def check(*arguments: str | Path) -> None:
    ended = run(*arguments, app=typer_app)
    assert ended.code in (0, 2) and "DIEKAE_DEBUG" not in ended.errors, ended.errors


@pytest.mark.parametrize("source", ROWS)
@foreign
@given(data=st.data())
def test_upstream_files(source: str, data: st.DataObject, tmp_path: Path) -> None:
    name, row = ROWS[source]
    path = tmp_path / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "raw" / "WikiData").mkdir(exist_ok=True)
    (tmp_path / "raw" / "WikiData" / "a.json").write_text('{"wikiDocumentIdx": 1}')
    path.write_bytes(data.draw(contents(row)))
    check("data", "build", source, "--raw", tmp_path / "raw", "--out", tmp_path / "out")


@foreign
@given(content=contents({"knowledge": "[/b]\x1b[2J", "input": "i", "target": "t", "label": "l"}))
def test_examples_are_shown(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    check("data", "show", tmp_path / "a.jsonl")


@foreign
@given(content=damaged(b'context,question,golden_answer\n"It was\nHe, then.",who was it,he\n'))
def test_csv_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "natural-questions-short-1000.csv").write_bytes(content)
    check("data", "build", "natural_questions", "--raw", tmp_path, "--out", tmp_path / "out")


@foreign
@given(content=damaged(gzip.compress(b'{"uid": "s", "question": "Q", "answer": "A"}\n' * 3, mtime=0)))
def test_compressed_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "questions").mkdir(exist_ok=True)
    (tmp_path / "contexts" / "short").mkdir(parents=True, exist_ok=True)
    (tmp_path / "questions" / "train_questions.json.gz").write_bytes(content)
    (tmp_path / "contexts" / "short" / "train_contexts.json").write_text('{"uid": "s", "contexts": [[1, "C"]]}')
    check("data", "build", "quasar_t", "--raw", tmp_path, "--out", tmp_path / "out")
