"""`diekae ask`: answers with and without knowledge, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from diekae.cli.console import SHIPPED, BankOption, check_choice, console
from diekae.memory import Knowledge
from diekae.model import DiekaeModel


def command(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    knowledge: Annotated[list[Path], typer.Option(help="A text file; may be repeated.")],
    bank: BankOption = SHIPPED,
    format: Annotated[str | None, typer.Option(help="plain, qa or chat; the bank's own by default.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 24,
) -> None:
    """Answer a question with knowledge injected, and without."""
    check_choice("format", format)
    for path in knowledge:
        if not path.is_file():
            raise FileNotFoundError(f"no knowledge file at {str(path)!r}; expected a text file.")
    with console.status("loading the bank and its decoder"):
        model = DiekaeModel.from_pretrained(bank)
    memory = model.prepare([path.read_text() for path in knowledge])
    table = Table(show_header=True)
    for name in ("", "answer"):
        table.add_column(name)
    table.add_row("without knowledge", escape(answer(model, question, None, format, max_new_tokens)))
    table.add_row("with knowledge", escape(answer(model, question, memory, format, max_new_tokens)))
    console.print(f"[bold]{escape(question)}[/]", highlight=False)
    console.print(table)


def answer(
    model: DiekaeModel, question: str, knowledge: Knowledge, format: str | None = None, max_new_tokens: int = 24
) -> str:
    """Generate greedily, and cut after the first line."""
    inputs: dict[str, Any] = model.tokenize(question, format)
    tokenizer = model.need_prompter().tokenizer
    out = model.generate(
        **inputs,
        knowledge=knowledge,
        min_new_tokens=1,  # an end at once is no answer
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    text = str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
    return text.split("\n")[0] if (format or model.config.format) != "chat" else text
