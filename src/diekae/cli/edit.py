"""`diekae edit`: facts that a decoder states from now on: make them, look at them, take them back, and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from diekae.answering import reply
from diekae.cli.console import SHIPPED, BankOption, DeviceOption, check_choice, console, load_model, progress_bars
from diekae.edit import Edit, read_edits
from diekae.edit.editing import GATES, load_edits, open_edits
from diekae.edit.edits import Edits
from diekae.edit.store import FILE, Record
from diekae.edit.trained import Trained, load_trained

group = typer.Typer(
    help="Edit facts: each revertible, and nothing else changed.", no_args_is_help=True, add_completion=False
)
FolderOption = Annotated[Path, typer.Option(help="Where the edits are kept.")]
GateOption = Annotated[str | None, typer.Option(help="learned or mention; learned where one was trained for the bank.")]
TrainedOption = Annotated[
    Path | None, typer.Option(help="What `diekae-research edit train` wrote; by default what came with the bank.")
]
EDITS = Path("edits")


@group.command()
def add(
    file: Annotated[
        Path | None, typer.Argument(help="Edits as JSON, JSONL or CSV (ours, MEMIT's or EasyEdit's).")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="For one edit: what is asked, the subject in it.")] = None,
    subject: Annotated[str | None, typer.Option(help="Who or what it is asked of.")] = None,
    target: Annotated[str | None, typer.Option(help="What is to be answered.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another name of the subject; may be repeated.")] = None,
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    gate: GateOption = None,
    trained: TrainedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Make edits: those of a file, or one that the options spell out."""
    single = (prompt, subject, target)
    if (file is None) == (single == (None, None, None)):
        raise ValueError("give a file of edits, or --prompt, --subject and --target of one.")
    if file is not None:
        edits = read_edits(file)
    else:
        names = ("--prompt", "--subject", "--target")
        missing = [name for name, value in zip(names, single, strict=True) if not value]
        if missing:
            raise ValueError(f"one edit needs --prompt, --subject and --target; {', '.join(missing)} is missing.")
        edits = [Edit(str(prompt), str(subject), str(target), tuple(alias or ()))]
    made = _open(folder, bank, gate, trained, device)
    with progress_bars() as (show, _):
        records = made.add(edits, progress=show)
    console.print(_table(records, f"{len(records)} edits in {folder}"))
    ids = {record.id for record in records}
    for older, newer in made.conflicts():
        if newer.id in ids or older.id in ids:
            console.print(
                f"edits {older.id} and {newer.id} seem to say different things of one fact: {older.edit.prompt!r} → "
                f"{older.edit.target!r}, {newer.edit.prompt!r} → {newer.edit.target!r}; where both speak, "
                f"{newer.id} does. Revert one.",
                highlight=False,
                markup=False,
            )


@group.command(name="list")
def list_edits(
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    every: Annotated[bool, typer.Option("--all", help="Superseded and reverted ones too.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Show the edits in force."""
    records = _existing(folder, bank, device).list(every=every)
    console.print(_table(records, f"{len(records)} edits in {folder}"))


@group.command()
def revert(
    number: Annotated[int, typer.Argument(metavar="ID", help="As `list` shows it.")],
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    device: DeviceOption = "auto",
) -> None:
    """Take an edit back; the one that it superseded speaks again."""
    made = _existing(folder, bank, device)
    record = made.revert(number)
    said = "its record is damaged" if record is None else escape(record.edit.statement)
    console.print(f"reverted {number}: {said}", highlight=False)
    for other in made.list():
        if record is not None and other.edit.fact == record.edit.fact:
            console.print(f"in force again: {other.id}: {escape(other.edit.statement)}", highlight=False)


@group.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    folder: FolderOption = EDITS,
    bank: BankOption = SHIPPED,
    gate: GateOption = None,
    trained: TrainedOption = None,
    format: Annotated[str | None, typer.Option(help="plain, qa or chat; the bank's own by default.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 24,
    device: DeviceOption = "auto",
) -> None:
    """Ask with the edits in force and without, and show which of them spoke."""
    check_choice("format", format)
    _check_folder(folder)
    made = _open(folder, bank, gate, trained, device)
    model = made.model
    table = Table(show_header=True)
    for name in ("", "answer"):
        table.add_column(name)
    table.add_row("without edits", escape(reply(model, question, None, format, max_new_tokens)))
    load_edits(model, folder, gate=made.gate, trained=Trained(adapter=made.adapter))
    table.add_row("with edits", escape(reply(model, question, None, format, max_new_tokens)))
    console.print(f"[bold]{escape(question)}[/]", highlight=False)
    console.print(table)
    spoke = [made.store.record(number) for number in made.which([question])[0]]
    console.print(_table(spoke, "edits that spoke") if spoke else "no edit spoke")


def _open(folder: Path, bank: Path, gate: str | None, trained: Path | None, device: str) -> Edits:
    if gate is not None and gate not in GATES:
        raise ValueError(f"--gate {gate!r} is not known; choose one of {', '.join(GATES)}.")
    model = load_model(bank, device)
    return open_edits(model, folder, gate, None if trained is None else load_trained(trained, model))


def _existing(folder: Path, bank: Path, device: str) -> Edits:
    """Open edits that are there, without reading anything with the decoder."""
    _check_folder(folder)
    return _open(folder, bank, "mention", None, device)


def _check_folder(folder: Path) -> None:
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no edits; make some with `diekae edit add`.")


def _table(records: list[Record], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("id", "prompt", "target", "subject", "state", "made"):
        table.add_column(name, justify="right" if name == "id" else "left")
    for record in records:
        edit = record.edit
        names = escape(" = ".join(edit.names))
        row = (str(record.id), escape(edit.prompt), escape(edit.target), names, record.state, record.created[:16])
        table.add_row(*row)
    return table
