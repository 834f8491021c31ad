"""`diekae train`: the bank, its figures and report, stages, and resuming."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_runs import error_of, read_json, succeed
from diekae import DiekaeModel
from diekae.report import write_report
from diekae.training.checkpoints import write_manifest

STAGES = """
[[stage]]
objective = "difference"

[[stage]]
objective = "cross_entropy"
max_steps = 4
"""


@pytest.fixture(scope="module")
def staged(workspace: Path) -> Path:
    path = workspace / "staged.toml"
    path.write_text((workspace / "tiny.toml").read_text() + STAGES)
    succeed("train", path, "--out", workspace / "staged")
    return workspace / "staged"


def bank_of(folder: Path) -> dict[str, Any]:
    return DiekaeModel.from_pretrained(folder / "bank").bank.state_by_layer()


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(bool((first[name] == second[name]).all()) for name in first)


def test_train_writes_a_bank_its_figures_and_a_report(trained: tuple[Path, str]) -> None:
    folder, output = trained
    assert (folder / "bank" / "config.json").is_file()
    assert not re.search(r"\{'(eval_)?loss'", output), "the Trainer printed lines of its own"
    assert "recovered" in output and "trainable params" in output
    result = read_json(folder / "result.json")
    assert set(result["sets"]) == {"jsonl", "jsonl 2"}, "two sources of one name are two rows"
    assert [values["n"] for values in result["sets"].values()] == [4, 3]
    assert {"torch", "transformers", "diekae", "python"} <= set(result["versions"])
    assert {"processor", "cores", "memory_gb"} <= set(result["machine"])
    assert result["examples"] == {"train": 20, "validation": 4}
    assert result["layers"] == [0, 1, 2, 3]
    assert result["recipe"]["name"] == "tiny"
    assert result["recipe"]["folder"] is None, "no path of this machine"
    assert result["recipe"]["decoder"] == "decoder", "no path of this machine"
    _, metadata, card = (folder / "bank" / "README.md").read_text().split("---\n", 2)
    assert "base_model" not in metadata and "frozen decoder `decoder`" in card, "others cannot load it by a name"
    assert 'load_decoder("decoder")' in card and '"bank", decoder, tokenizer)' in card
    assert "20 examples (jsonl)" in card and "| jsonl | 4 | " in card and "| jsonl 2 | 3 | " in card
    for values in result["sets"].values():
        assert set(values["seconds"]) == {"bare", "prompted", "prompted_cached", "prepare", "ours"}
        assert {"bare", "prompted", "ours"} <= set(values["nll"])
    assert any("eval_recovered" in line for line in result["log"])


def test_the_report_loads_nothing_from_elsewhere(trained: tuple[Path, str]) -> None:
    html = (trained[0] / "report.html").read_text()
    assert "<svg" in html and "</svg>" in html
    assert not re.search(r"""(src|href|srcset|action)\s*=\s*["']?\s*(https?:)?//""", html), "a resource from elsewhere"
    assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import|<script|<link|<iframe|<img", html)
    assert "<!DOCTYPE svg" not in html and "<?xml" not in html
    assert "tiny" in html and "jsonl 2" in html


def test_the_report_escapes_texts(trained: tuple[Path, str], tmp_path: Path) -> None:
    result = read_json(trained[0] / "result.json")
    result["answers"] = [{"question": "<b>?", "without": "<script>alert(1)</script>", "with": "a & b"}]
    result["document"] = "1 < 2"
    html = write_report(tmp_path / "report.html", result).read_text()
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "a &amp; b" in html and "1 &lt; 2" in html


@pytest.mark.parametrize(
    "options",
    [("--minutes", "5"), ("--layers", "2"), ("--batch-size", "4"), ("--dtype", "fp32"), ("--documents", ".")],
)
def test_an_option_without_effect_is_refused(workspace: Path, options: tuple[str, str]) -> None:
    assert f"{options[0]} is for --decoder" in error_of("train", workspace / "tiny.toml", *options)
    assert "--set is for a recipe" in error_of("train", "--decoder", "x", *options, "--set", "training.epochs=3")


def test_train_refuses_a_folder_with_old_checkpoints_and_resumes_it(trained: tuple[Path, str], workspace: Path) -> None:
    folder = trained[0]
    before = DiekaeModel.from_pretrained(folder / "bank").bank.state_by_layer()
    text = error_of("train", workspace / "tiny.toml", "--out", folder)
    assert "holds an earlier run" in text and "--resume" in text
    succeed("train", workspace / "tiny.toml", "--out", folder, "--resume", "--json", workspace / "resumed.json")
    after = DiekaeModel.from_pretrained(folder / "bank").bank.state_by_layer()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    results = [read_json(path)["sets"]["jsonl"]["nll"] for path in (workspace / "resumed.json", folder / "result.json")]
    assert results[0] == results[1]


def test_each_stage_continues_the_one_before(staged: Path, trained: tuple[Path, str]) -> None:
    first, second = bank_of(staged / "1-difference"), bank_of(staged / "2-cross_entropy")
    assert same(first, bank_of(trained[0])), "the first stage equals the recipe without stages"
    assert same(second, bank_of(staged)) and not same(first, second)
    for name in first:
        if name.endswith((".scale", ".bias")):
            assert bool((first[name] == second[name]).all()), "a trained bank is not calibrated again"
    log = read_json(staged / "result.json")["log"]
    assert [max(line["step"] for line in log if line["stage"] == number) for number in (0, 1)] == [8, 4]
    assert "objective: cross_entropy" in (staged / "report.html").read_text()


def test_resuming_in_a_later_stage_ends_with_the_same_bank(staged: Path, workspace: Path) -> None:
    whole = bank_of(staged)
    cut = workspace / "cut"
    shutil.copytree(staged, cut)
    shutil.rmtree(cut / "bank")
    shutil.rmtree(cut / "2-cross_entropy" / "bank")
    shutil.rmtree(cut / "2-cross_entropy" / "checkpoint-4")
    (cut / "1-difference" / "seconds.txt").write_text("1000.0\n")
    succeed("train", workspace / "staged.toml", "--out", cut, "--resume")
    assert same(whole, bank_of(cut))
    assert read_json(cut / "result.json")["training_seconds"] > 1000, "the seconds of all calls are added"
    assert "holds an earlier run" in error_of("train", workspace / "staged.toml", "--out", cut)


def test_a_finished_run_may_be_moved(trained: tuple[Path, str], workspace: Path) -> None:
    moved = workspace / "moved"
    shutil.copytree(trained[0], moved)
    shutil.rmtree(moved / "bank")

    def set_best(path_of: Callable[[Path], Path]) -> None:
        for path in moved.glob("checkpoint-*/trainer_state.json"):
            state = json.loads(path.read_text())
            state["best_model_checkpoint"] = str(path_of(Path(state["best_model_checkpoint"])))
            path.write_text(json.dumps(state))
            write_manifest(path.parent)

    set_best(lambda best: workspace / "gone" / best.name)
    succeed("train", workspace / "tiny.toml", "--out", moved, "--resume")
    assert same(bank_of(moved), bank_of(trained[0]))
    set_best(lambda best: best.with_name("checkpoint-5"))
    assert "is missing" in error_of("train", workspace / "tiny.toml", "--out", moved, "--resume")


def test_a_recipe_can_continue_a_trained_bank(workspace: Path, trained: tuple[Path, str]) -> None:
    text = (workspace / "tiny.toml").read_text()
    new = text[text.index("[diekae]") : text.index("[training]")]
    rates = "".join(f"{name}learning_rate = 1e-12\n" for name in ("", "start_", "final_"))
    (workspace / "on.toml").write_text(text.replace(new, "").replace("[training]\n", f"[training]\n{rates}", 1))
    succeed("train", workspace / "on.toml", "--set", f"bank={trained[0] / 'bank'}", "--out", workspace / "on")
    before, after = bank_of(trained[0]), bank_of(workspace / "on")
    assert all(
        torch.allclose(before[name], tensor, atol=1e-6) for name, tensor in after.items() if "angles" not in name
    )
    recipe = read_json(workspace / "on" / "result.json")["recipe"]
    assert recipe["bank"] == "bank", "the name only, no path of this machine"
    assert recipe["diekae"]["layers"] == "all"
    assert "leave one of them out" in error_of("train", workspace / "tiny.toml", "--set", "bank=any")
