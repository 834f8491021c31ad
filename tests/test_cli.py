"""The command line: what it makes, and what it says when something is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from builders import make_decoder, make_tokenizer
from diekae import DiekaeModel
from diekae.answering import Answer, Source
from diekae.cli import VERBS, load_verb, typer_app
from diekae.cli.console import progress_bars
from diekae.recipe import make_recipe, read_recipe
from diekae.report import write_report

COLOURS, THINGS = ("red", "blue", "green", "silver"), ("house", "bridge", "tower", "castle", "boat", "door", "gate")
RECIPE = """
name = "tiny"
decoder = "{decoder}"
folder = "{folder}"

[diekae]
layers = "all"
encoder_options = {{ width = 16, heads = 2, mlp_width = 24 }}

[training]
max_steps = 8
batch_size = 4
evaluations = 2
logging_steps = 2

[[data.train]]
source = "jsonl"
folder = "data"

[[data.validation]]
source = "jsonl"
folder = "data"

[[data.test]]
source = "jsonl"
folder = "data"

[[data.test]]
source = "jsonl"
folder = "data"
limit = 3
"""


def examples() -> list[dict[str, Any]]:
    return [
        {"knowledge": f"the {thing} is {colour}", "input": f"what is the {thing}", "target": colour}
        for thing in THINGS
        for colour in COLOURS
    ]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(typer_app, [str(argument) for argument in arguments])


def said_by(*arguments: str | Path) -> str:
    """The text of the ValueError (or kin) that the arguments lead to."""
    result = invoke(*arguments)
    assert isinstance(result.exception, ValueError | OSError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved decoder, data and a recipe."""
    folder = tmp_path_factory.mktemp("cli")
    make_decoder().save_pretrained(folder / "decoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    (folder / "data").mkdir()
    rows = examples()
    for part, chosen in (("train", rows[:20]), ("validation", rows[20:24]), ("test", rows[24:])):
        (folder / "data" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    (folder / "tiny.toml").write_text(RECIPE.format(decoder=folder / "decoder", folder=folder))
    (folder / "fact.txt").write_text("the tower is blue\n")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[Path, str]:
    """The folder of a run, and what it printed."""
    result = invoke("train", place / "tiny.toml", "--out", place / "run")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return place / "run", result.output


def refuse_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


def strict(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=refuse_constant)


def test_help_names_every_verb_and_every_verb_has_help() -> None:
    overview = invoke("--help")
    assert overview.exit_code == 0
    for verb in VERBS:
        assert verb in overview.output
        result = invoke(verb, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_a_recipe_leads_to_a_bank_its_figures_and_a_report(trained: tuple[Path, str]) -> None:
    folder, output = trained
    assert (folder / "bank" / "config.json").is_file()
    assert not re.search(r"\{'(eval_)?loss'", output), "the Trainer printed its own lines between ours"
    assert "recovered" in output and "trainable params" in output
    result = strict(folder / "result.json")
    assert set(result["sets"]) == {"jsonl", "jsonl 2"}, "two sources of one name are two rows"
    assert [found["n"] for found in result["sets"].values()] == [4, 3]
    assert {"torch", "transformers", "diekae", "python"} <= set(result["versions"])
    assert {"processor", "cores", "memory_gb"} <= set(result["machine"])
    assert result["examples"] == {"train": 20, "validation": 4}
    assert result["layers"] == [0, 1, 2, 3]
    assert result["recipe"]["name"] == "tiny"
    assert result["recipe"]["folder"] is None, "a path of this machine"
    for found in result["sets"].values():
        assert set(found["seconds"]) == {"bare", "prompted", "prompted_cached", "prepare", "ours"}
        assert {"bare", "prompted", "ours"} <= set(found["nll"])
    assert any("eval_recovered" in line for line in result["log"])


def test_the_report_stands_on_its_own(trained: tuple[Path, str]) -> None:
    html = (trained[0] / "report.html").read_text()
    assert "<svg" in html and "</svg>" in html
    assert not re.search(r"""(src|href|srcset|action)\s*=\s*["']?\s*(https?:)?//""", html), "a resource from elsewhere"
    assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import|<script|<link|<iframe|<img", html)
    assert "<!DOCTYPE svg" not in html and "<?xml" not in html
    assert "tiny" in html and "jsonl 2" in html


def test_the_report_shows_texts_as_they_are(trained: tuple[Path, str], tmp_path: Path) -> None:
    result = strict(trained[0] / "result.json")
    result["answers"] = [{"question": "<b>?", "without": "<script>alert(1)</script>", "with": "a & b"}]
    result["document"] = "1 < 2"
    html = write_report(tmp_path / "report.html", result).read_text()
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "a &amp; b" in html and "1 &lt; 2" in html


def test_a_bank_is_evaluated_on_files(trained: tuple[Path, str], place: Path, tmp_path: Path) -> None:
    other = tmp_path / "test.jsonl"
    other.write_text((place / "data" / "train.jsonl").read_text())
    figures = tmp_path / "figures.json"
    data = place / "data" / "test.jsonl"
    result = invoke(
        *("evaluate", "--bank", trained[0] / "bank", "--data", data, "--data", other, "--limit", "4"),
        *("--answers", "--json", figures),
    )
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    found = strict(figures)
    assert len(found["sets"]) == 2, "two files of one name"
    assert found["scope"] == "all" and found["format"] == "plain" and found["limit"] == 4
    assert "versions" in found and "machine" in found
    answers = found["sets"]["test.jsonl"]["answers"]
    assert set(answers) == {"bare", "prompted", "ours"} and all(
        0 <= s["exact"] <= s["f1"] <= 1 for s in answers.values()
    )
    assert "exact match" in result.output
    run = strict(trained[0] / "result.json")
    assert found["sets"]["test.jsonl"]["nll"]["ours"] == pytest.approx(run["sets"]["jsonl"]["nll"]["ours"], rel=1e-4)


def test_a_bank_is_asked(trained: tuple[Path, str], place: Path) -> None:
    result = invoke(
        "ask",
        "--bank",
        trained[0] / "bank",
        "--knowledge",
        place / "fact.txt",
        "--knowledge",
        place / "fact.txt",
        "what [/is] the [bold]tower",
    )
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "sure that the documents answer this" in result.output
    assert "what [/is] the [bold]tower" in result.output, "brackets are no markup"


def test_answers_may_hold_brackets(trained: tuple[Path, str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Answer("what", "[/INST] [red]blue", False, 0.2, "[bold]none", (Source("1", "[t]", "[h]", "[b]x", 1.0),), 0.1)
    monkeypatch.setattr(sys.modules["diekae.cli.ask"], "ask", lambda *_, **__: made)
    options = ("ask", "--bank", trained[0] / "bank", "--knowledge", place / "fact.txt", "what")
    output = invoke(*options).output
    assert "Not in your documents" in output and "[bold]none" in output and "[t], [h]" in output and "[b]x" in output
    monkeypatch.setattr(sys.modules["diekae.cli.ask"], "ask", lambda *_, **__: replace(made, answered=True))
    assert "[/INST] [red]blue" in invoke(*options).output


def test_an_answer_is_written_for_scripts(trained: tuple[Path, str], place: Path, tmp_path: Path) -> None:
    (place / "docs").mkdir()
    (place / "docs" / "tower.md").write_text("# The tower\n\nthe tower is red and old")
    (place / "docs" / "ship.md").write_text("# The ship\n\nthe ship is blue")
    options = ("ask", "--bank", trained[0] / "bank", "--knowledge", place / "docs", "--json", tmp_path / "a.json")
    result = invoke(*options, "--threshold", "1", "which ship is blue")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    found = strict(tmp_path / "a.json")
    assert found["question"] == "which ship is blue" and found["answered"] is False and found["bare"] is not None
    assert 0 < found["confidence"] < 1 and found["seconds"] > 0
    (source,) = found["sources"]
    assert source["title"] == "ship.md" and source["heading"] == "The ship" and source["share"] is None


def test_train_refuses_a_folder_with_old_checkpoints_and_resumes_it(trained: tuple[Path, str], place: Path) -> None:
    folder = trained[0]
    before = DiekaeModel.from_pretrained(folder / "bank").bank.state_by_layer()
    text = said_by("train", place / "tiny.toml", "--out", folder)
    assert "earlier run's checkpoints" in text and "--resume" in text
    result = invoke("train", place / "tiny.toml", "--out", folder, "--resume", "--json", place / "resumed.json")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    after = DiekaeModel.from_pretrained(folder / "bank").bank.state_by_layer()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert (
        strict(place / "resumed.json")["sets"]["jsonl"]["nll"] == strict(folder / "result.json")["sets"]["jsonl"]["nll"]
    )


STAGES = """
[[stage]]
objective = "difference"

[[stage]]
objective = "cross_entropy"
max_steps = 4
"""


@pytest.fixture(scope="module")
def staged(place: Path) -> Path:
    path = place / "staged.toml"
    path.write_text((place / "tiny.toml").read_text() + STAGES)
    result = invoke("train", path, "--out", place / "staged")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return place / "staged"


def bank_of(folder: Path) -> dict[str, Any]:
    return DiekaeModel.from_pretrained(folder / "bank").bank.state_by_layer()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(bool((one[name] == other[name]).all()) for name in one)


def test_each_stage_goes_on_where_the_last_one_ended(staged: Path, trained: tuple[Path, str]) -> None:
    first, second = bank_of(staged / "1-difference"), bank_of(staged / "2-cross_entropy")
    assert same(first, bank_of(trained[0])), "the first stage alone is the same recipe without stages"
    assert same(second, bank_of(staged)) and not same(first, second)
    for name in first:
        if name.endswith((".scale", ".bias")):
            assert bool((first[name] == second[name]).all()), "a trained bank is not calibrated again"
    log = strict(staged / "result.json")["log"]
    assert [max(line["step"] for line in log if line["stage"] == number) for number in (0, 1)] == [8, 4]
    assert "objective: cross_entropy" in (staged / "report.html").read_text()


def test_resuming_in_the_middle_of_a_later_stage_ends_the_same(staged: Path, place: Path) -> None:
    whole = bank_of(staged)
    cut = place / "cut"
    shutil.copytree(staged, cut)
    shutil.rmtree(cut / "bank")
    shutil.rmtree(cut / "2-cross_entropy" / "bank")
    shutil.rmtree(cut / "2-cross_entropy" / "checkpoint-4")
    (cut / "1-difference" / "seconds.txt").write_text("1000.0\n")
    result = invoke("train", place / "staged.toml", "--out", cut, "--resume")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert same(whole, bank_of(cut))
    assert strict(cut / "result.json")["training_seconds"] > 1000, "the seconds of all calls count"
    assert "earlier run's checkpoints" in said_by("train", place / "staged.toml", "--out", cut)


def test_a_finished_run_may_be_moved(trained: tuple[Path, str], place: Path) -> None:
    moved = place / "moved"
    shutil.copytree(trained[0], moved)
    shutil.rmtree(moved / "bank")

    def note(place_of: Callable[[Path], Path]) -> None:
        for path in moved.glob("checkpoint-*/trainer_state.json"):
            state = json.loads(path.read_text())
            state["best_model_checkpoint"] = str(place_of(Path(state["best_model_checkpoint"])))
            path.write_text(json.dumps(state))

    note(lambda best: place / "gone" / best.name)
    result = invoke("train", place / "tiny.toml", "--out", moved, "--resume")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert same(bank_of(moved), bank_of(trained[0]))
    note(lambda best: best.with_name("checkpoint-5"))
    assert "is missing" in said_by("train", place / "tiny.toml", "--out", moved, "--resume")


def test_a_recipe_goes_on_from_a_trained_bank(place: Path, trained: tuple[Path, str]) -> None:
    text = (place / "tiny.toml").read_text()
    new = text[text.index("[diekae]") : text.index("[training]")]
    rates = "".join(f"{name}learning_rate = 1e-12\n" for name in ("", "start_", "final_"))
    (place / "on.toml").write_text(text.replace(new, "").replace("[training]\n", f"[training]\n{rates}", 1))
    result = invoke("train", place / "on.toml", "--set", f"bank={trained[0] / 'bank'}", "--out", place / "on")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    before, after = bank_of(trained[0]), bank_of(place / "on")
    assert all(
        torch.allclose(before[name], tensor, atol=1e-6) for name, tensor in after.items() if "angles" not in name
    )
    recipe = strict(place / "on" / "result.json")["recipe"]
    assert recipe["bank"] == "bank", "its name, without the path of this machine"
    assert recipe["diekae"]["layers"] == "all"
    assert "leave out the one or the other" in said_by("train", place / "tiny.toml", "--set", "bank=any")


def test_stages_that_are_no_tables_are_refused(place: Path) -> None:
    assert "[[stage]]" in said_by("train", place / "tiny.toml", "--set", "stage=[]")
    assert "[[stage]]" in said_by("train", place / "tiny.toml", "--set", "stage=3")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_targets_are_not_taught_from_unrelated_knowledge(place: Path, part: str) -> None:
    def settings(objective: str) -> list[str]:
        return ["--set", f"data.{part}.0.unrelated=0.2", "--set", f"training.objective={objective}"]

    text = said_by("train", place / "tiny.toml", *settings("cross_entropy"), "--out", place / "never")
    assert f"[[data.{part}]] of 'jsonl' has unrelated=0.2" in text and "knowledge that does not hold it" in text
    assert not (place / "never").exists()
    for objective in ("difference", "distill"):
        assert read_recipe(place / "tiny.toml", settings(objective)[1::2]).data[part][0].unrelated == 0.2
    staged = (place / "tiny.toml").read_text() + '[[stage]]\n[[stage]]\nobjective = "cross_entropy"\n'
    (place / "two.toml").write_text(staged)
    assert "has unrelated=0.2" in said_by("train", place / "two.toml", "--set", f"data.{part}.0.unrelated=0.2")
    assert read_recipe(place / "two.toml", ["data.test.0.unrelated=0.2"]), "what is measured teaches nothing"


def test_set_changes_the_recipe(place: Path) -> None:
    path = place / "tiny.toml"
    recipe = read_recipe(path, ["training.epochs=3", "decoder=other", "data.test.1.limit=2", "diekae.layers=[1, 2]"])
    assert (recipe.stages[0].epochs, recipe.decoder, recipe.diekae.layers) == (3, "other", (1, 2))
    assert recipe.data["test"][1].limit == 2
    assert read_recipe(path, ["training.betas=[0.8, 0.9]"]).stages[0].betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.epochs", "key=value"),
        ("=3", "key=value"),
        ("training.batch_size=many", "batch_size='many' must be a number"),
        ("training.batch_size=0", "must be positive"),
        ("training.batch_size.x=1", "names no place"),
        ("data.test.7.limit=1", "names no place"),
        ("data.test.first.limit=1", "names no place"),
        ("data.test.0.limits=1", "limits"),
        ("data.test=[]", "no [[data.test]]"),
        ("trainings.epochs=1", "unknown keys ['trainings']"),
        ("diekae.scope=everywhere", "scope='everywhere'"),
        ("diekae.encoder=readers", "Did you mean 'reader'"),
        ("diekae.encoder_options.size=3", "'size' is not known"),
        ("diekae.layers=every:0", "layers='every:0'"),
        ("preset=papers", "'paper'"),
        ("dtype=float8", "dtype='float8'"),
        ("training.objective=distil", "Did you mean 'distill'"),
    ],
)
def test_a_bad_setting_is_named(place: Path, setting: str, words: str) -> None:
    assert words in said_by("train", place / "tiny.toml", "--set", setting, "--out", place / "never")
    assert not (place / "never").exists()


def test_unknown_keys_inside_a_table_warn(place: Path) -> None:
    with pytest.warns(UserWarning, match="'epoch' is not known"):
        read_recipe(place / "tiny.toml", ["training.epoch=3"])
    with pytest.warns(UserWarning, match="'layer' is not known"):
        read_recipe(place / "tiny.toml", ["diekae.layer=3"])


def test_a_recipe_that_cannot_be_read_is_named(place: Path, tmp_path: Path) -> None:
    assert "no recipe at" in said_by("train", tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("decoder = [")
    assert "not TOML" in said_by("train", tmp_path / "bad.toml")
    with pytest.raises(ValueError, match=r"no \[\[data.train\]\]"):
        make_recipe({})
    text = said_by("train", place / "tiny.toml", "--set", f"decoder={tmp_path / 'none'}", "--out", tmp_path / "run")
    assert "cannot load a decoder" in text
    text = said_by("train", place / "tiny.toml", "--set", "data.train.0.source=json", "--out", tmp_path / "run")
    assert "did you mean 'jsonl'" in text


def test_a_missing_bank_is_named(place: Path) -> None:
    data = place / "data" / "test.jsonl"
    assert "is not a bank" in said_by("evaluate", "--bank", place / "nowhere", "--data", data)
    assert "is not a bank" in said_by("ask", "--bank", place / "data", "--knowledge", place / "fact.txt", "what")


def test_missing_files_are_named(trained: tuple[Path, str], place: Path) -> None:
    bank = trained[0] / "bank"
    assert "no such file" in said_by("evaluate", "--bank", bank, "--data", place / "none.jsonl")
    assert "no knowledge at" in said_by("ask", "--bank", bank, "--knowledge", place / "none.txt", "what")
    (place / "blank.txt").write_text(" \n")
    assert "holds no text" in said_by("ask", "--bank", bank, "--knowledge", place / "blank.txt", "what")


@pytest.mark.parametrize("option", ["scope", "format", "dtype"])
def test_an_unknown_choice_is_named_before_anything_is_loaded(place: Path, option: str) -> None:
    data = place / "data" / "test.jsonl"
    text = said_by("evaluate", "--bank", place / "nowhere", "--data", data, f"--{option}", "every")
    assert f"--{option} 'every' is not known; choose one of" in text


def test_ask_knows_its_formats(place: Path) -> None:
    text = said_by("ask", "--bank", place / "nowhere", "--knowledge", place / "fact.txt", "--format", "xml", "what")
    assert "--format 'xml' is not known; choose one of plain, qa, chat" in text


def test_a_bad_line_is_named(place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(examples()[0]) + '\n{"knowledge": "k", "input": "x"}\n')
    assert f"{bad}:2: no key 'target'" in said_by("evaluate", "--bank", place / "nowhere", "--data", bad)


def test_examples_without_knowledge_are_counted(trained: tuple[Path, str], tmp_path: Path) -> None:
    data = tmp_path / "none.jsonl"
    data.write_text(json.dumps({"knowledge": None, "input": "what is", "target": "red"}) + "\n")
    assert "1 of 1 examples have none" in said_by("evaluate", "--bank", trained[0] / "bank", "--data", data)


def test_demo_removes_only_what_a_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "bank").mkdir()
    assert "'thesis.txt', which no run wrote" in said_by("demo", "--out", tmp_path, "--steps", "1")
    assert (tmp_path / "thesis.txt").is_file() and (tmp_path / "bank").is_dir()


def in_process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from diekae.cli import app; app()", *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_error_is_one_paragraph_on_stderr_without_a_traceback(place: Path) -> None:
    done = in_process("train", place / "tiny.toml", "--set", "data.test=[]")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "error" in done.stderr and "no [[data.test]]" in done.stderr, "brackets are no markup"
    assert len(done.stderr.strip().splitlines()) == 1


def test_bench_names_a_wrong_benchmark_and_a_wrong_dtype() -> None:
    assert "benchmark 'speed' is not known; choose one of inference" in said_by("bench", "speed")
    assert "--dtype 'int4' is not known; choose one of auto, fp32" in said_by("bench", "decode", "--dtype", "int4")


def test_help_is_there_at_once_and_says_what_the_verbs_say() -> None:
    asked = (
        "import atexit, sys; from diekae.cli import app\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules))))\n"
        "app()"
    )
    done = subprocess.run([sys.executable, "-c", asked, "--help"], capture_output=True, text=True, timeout=60)
    assert "reproduce" in done.stdout and done.stdout.rstrip().endswith("[]"), "neither was imported"
    for verb, words in VERBS.items():
        assert load_verb(verb).help.split("\n\n")[0].replace("\n", " ").strip() == words, verb


def test_a_verb_that_is_not_known_is_named() -> None:
    assert "No such command 'trian'" in invoke("trian").output and "train" in invoke("trian").output


def test_debug_shows_the_traceback(place: Path) -> None:
    done = in_process("evaluate", "--bank", place / "nowhere", "--data", place / "none.jsonl", DIEKAE_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "no such file" in done.stderr


def test_progress_without_a_terminal_is_a_line_now_and_then_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("diekae.cli.console.time.monotonic", lambda: now[0])
    with progress_bars() as (show, _):
        for step in range(1, 101):
            now[0] += 1.0
            show("training", step, 100)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training: {done} of 100" for done in (30, 60, 90, 100)]
    assert lines[0].endswith("0:29, about 1:07 left")
    assert "left" not in lines[-1]
