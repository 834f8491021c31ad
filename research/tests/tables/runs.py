"""Runs of tables on the tiny decoder, and figures of single examples to compare them with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from small import read
from torch.nn import functional as F
from typer.testing import CliRunner

from diekae.data.prompt import Prompt
from diekae_research.cli import typer_app
from diekae_research.methods import Fitted, Task
from diekae_research.tables import Lab, Plan

SIZES = ("--train-examples", "12", "--limit", "6", "--epochs", "1")
FEW = ("--methods", "bare,prompted,ours")


def invoke(source: Path, table: str, out: Path, *options: str) -> Result:
    arguments = ["reproduce", table, "--model", source / "decoder", "--data", source / "data", "--out", out]
    return CliRunner().invoke(typer_app, [*map(str, arguments), *SIZES, *options])


def run_table(source: Path, table: str, out: Path, *options: str) -> dict[str, Any]:
    """Run a table and return its JSON values."""
    result = invoke(source, table, out, *options)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    values: dict[str, Any] = read(out / f"{table}.json")
    assert {"versions", "machine", "plan", "missing"} <= set(values)
    assert str(source) not in (out / f"{table}.json").read_text(), "a path of this machine"
    assert not (out / "work").exists(), "checkpoints stay behind"
    return values


def make_lab(source: Path, **options: Any) -> Lab:
    sizes = {"train_examples": 12, "limit": 6, "epochs": 1.0}
    return Lab(Plan(source / "data", str(source / "decoder"), **{**sizes, **options}), source / "lab")


def rows_of(sheet: dict[str, Any]) -> list[dict[str, str]]:
    return [dict(zip(sheet["columns"], row, strict=True)) for row in sheet["rows"]]


def row_nll(lab: Lab, prompt: Prompt, knowledge: bool) -> tuple[float, int]:
    """The NLL and the tokens of one target, in a batch of its own."""
    before = prompt.anchor + (prompt.knowledge if knowledge else ()) + prompt.input
    with torch.no_grad():
        logits = lab.decoder(input_ids=torch.tensor([before + prompt.target])).logits[0].float()
    loss = F.cross_entropy(logits[len(before) - 1 : -1], torch.tensor(prompt.target), reduction="sum")
    return float(loss), len(prompt.target)


def ids_of(lab: Lab, text: str) -> tuple[int, ...]:
    return tuple(lab.tokenizer(text, add_special_tokens=False).input_ids)


def record_fits(monkeypatch: pytest.MonkeyPatch, module: Any, fail_at: int | None = None) -> list[str]:
    """Record which methods a module fits; call number ``fail_at`` is interrupted as by Ctrl-C."""
    calls: list[str] = []
    original: Callable[[str, Task], Fitted] = module.fit

    def fit(name: str, task: Task) -> Fitted:
        calls.append(name)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return original(name, task)

    monkeypatch.setattr(module, "fit", fit)
    return calls
