"""The curves, against the decoder and the bank asked one example at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from builders import hook_count, make_decoder, make_model, make_tokenizer
from diekae import DiekaeModel, rank
from diekae.data import Example
from diekae.data.example import write_examples
from diekae.knowledge import Knowledge
from diekae.models import load_decoder
from diekae_research.cli import typer_app
from diekae_research.evaluation.curves import measure_curves
from diekae_research.evaluation.document_pool import DocumentPool

COLOURS = ("red", "blue", "green", "silver")
THINGS = ("house", "bridge", "tower")
EXAMPLES = [
    Example(
        (f"the {thing} is {colour} and the door is {COLOURS[n - 1]}",),
        f"what is the {thing}",
        f"{colour} {word}".strip(),
    )
    for thing in THINGS
    for n, (colour, word) in enumerate(zip(COLOURS, ("and the", "door", "", "stone wall"), strict=True))
]


def row_nll(model: DiekaeModel, example: Example, known: Knowledge = None, prefix: str | None = None) -> list[float]:
    """NLL of each target token in nats: K injected, or in the prompt, or not there; one row, no batch."""
    prompt = model.need_prompter().prompt(example)
    read = model.need_prompter().knowledge(prefix) if prefix else ()
    ids = torch.tensor([prompt.anchor + read + prompt.input + prompt.target])
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, : len(prompt.anchor)] = False
    if model.config.scope == "prompt":
        mask[:, -len(prompt.target) :] = False
    with torch.no_grad():
        found = model(ids, knowledge=None if known is None else [known], injection_mask=mask).logits[0]
    losses = F.cross_entropy(found[-len(prompt.target) - 1 : -1], torch.tensor(prompt.target), reduction="none")
    return losses.tolist()


def mean(rows: list[list[float]]) -> float:
    return sum(map(sum, rows)) / sum(map(len, rows))


@pytest.fixture(scope="module", params=["reader", "token", "attention"])
def measured(request: pytest.FixtureRequest) -> tuple[DiekaeModel, dict[str, Any]]:
    model = make_model(request.param, decoder=make_decoder(seed=2), scope="all")  # one to which K is worth something
    labels: set[str] = set()
    found = measure_curves(
        *(model, EXAMPLES),
        documents=(1, 3, 99),
        lengths=(8, 30, 500),
        batch_size=5,
        progress=lambda label, *_: labels.add(label),
    )
    assert {"own document: bare", "documents 3: ours", "lengths 30: prompted"} <= labels
    assert hook_count(model.decoder) == 0
    return model, found


def text(row: int) -> str:
    return EXAMPLES[row % len(EXAMPLES)].knowledge[0]


def test_the_examples_are_what_the_tests_need() -> None:
    assert len({example.knowledge for example in EXAMPLES}) == len(EXAMPLES)


def chosen(model: DiekaeModel, question: str, documents: list[str]) -> list[str] | None:
    """A single document, or those with at least 0.6 of the best one's gain; None if all lower the likelihood."""
    gains = rank(model, question, documents)
    return [documents[number] for number, gain in gains if len(gains) == 1 or gain >= 0.6 * gains[0][1] >= 0] or None


def test_of_several_documents_the_relevant_ones_are_read(measured: tuple[DiekaeModel, dict[str, Any]]) -> None:
    model, found = measured
    assert [point["documents"] for point in found["documents"]] == [1, 3], "there are no 99 documents"
    bare = mean([row_nll(model, example) for example in EXAMPLES])
    alone = mean([row_nll(model, example, prefix=text(row)) for row, example in enumerate(EXAMPLES)])
    for number, point in zip((1, 3), found["documents"], strict=True):
        known, prefixes = [], []
        for row in range(len(EXAMPLES)):
            others = [text(row + step) for step in range(1, number)]
            known.append(chosen(model, EXAMPLES[row].input, [text(row), *others]))
            prefixes.append("\n".join([*others[: row % number], text(row), *others[row % number :]]))
        ours = mean([row_nll(model, example, k) for example, k in zip(EXAMPLES, known, strict=True)])
        read = mean([row_nll(model, example, prefix=p) for example, p in zip(EXAMPLES, prefixes, strict=True)])
        assert point["nll"] == pytest.approx({"bare": bare, "prompted": read, "ours": ours}, rel=1e-4)
        assert (point["n"], point["fit"]) == (len(EXAMPLES), 1.0)
        assert abs(ours - bare) > 0.01, "the bank does nothing"
        gap = bare - alone
        assert gap > 0.1, "K must be worth something"
        assert point["recovered"] == pytest.approx((bare - ours) / gap, rel=1e-3)
        assert point["recovered_prompted"] == pytest.approx((bare - read) / gap, rel=1e-3)


def test_long_knowledge_is_one_text_of_several_documents(
    measured: tuple[DiekaeModel, dict[str, Any]],
) -> None:
    model, found = measured
    prompter = model.need_prompter()
    size = len(prompter.knowledge(text(0)))
    assert 8 < size <= 15 and [point["lengths"] for point in found["lengths"]] == [30]
    library = DocumentPool(tuple(map(text, range(12))), (size,) * 12, tuple(range(12)))
    texts = ["\n".join(text(number) for number in library.long(row, 30) or []) for row in range(12)]
    point = found["lengths"][0]
    ours = mean([row_nll(model, example, known) for example, known in zip(EXAMPLES, texts, strict=True)])
    read = mean([row_nll(model, example, prefix=known) for example, known in zip(EXAMPLES, texts, strict=True)])
    assert point["nll"]["ours"] == pytest.approx(ours, rel=1e-4)
    assert point["nll"]["prompted"] == pytest.approx(read, rel=1e-4)
    assert point["nll"]["ours"] != pytest.approx(found["documents"][0]["nll"]["ours"], rel=1e-4)


@pytest.mark.parametrize("scope", ["all", "prompt"])
def test_an_untrained_bank_in_all_layers_reads_one_document_as_the_prompt_does(scope: str) -> None:
    model = make_model("attention", decoder=make_decoder(seed=2), effect=0.0, scope=scope)
    alone, three = measure_curves(model, EXAMPLES, documents=(1, 3), lengths=(30,))["documents"]
    assert (alone["recovered"] == pytest.approx(1.0, abs=1e-4)) is (scope == "all")
    assert three["recovered"] != pytest.approx(three["recovered_prompted"], abs=1e-3), "documents apart are not joined"


def test_a_prompt_holds_as_many_documents_as_fit_and_ours_chooses_among_all() -> None:
    model = make_model(decoder=make_decoder(max_position_embeddings=40), scope="all")
    point = measure_curves(model, EXAMPLES, documents=(6,), lengths=(30,))["documents"][0]
    assert 1 / 6 <= point["fit"] < 0.7
    documents = [[text(row + step) for step in range(6)] for row in range(len(EXAMPLES))]
    read = [chosen(model, example.input, texts) for example, texts in zip(EXAMPLES, documents, strict=True)]
    ours = mean([row_nll(model, example, texts) for example, texts in zip(EXAMPLES, read, strict=True)])
    assert point["nll"]["ours"] == pytest.approx(ours, rel=1e-4)


LIBRARY = DocumentPool(("a", "b", "c", "d", "e"), (10, 20, 30, 10, 10), (0, 1, 1, 4))


def test_the_relevant_document_is_always_included_at_changing_positions() -> None:
    assert [LIBRARY.several(row, 3) for row in range(4)] == [[0, 1, 2], [2, 1, 3], [2, 3, 1], [4, 0, 1]]
    assert LIBRARY.several(0, 5) == [0, 1, 2, 3, 4]
    assert LIBRARY.several(0, 6) is None


def test_long_knowledge_has_the_relevant_document_between_others() -> None:
    assert LIBRARY.long(0, 10) == [0]
    assert LIBRARY.long(1, 10) is None, "longer than that"
    assert LIBRARY.long(0, 50) == [3, 0, 1, 4], "the one of 30 tokens does not fit"
    found = LIBRARY.long(0, 80)
    assert found is not None and sorted(found) == [0, 1, 2, 3, 4] and found[0] != 0 and found[-1] != 0
    assert LIBRARY.long(0, 120) is None, "all documents together are no four fifths of it"


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one has none"):
        measure_curves(make_model(), [Example((), "what is the tower", "blue")])
    with pytest.raises(ValueError, match=r"lengths=\(0,\)"):
        measure_curves(make_model(), EXAMPLES, lengths=(0,))


def test_the_command_prints_and_writes_figures(tmp_path: Path) -> None:
    make_decoder().save_pretrained(tmp_path / "decoder")
    make_tokenizer().save_pretrained(tmp_path / "decoder")
    decoder, tokenizer = load_decoder(str(tmp_path / "decoder"), dtype=torch.float32)
    make_model(decoder=decoder, tokenizer=tokenizer).save_pretrained(tmp_path / "bank")
    write_examples(tmp_path / "test.jsonl", EXAMPLES)
    figures = tmp_path / "curves.json"
    arguments = ["curves", "--bank", tmp_path / "bank", "--data", tmp_path / "test.jsonl", "--documents", "2"]
    arguments += ["--documents", "50", "--lengths", "30", "--json", figures]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(typer_app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    found = json.loads(figures.read_text())
    assert found["n"] == 12 and [point["documents"] for point in found["documents"]] == [2]
    assert "2 documents" in result.output and "too few or too long documents for documents [50]" in result.output
