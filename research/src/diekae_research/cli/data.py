"""`diekae-research data`: data sets, their upstream files, and examples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from diekae.cli.console import SeedOption, console, print_text, progress_bars
from diekae.cli.output import one_line, printable, printable_name
from diekae.data import DataError, Example, load_source, read_examples
from diekae.data.example import Split
from diekae_research.data.build import MANIFEST, build_source
from diekae_research.data.card import COMMON
from diekae_research.data.download import download_source
from diekae_research.provenance import write_json
from diekae_research.sources import source_card, source_names

SHOWN = 600
"""Characters of a document that are shown."""
group = typer.Typer(
    help="Fetch data sets, turn them into examples, and look at them.", no_args_is_help=True, add_completion=False
)
Name = Annotated[str, typer.Argument(help="A data set, see `diekae-research data list`.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="Set an option of the data set: key=value. May be repeated.")
]
Raw = Annotated[Path | None, typer.Option(help="Folder of the upstream files.")]


@group.command("list")
def list_sets() -> None:
    """Show all data sets: licence, the paper's counts, options and upstream files."""
    table = Table(
        "name", Column("data set", overflow="fold"), "counts", Column("files", overflow="fold"), show_lines=True
    )
    for name in source_names():
        card = source_card(name)
        lines = [card.title, f"licence: {card.licence}", card.homepage]
        lines += [f"{key}={str(option.default).lower()}: {option.help}" for key, option in card.options.items()]
        paths = "\n".join(file.path for file in card.upstream) or f"from {card.origin}"
        counts = "\n".join(map(str, card.paper)) if card.paper else "not in the\npaper"
        cells = ("\n".join(filter(None, lines)), counts, paths)
        table.add_row(f"[bold]{name}[/]", *map(escape, cells))
    shared = "; ".join(f"{key}={str(option.default).lower()}: {option.help}" for key, option in COMMON.items())
    table.caption = escape(f"counts: the paper's for train, validation and test. Option of every set: {shared}")
    console.print(table)


@group.command()
def build(
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder of the examples; an earlier build in it is replaced.")],
    raw: Raw = None,
    option: Options = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most examples of each part; a random subset is taken.")
    ] = None,
    seed: SeedOption = 0,
    strict: Annotated[bool, typer.Option(help="Stop at the first bad record instead of leaving it out.")] = False,
) -> None:
    """Turn upstream files into examples: train.jsonl, validation.jsonl, test.jsonl and manifest.json."""
    with progress_bars() as (show, _):
        manifest = build_source(
            name,
            raw=raw,
            out=out,
            options=_options(option),
            limit=limit,
            seed=seed,
            strict=strict,
            progress=show,
        )
    write_json(out / MANIFEST, manifest)
    console.print(_built(manifest))
    for note in _notes(manifest):
        print_text(one_line(note))
    print_text(f"examples: {printable_name(out)}")


@group.command()
def show(
    name: Annotated[str, typer.Argument(help="A data set, or a file of examples (JSONL).")],
    raw: Raw = None,
    split: Annotated[Split, typer.Option(help="Part of a data set: train, validation or test.")] = "train",
    option: Options = None,
    number: Annotated[int, typer.Option(min=1, help="How many examples.")] = 3,
    seed: SeedOption = 0,
) -> None:
    """Show some examples."""
    if name.endswith(".jsonl"):
        examples = read_examples(name)
        chosen = sorted(random.Random(seed).sample(range(len(examples)), min(number, len(examples))))
        examples = [examples[index] for index in chosen]
    else:
        examples = load_source(name, folder=raw, split=split, limit=number, seed=seed, options=_options(option))
    for position, example in enumerate(examples, start=1):
        console.print(_panel(example, f"{position} of {len(examples)}"))


@group.command()
def download(
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder of the upstream files.")],
    base_url: Annotated[
        str | None,
        typer.Option(help="Address of a mirror with the same paths; by default the publishers' addresses."),
    ] = None,
) -> None:
    """Fetch a data set's upstream files, check them and unpack archives; existing files are kept if they are right."""
    card = source_card(name)
    with progress_bars() as (show, _):
        files = download_source(name, out, base_url=base_url, progress=show)
    table = Table("file", "", "SHA-256")
    for file in files:
        state = "fetched" if file.fetched else "existed"
        if file.unpacked:
            state += f", {file.unpacked} files unpacked"
        checked = "as expected" if file.known else f"{file.sha256} (none is known to check it against)"
        table.add_row(escape(printable_name(file.path)), state, checked)
    console.print(table)
    print_text(f"licence: {card.licence}")
    print_text(f"next: diekae-research data build {name} --raw {printable_name(out)} --out FOLDER")


def _options(settings: Sequence[str] | None) -> dict[str, str]:
    options = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise DataError(f"--option {setting!r} is not understood; expected key=value, as in all_questions=true")
        options[key.strip()] = value.strip()
    return options


def _built(manifest: dict[str, Any]) -> Table:
    """Return the counts of a build beside those of the full data set."""
    options = ", ".join(f"{key}={str(value).lower()}" for key, value in manifest["options"].items())
    table = Table(title=escape(f"{manifest['title']} ({options})"), title_justify="left")
    for heading in ("part", "examples", "leak-prone", "in all", "expected", "agrees", "bad records"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    agreed = {True: "yes", False: "no", None: "unknown"}
    for split, part in manifest["splits"].items():
        total, expected = part["examples"] + part["leaking"], part["expected"]
        cells = (part["examples"], part["leaking"], total, "unknown" if expected is None else expected)
        table.add_row(split, *map(str, cells), agreed[part["agrees"]], str(part["bad_records"]))
    return table


def _notes(manifest: dict[str, Any]) -> list[str]:
    """Return notes on the counts."""
    parts = manifest["splits"].values()
    notes = [f"left out: {part['missing']}" for part in parts if "missing" in part]
    bad = next((part["first_bad_record"] for part in parts if part["first_bad_record"]), None)
    notes += [f"the first bad record: {bad}"] if bad else []
    note = source_card(manifest["source"]).note
    return [*notes, f"note: {note}"] if note else notes


def _panel(example: Example, title: str) -> Panel:
    """Return an example as a panel."""
    parts = [Text(f"{_shortened(printable(document))}\n", style="dim") for document in example.knowledge]
    parts = parts or [Text("no knowledge\n", style="dim italic")]
    parts.append(Text.assemble(("input   ", "bold"), printable(example.input)))
    parts.append(Text.assemble(("target  ", "bold"), (printable(example.target), "green")))
    if example.label is not None:
        parts.append(Text.assemble(("label   ", "bold"), printable(example.label)))
    if example.leaks:
        parts.append(Text("its knowledge was made from the target", style="yellow"))
    return Panel(Group(*parts), title=title, title_align="left")


def _shortened(document: str) -> str:
    if len(document) <= SHOWN:
        return document
    return f"{document[:SHOWN].rstrip()} … ({SHOWN} of {len(document)} characters)"
