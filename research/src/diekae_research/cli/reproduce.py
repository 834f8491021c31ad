"""`diekae-research reproduce`: the paper's tables and figures on any decoder, beside the paper's own figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diekae.cli.console import DeviceOption, SeedOption, device_of, print_text, progress_bars
from diekae.cli.output import output_file, printable_name
from diekae_research.tables import Lab, Plan, reproduce, table_names
from diekae_research.tables.sheet import markdown

_DEFAULT = Plan(Path())


def command(
    table: Annotated[str, typer.Argument(help="table1 … table5, figure3, figure4, or all.")],
    data: Annotated[Path, typer.Option(help="Folder with a folder for each data set, in its publisher's layout.")],
    model: Annotated[str, typer.Option(help="Name or folder of the decoder.")] = _DEFAULT.model,
    out: Annotated[Path, typer.Option(help="Folder of tables, drawings and measurements.")] = Path("runs/tables"),
    json: Annotated[
        Path | None, typer.Option(callback=output_file, help="File for the figures; by default OUT/TABLE.json.")
    ] = None,
    train_examples: Annotated[
        int, typer.Option(min=1, help="Training examples of each data set; edits in table3.")
    ] = _DEFAULT.train_examples,
    limit: Annotated[int, typer.Option(min=1, help="Examples of each data set that are scored.")] = _DEFAULT.limit,
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the training examples.")] = _DEFAULT.epochs,
    longest: Annotated[int, typer.Option(min=1, help="Most tokens of knowledge of an example.")] = _DEFAULT.longest,
    context: Annotated[int, typer.Option(min=1, help="Tokens of the longest context in table4.")] = _DEFAULT.context,
    methods: Annotated[str, typer.Option(help="Methods instead of the table's own, such as bare,lora,cartridge.")] = "",
    sets: Annotated[str, typer.Option(help="Data sets instead of the table's own, such as dream,zsre.")] = "",
    preset: Annotated[str, typer.Option(help="Configuration of banks: default, attention or paper.")] = _DEFAULT.preset,
    template: Annotated[
        str | None, typer.Option(help="Text around the knowledge, such as 'Context: {knowledge}\\n\\n'.")
    ] = _DEFAULT.template,
    rates: Annotated[str, typer.Option(help="Peak learning rates of methods, such as lora=2e-3,sft=1e-4.")] = "",
    dtype: Annotated[str, typer.Option(help="Type of the decoder's weights: bf16, fp32 or auto.")] = _DEFAULT.dtype,
    seed: SeedOption = _DEFAULT.seed,
    device: DeviceOption = "auto",
) -> None:
    """Measure a table of the paper; measurements of earlier calls are reused."""
    table_names(table)  # checks the name before anything is loaded
    plan = Plan(
        data=data,
        model=model,
        train_examples=train_examples,
        limit=limit,
        epochs=epochs,
        longest=longest,
        context=context,
        methods=_names(methods),
        sets=_names(sets),
        preset=preset,
        template=None if template is None else template.replace("\\n", "\n"),
        learning_rates=_rates(rates),
        dtype=dtype,
        seed=seed,
    )
    with progress_bars() as (show, _):
        lab = Lab(plan, out, show, device=str(device_of(device)))
        reports = reproduce(table, lab, json, tell=print_text)
    print_text("\n".join(markdown(name, report.sheets) for name, report in reports.items()))
    print_text(f"figures: {printable_name(json or out / f'{table}.json')}")


def _rates(text: str) -> dict[str, float]:
    """Parse ``method=rate,…``.

    Raises:
        ValueError: It is not of this form.
    """
    rates = {}
    for part in _names(text):
        name, _, rate = part.partition("=")
        try:
            rates[name.strip()] = float(rate)
        except ValueError:
            raise ValueError(f"rates: {part!r} is not understood; expected method=number, as in lora=2e-3.") from None
    return rates


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
