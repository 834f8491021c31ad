"""K visible in some layers, against whole runs of the decoder; and the command `diekae layers`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel
from typer.testing import CliRunner

import diekae.cli.console  # noqa: F401 - a console that is made while COLUMNS is set keeps that width
from builders import ARCHITECTURES, DEPTH, hook_count, make_decoder, make_prompts, make_tokenizer
from diekae.cli import typer_app
from diekae.cli.layers import layer_range
from diekae.data.prompt import Prompt
from diekae.data.splits import halves
from diekae.evaluation.layers import measure_layers, visible_nll
from diekae.inject.visibility import hiding

LAYERS = tuple(range(DEPTH))


def whole_run(decoder: PreTrainedModel, prompts: list[Prompt], visible: tuple[int, ...] | None) -> float:
    """NLL a token without any cache; None is D(x)."""
    total = 0.0
    for prompt in prompts:
        known, seen = ((), LAYERS) if visible is None else (prompt.knowledge, visible)
        row = torch.tensor([prompt.anchor + known + prompt.input + prompt.target])
        start = len(prompt.anchor) + len(known)
        hidden = torch.zeros(row.shape[1], row.shape[1], dtype=torch.bool)
        hidden[start:, len(prompt.anchor) : start] = True
        with torch.no_grad(), hiding(decoder, dict.fromkeys(set(LAYERS) - set(seen), hidden)):
            logits = decoder(input_ids=row, use_cache=False).logits[0, -len(prompt.target) - 1 : -1]
        total += float(F.cross_entropy(logits, torch.tensor(prompt.target), reduction="sum"))
    return total / sum(len(prompt.target) for prompt in prompts)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_cached_keys_and_values_give_the_nll_of_whole_runs(kind: str) -> None:
    decoder = make_decoder(kind)
    prompts = [dataclasses.replace(p, knowledge=p.knowledge * 3) for p in make_prompts(2)]  # past sliding windows
    settings = [LAYERS, (0, 2), (3,)]
    found = visible_nll(decoder, prompts, settings)
    for nll, visible in zip(found, settings, strict=True):
        assert nll == pytest.approx(whole_run(decoder, prompts, visible), abs=5e-5)
    assert len({round(nll, 4) for nll in found}) == len(found), "the layers must matter, or this shows nothing"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox"])
def test_knowledge_visible_nowhere_is_not_read(kind: str) -> None:
    decoder, prompts = make_decoder(kind), make_prompts(2)
    others = [dataclasses.replace(p, knowledge=tuple(reversed(p.knowledge))) for p in prompts]
    (none, all_layers), (none_other, all_other) = (
        visible_nll(decoder, rows, [(), LAYERS]) for rows in (prompts, others)
    )
    assert none == pytest.approx(none_other, abs=1e-5)
    assert abs(all_layers - all_other) > 1e-3


def likely_prompts(decoder: PreTrainedModel) -> list[Prompt]:
    """Prompts whose targets are what the decoder generates after K."""
    found = []
    for prompt in [*make_prompts(4), *make_prompts(4, seed=1), *make_prompts(4, seed=2)]:
        row = torch.tensor([prompt.anchor + prompt.knowledge + prompt.input])
        generated = decoder.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=4, do_sample=False)
        found.append(dataclasses.replace(prompt, target=tuple(generated[0, row.shape[1] :].tolist())))
    return found


def test_all_figures_belong_to_the_layers_they_name() -> None:
    decoder = make_decoder()
    prompts = likely_prompts(decoder)
    found = measure_layers(decoder, prompts, choose=3, width=2)
    _, prompts = halves(prompts)
    gap = found["nll"]
    assert found["n"] == len(prompts)
    assert gap["bare"] == pytest.approx(whole_run(decoder, prompts, None), abs=1e-5)
    assert gap["prompted"] == pytest.approx(whole_run(decoder, prompts, LAYERS), abs=1e-5)
    assert gap["bare"] - gap["prompted"] > 0.2, "K must help"
    assert found["sets"]["all"]["recovered"] == 1.0
    assert [entry["layers"] for entry in found["windows"]] == [[0, 1], [1, 2], [2, 3]]
    assert [entry["layers"] for entry in found["hidden"]] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    named = [*found["sets"].values(), *found["windows"], *found["hidden"], *found["chosen"]]
    for entry in named:
        nll = visible_nll(decoder, prompts, [tuple(entry["layers"])])[0]
        assert entry["nll"] == pytest.approx(nll, abs=1e-5)
        assert entry["recovered"] == pytest.approx((gap["bare"] - nll) / (gap["bare"] - gap["prompted"]), abs=1e-4)
    assert hook_count(decoder) == 0


def test_each_chosen_layer_is_the_best_next_one() -> None:
    decoder = make_decoder()
    prompts = likely_prompts(decoder)
    found = measure_layers(decoder, prompts, choose=DEPTH)
    chooses, reports = halves(prompts)
    steps = found["chosen_on"]["steps"]
    assert [step["layers"] for step in found["chosen"]] == [step["layers"] for step in steps]
    assert (found["n"], found["chosen_on"]["n"]) == (len(reports), len(chooses))
    before: tuple[int, ...] = ()
    for step in steps:
        assert tuple(step["layers"][:-1]) == before
        others = [(*before, layer) for layer in LAYERS if layer not in before]
        assert step["nll"] == pytest.approx(min(visible_nll(decoder, chooses, others)), abs=1e-5)
        before = tuple(step["layers"])
    assert steps[-1]["recovered"] == found["chosen"][-1]["recovered"] == pytest.approx(1.0, abs=1e-4)


def test_the_reported_half_does_not_affect_the_choice() -> None:
    """Other targets in the reported half change its figures, and not the choice."""
    decoder = make_decoder()
    prompts = likely_prompts(decoder)
    _, reports = halves(prompts)
    others = [dataclasses.replace(p, target=p.target[::-1]) if p in reports else p for p in prompts]
    one, two = (measure_layers(decoder, rows, choose=3) for rows in (prompts, others))
    assert one["chosen_on"] == two["chosen_on"] and one["nll"] != two["nll"]
    assert [step["layers"] for step in one["chosen"]] == [step["layers"] for step in two["chosen"]]
    with pytest.raises(ValueError, match="2 examples cannot be cut into a half to choose by and a half to report"):
        measure_layers(decoder, [prompts[0]] * 2, choose=1)


def test_invalid_arguments_are_refused() -> None:
    decoder, prompts = make_decoder(), make_prompts(2)
    with pytest.raises(ValueError, match="at least one has none"):
        measure_layers(decoder, [dataclasses.replace(prompts[0], knowledge=())])
    with pytest.raises(ValueError, match="choose=5 .* from 1 to the decoder's 4 layers"):
        measure_layers(decoder, prompts, choose=5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    make_decoder().save_pretrained(folder / "decoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    rows = [
        {"knowledge": f"the tower is {colour}", "input": "what is the tower", "target": colour}
        for colour in ("blue", "red", "green", "silver", "gold", "old")
    ]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def invoke(place: Path, *arguments: object) -> Any:
    fixed = ["layers", "--decoder", place / "decoder", "--limit", "6", "--choose", "2"]
    return CliRunner(env={"COLUMNS": "200"}).invoke(typer_app, [str(a) for a in [*fixed, *arguments]])


def test_the_command_recommends_layers_and_writes_what_it_measured(place: Path, tmp_path: Path) -> None:
    figures, plot = tmp_path / "layers.json", tmp_path / "layers.svg"
    result = invoke(place, "--data", place / "validation.jsonl", "--json", figures, "--plot", plot)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    found = json.loads(figures.read_text())
    assert found["n"] + found["chosen_on"]["n"] == 6 and len(found["hidden"]) == DEPTH and "versions" in found
    assert str(tmp_path) not in figures.read_text() and str(place) not in figures.read_text()
    assert f"layers = {sorted(found['chosen'][-1]['layers'])}" in result.output
    assert f"on {found['n']} examples that chose nothing" in result.output.replace("\n", " ")
    assert "first half (0, 1)" in result.output and "all (0–3)" in result.output
    assert plot.read_text().startswith("<?xml")
    again = tmp_path / "again.svg"
    invoke(place, "--data", place / "validation.jsonl", "--plot", again)
    assert again.read_bytes() == plot.read_bytes()
    source = invoke(place, "--source", "jsonl", "--raw", place)
    assert source.exit_code == 0 and "that chose the layers" in source.output.replace("\n", " ")


def test_the_command_reports_errors(place: Path, tmp_path: Path) -> None:
    data = place / "validation.jsonl"
    assert "name what to measure on" in str(invoke(place).exception)
    assert "name what to measure on" in str(invoke(place, "--data", data, "--source", "jsonl").exception)
    wrong = invoke(place, "--data", data, "--plot", tmp_path / "plot.doc").exception
    assert "cannot be written as '.doc'" in str(wrong) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layers", "text"), [([], "–"), ([3], "3"), ([3, 4], "3, 4"), ([3, 4, 5], "3–5"), ([1, 3, 5], "1, 3, 5")]
)
def test_neighbouring_layers_are_written_as_a_range(layers: list[int], text: str) -> None:
    assert layer_range(layers) == text
