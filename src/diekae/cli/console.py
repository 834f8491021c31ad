"""What the verbs share: options, loading a bank, the console, progress bars, and tables of figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from transformers import TrainerCallback

from diekae.cli.output import make_console, output_file, printable_name
from diekae.data.formats import Format
from diekae.evaluation.evaluate import PASSES
from diekae.fields import check_choice
from diekae.model import DiekaeModel
from diekae.models import DTYPES, load_decoder, resolve_device
from diekae.progress import Progress as ShowProgress
from diekae.progress import silent
from diekae.training.run import processes

console = make_console()
SHIPPED, EXACT = Path("smollm2"), Path("smollm2-exact")
"""The banks that come with the package: a trained one, the default to measure and to edit; and an untrained one of all
layers, the default to answer from documents."""
LINE_INTERVAL = 30.0
"""Seconds between two lines of progress without a terminal."""
_BANK_HELP = (
    "A bank: its folder; smollm2 (trained) or smollm2-exact (untrained), which come with the package; or its name on "
    "the Hugging Face hub, such as user/bank."
)
BankOption = Annotated[Path, typer.Option(help=_BANK_HELP)]
AnyBankOption = Annotated[
    Path | None, typer.Option(help=f"{_BANK_HELP} By default smollm2-exact; for measurements and edits smollm2.")
]
DecoderOption = Annotated[
    str | None,
    typer.Option(help="Instead of --bank: a decoder's folder or name. It reads exactly, without training."),
]


def device_of(name: str) -> torch.device:
    """Return the device that ``--device`` names; ValueError if there is no such device."""
    try:
        return resolve_device(name)
    except ValueError as error:
        raise ValueError(f"--device: {error}") from error


def checked_device(name: str | None) -> str | None:
    """Return the value of ``--device``, checked before anything is loaded: the option's callback."""
    if name is not None:
        device_of(name)
    return name


def _checked_dtype(name: str) -> str:
    """Return the value of ``--dtype``, checked: the option's callback."""
    check_choice(f"--dtype {name!r}", name, DTYPES)
    return name


EmbedderOption = Annotated[
    str | None,
    typer.Option(
        help="An encoder that finds passages by meaning: its folder, or its name on the Hugging Face hub, such as "
        "sentence-transformers/all-MiniLM-L6-v2. By default static embeddings. Use the one that the store was filled "
        "with.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    Literal["auto", Format],
    typer.Option(help="Format of the prompt: plain, qa, chat, or auto (chat if the decoder has a chat template)."),
]
OwnFormatOption = Annotated[
    Format | None, typer.Option(help="Format of the prompt: plain, qa or chat; by default the bank's own.")
]
DtypeOption = Annotated[
    str,
    typer.Option(
        callback=_checked_dtype,
        help="Type of the decoder's weights: fp32, bf16, fp16, or auto (the fastest on this machine).",
    ),
]
MaxKnowledgeOption = Annotated[int | None, typer.Option(min=1, help="Cut K to this many tokens.")]
JsonOption = Annotated[Path | None, typer.Option(callback=output_file, help="File for the figures.")]
PlotOption = Annotated[Path | None, typer.Option(callback=output_file, help="File for the plot (.png, .svg or .pdf).")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides what is drawn at random.")]
DeviceOption = Annotated[
    str,
    typer.Option(callback=checked_device, help="Where to run: cpu, cuda, cuda:N, or auto (a GPU if there is one)."),
]


def print_text(text: str) -> None:
    """Print a text as it is: without markup, colours or line breaks of the console."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def load_model(
    bank: Path,
    device: str,
    dtype: str = "auto",
    format: str | None = None,
    *,
    decoder: str | None = None,
    layers: str | Sequence[int] = "all",
) -> DiekaeModel:
    """Load a bank and its decoder, or with ``decoder`` a decoder that reads exactly, in these layers.

    The arguments are values of options; ``format`` is that of :meth:`DiekaeModel.from_pretrained`.

    Raises:
        FileNotFoundError: There is no such bank.
        ValueError: A name is not known, the bank is damaged, or the decoder cannot read exactly.
    """
    torch_device, torch_dtype = device_of(device), DTYPES[dtype]
    if decoder is None:
        with console.status("loading the bank and its decoder"):
            return DiekaeModel.from_pretrained(bank, format=format, dtype=torch_dtype, device=torch_device)
    options: dict[str, Any] = {} if format in (None, "auto") else {"format": format}
    with console.status("loading the decoder"):
        loaded = load_decoder(decoder, dtype=torch_dtype, device=torch_device)
        return DiekaeModel.exact(*loaded, layers=layers, **options)


def chosen_bank(bank: Path | None, decoder: str | None, default: Path) -> Path:
    """Return the bank that ``--bank`` names, or a default; ValueError if ``--decoder`` names a decoder, too."""
    if bank is not None and decoder is not None:
        raise ValueError("--decoder and --bank are both given; a bank names its decoder, so give one of them.")
    return default if bank is None else bank


def write_figures(path: Path | None, values: dict[str, Any], write: Callable[[Path, dict[str, Any]], None]) -> None:
    """Write the figures of a verb to ``--json``, if given, by the ``write_json`` of the package that measured them.

    This comes before other output, which may fail.
    """
    if path is not None:
        write(path, values)
        print_text(f"figures: {printable_name(path)}")


@contextmanager
def progress_bars() -> Iterator[tuple[ShowProgress, TrainerCallback]]:
    """Show a bar for each kind of work; if there is no terminal, print a line from time to time.

    Yields:
        A progress function, and a callback of the Trainer that shows the training.
    """
    if not console.is_terminal:
        lines = ProgressLines() if processes().is_main_process else silent
        yield lines, TrainingBar(lines)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not processes().is_main_process) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(printable_name(what)), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show, TrainingBar(show)


class ProgressLines:
    """Progress without a terminal, as in a log file: a line from time to time, and one when a kind of work ends."""

    def __init__(self) -> None:
        """Print nothing yet."""
        self._start_times: dict[str, float] = {}
        self._last_print = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Print how much is done, the time it took, and an estimate of the time left."""
        now = time.monotonic()
        start_time = self._start_times.setdefault(what, now)
        if done < total and now - self._last_print < LINE_INTERVAL:
            return
        self._last_print, seconds = now, now - start_time
        left = f", about {_clock(seconds / done * (total - done))} left" if 0 < done < total else ""
        print_text(f"{what}: {done} of {total}, {_clock(seconds)}{left}")
        if done >= total:  # the same work may begin again, for another document
            del self._start_times[what]


def _clock(seconds: float) -> str:
    """Return minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class TrainingBar(TrainerCallback):
    """Shows the steps as progress, and prints the loss and the recovered share after each evaluation."""

    def __init__(self, show: ShowProgress) -> None:
        """Show steps with this progress function."""
        self.show = show

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show the step."""
        if state.is_world_process_zero:
            self.show(f"training {Path(args.output_dir).name}", state.global_step, state.max_steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Print the metrics of an evaluation."""
        metrics: Mapping[str, float] = kwargs["metrics"]
        if state.is_world_process_zero:
            parts = [f"step {state.global_step}", f"validation loss {metrics['eval_loss']:.3f}"]
            if "eval_recovered" in metrics:
                parts.append(f"recovered {metrics['eval_recovered']:.2f}")
            print_text("  " + ", ".join(parts))


def figures(sets: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Return a table of the figures of several data sets."""
    table = Table(title=escape(printable_name(title)), title_justify="left")
    for name in ("data", "n", "D(x)", "D(K,x)", "ours", "recovered", "grounded"):
        table.add_column(name, justify="left" if name == "data" else "right")
    for name, values in sets.items():
        nll, perplexity = values["nll"], values["perplexity"]
        cells = [f"{nll[way]:.3f} ({perplexity[way]:.1f})" for way in ("bare", "prompted", "ours")]
        table.add_row(
            escape(printable_name(name)),
            str(values["n"]),
            *cells,
            share(values["recovered"]),
            share(values["grounded"]),
        )
    table.caption = (
        "nats per target token (perplexity); D(x): without knowledge K, D(K,x): K in the prompt, ours: K injected\n"
        "recovered and grounded: 0 is as without K, 1 is as with K in the prompt"
    )
    return table


def times(seconds: Mapping[str, Any]) -> Table:
    """Return a table of the seconds of a pass, with their ratios to D(x) and D(K,x)."""
    table = Table(title="time of one pass over one example", title_justify="left")
    for name in ("pass", "ms", "× D(x)", "× D(K,x)"):
        table.add_column(name, justify="left" if name == "pass" else "right")
    for key, label in PASSES.items():
        value = seconds[key]
        ratios = [f"{value / seconds[reference]:.2f}" for reference in ("bare", "prompted")]
        table.add_row(label, f"{1000 * value:.1f}", *ratios)
    return table


def share(value: float | None) -> str:
    """Return a share as text; ``undefined`` for None."""
    return "undefined" if value is None else f"{value:.2f}"
