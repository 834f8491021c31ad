"""`diekae edit`: make edits, list them, revert them, and ask with and without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from diekae.answering import reply
from diekae.cli.console import (
    SHIPPED,
    BankOption,
    DeviceOption,
    OwnFormatOption,
    console,
    load_model,
    progress_bars,
)
from diekae.cli.output import printable, question_text
from diekae.edit import Edit, Edits, load_edits, read_edits
from diekae.edit.attach import GateName, open_edits
from diekae.edit.database import FILE
from diekae.edit.store import Record
from diekae.edit.trained_parts import TrainedParts, load_trained

group = typer.Typer(help="Edit facts; each edit can be reverted.", no_args_is_help=True, add_completion=False)
FolderOption = Annotated[Path, typer.Option(help="Folder of the edits.")]
GateOption = Annotated[
    GateName | None,
    typer.Option(help="learned or mention; by default learned, if one was trained for the bank."),
]
TrainedOption = Annotated[
    Path | None,
    typer.Option(
        help="Trained gate and adapter: a file that `diekae-research edit train` wrote; by default the bank's own."
    ),
]
EDITS = Path("edits")


@group.command()
def add(
    file: Annotated[
        Path | None, typer.Argument(help="Edits as JSON, JSONL or CSV (our layout, MEMIT's or EasyEdit's).")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="One edit: its prompt, which contains the subject.")] = None,
    subject: Annotated[str | None, typer.Option(help="One edit: who or what it is about.")] = None,
    target: Annotated[str | None, typer.Option(help="One edit: the new answer.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another name of the subject; may be repeated.")] = None,
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    gate: GateOption = None,
    trained: TrainedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Make the edits of a file, or one edit from the options."""
    edits = _edits_of(file, prompt, subject, target, alias)
    store = _open(folder, bank, gate, trained, device)
    with progress_bars() as (show, _):
        records = store.add(edits, progress=show)
    console.print(_table(records, f"{len(records)} edits in {folder}"))
    ids = {record.id for record in records}
    for older, newer in store.conflicts():
        if newer.id in ids or older.id in ids:
            console.print(
                f"edits {older.id} and {newer.id} seem to contradict each other: {older.edit.prompt!r} → "
                f"{older.edit.target!r}, {newer.edit.prompt!r} → {newer.edit.target!r}. Where both apply, "
                f"{newer.id} wins. Revert one of them.",
                highlight=False,
                markup=False,
            )


def _edits_of(
    file: Path | None, prompt: str | None, subject: str | None, target: str | None, aliases: Sequence[str] | None
) -> list[Edit]:
    """Return the edits of a file, or the one edit of the options."""
    options = {"--prompt": prompt, "--subject": subject, "--target": target}
    if (file is None) == all(value is None for value in options.values()):
        raise ValueError("give a file of edits, or --prompt, --subject and --target of one edit.")
    if file is not None:
        return read_edits(file)
    if missing := [name for name, value in options.items() if not value]:
        raise ValueError(f"one edit needs --prompt, --subject and --target; {', '.join(missing)} is missing.")
    return [Edit(str(prompt), str(subject), str(target), tuple(aliases or ()))]


@group.command(name="list")
def list_edits(
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    every: Annotated[bool, typer.Option("--all", help="Show superseded and reverted edits too.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Show the edits in force."""
    records = _open_existing(folder, bank, device).list(every=every)
    console.print(_table(records, f"{len(records)} edits in {folder}"))


@group.command()
def revert(
    number: Annotated[int, typer.Argument(metavar="ID", help="The edit's id, as `list` shows it.")],
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    device: DeviceOption = "auto",
) -> None:
    """Revert an edit; an older edit that it superseded is in force again."""
    edits = _open_existing(folder, bank, device)
    record = edits.revert(number)
    statement = "its record is damaged" if record is None else _printable(record.edit.statement)
    console.print(f"reverted {number}: {statement}", highlight=False)
    for other in edits.list():
        if record is not None and other.edit.fact == record.edit.fact:
            console.print(f"in force again: {other.id}: {_printable(other.edit.statement)}", highlight=False)


@group.command()
def ask(
    question: Annotated[str, typer.Argument(callback=question_text, help="The question.")],
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    gate: GateOption = None,
    trained: TrainedOption = None,
    format: OwnFormatOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 24,
    device: DeviceOption = "auto",
) -> None:
    """Ask with and without the edits, and show which of them applied."""
    _check_folder(folder)
    edits = _open(folder, bank, gate, trained, device)
    model = edits.model
    table = Table("", "answer")
    table.add_row("without edits", _printable(reply(model, question, None, format, max_new_tokens)))
    load_edits(model, folder, gate=edits.gate, trained=TrainedParts(adapter=edits.adapter))
    table.add_row("with edits", _printable(reply(model, question, None, format, max_new_tokens)))
    console.print(f"[bold]{_printable(question)}[/]", highlight=False)
    console.print(table)
    applied = [edits.store.record(number) for number in edits.which([question])[0]]
    console.print(_table(applied, "edits that applied") if applied else "no edit applied")


def _open(folder: Path, bank: Path, gate: GateName | None, trained: Path | None, device: str) -> Edits:
    model = load_model(bank, device)
    return open_edits(model, folder, gate, None if trained is None else load_trained(trained, model))


def _open_existing(folder: Path, bank: Path, device: str) -> Edits:
    """Open stored edits with a gate that does not run the decoder."""
    _check_folder(folder)
    return _open(folder, bank, "mention", None, device)


def _check_folder(folder: Path) -> None:
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no edits; make some with `diekae edit add`.")


def _table(records: Sequence[Record], title: str) -> Table:
    table = Table(title=_printable(title), title_justify="left")
    for name in ("id", "prompt", "target", "subject", "state", "made"):
        table.add_column(name, justify="right" if name == "id" else "left")
    for record in records:
        edit = record.edit
        texts = map(_printable, (edit.prompt, edit.target, " = ".join(edit.names)))
        table.add_row(str(record.id), *texts, record.state, record.created[:16])
    return table


def _printable(text: str) -> str:
    """Return a text that is no markup; it is made printable here already, so that a table's columns fit."""
    return escape(printable(text))
