"""What all verbs print with: one console, one kind of progress bar, one table of figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
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

from diekae.config import CHOICES
from diekae.evaluation.evaluate import PASSES
from diekae.model import DiekaeModel
from diekae.models import DTYPES, settled_device
from diekae.training.run import processes

console = Console(stderr=False)
SHIPPED, EXACT = Path("smollm2"), Path("smollm2-exact")
"""The trained bank, which verbs that measure and edit use unless told; and what answers use: every layer, untrained."""
BankOption = Annotated[Path, typer.Option(help="A bank's folder, or the name of one that came with the package.")]
DtypeOption = Annotated[
    str, typer.Option(help="Type of the decoder: fp32, bf16, fp16, or auto: what is fast on this machine.")
]

DeviceOption = Annotated[str, typer.Option(help="Where it runs: cpu, cuda, cuda:N, or auto: a GPU where there is one.")]


def device_of(name: str) -> torch.device:
    """Return the device that ``--device`` names.

    Raises:
        ValueError: It is not understood, or not here.
    """
    try:
        return settled_device(name)
    except ValueError as error:
        raise ValueError(f"--device: {error}") from error


def load_model(bank: Path, device: str, dtype: str = "auto", format: str | None = None) -> DiekaeModel:
    """Load a bank and its decoder, both on the device that ``--device`` names; ``format`` as ``from_pretrained``'s.

    Raises:
        FileNotFoundError: There is no such bank.
        ValueError: A name is not known, or the bank is damaged.
    """
    place, kind = device_of(device), dtype_of(dtype)
    with console.status("loading the bank and its decoder"):
        return DiekaeModel.from_pretrained(bank, format=format, dtype=kind, device=place)


def dtype_of(name: str) -> torch.dtype | None:
    """Return the type that ``--dtype`` names; None is what is fast here.

    Raises:
        ValueError: The name is not known.
    """
    if name not in DTYPES:
        raise ValueError(f"--dtype {name!r} is not known; choose one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def check_choice(option: str, value: str | None) -> None:
    """Check an option that overrides the bank's configuration; None is its own.

    Raises:
        ValueError: The value is not known.
    """
    if value is not None and value not in CHOICES[option]:
        raise ValueError(f"--{option} {value!r} is not known; choose one of {', '.join(CHOICES[option])}.")


@contextmanager
def progress_bars() -> Iterator[tuple[Callable[[str, int, int], None], TrainerCallback]]:
    """Show a bar for every kind of work, or lines now and then where there is no terminal.

    Yields a progress function, and a callback that shows the training itself.
    """
    if not console.is_terminal:
        lines = ProgressLines() if processes().is_main_process else (lambda _what, _done, _all: None)
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
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show, TrainingBar(show)


class ProgressLines:
    """Progress where there is no terminal, as in a log: a line for each kind of work now and then, and at its end."""

    def __init__(self, every: float = 30.0) -> None:
        """Print at most one line in ``every`` seconds, besides the last one of each kind of work."""
        self.every = every
        self._started: dict[str, float] = {}
        self._told = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Print how far it is, how long it took, and about how long the rest takes."""
        now = time.monotonic()
        started = self._started.setdefault(what, now)
        if done < total and now - self._told < self.every:
            return
        self._told, taken = now, now - started
        left = f", about {_clock(taken / done * (total - done))} left" if 0 < done < total else ""
        console.print(f"{what}: {done} of {total}, {_clock(taken)}{left}", highlight=False)


def _clock(seconds: float) -> str:
    """Return minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class TrainingBar(TrainerCallback):
    """Shows the steps, the loss and the recovered share in a bar, in place of the Trainer's own."""

    def __init__(self, show: Callable[[str, int, int], None]) -> None:
        """Keep where to show."""
        self.show = show

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Advance."""
        if state.is_world_process_zero:
            self.show(f"training {Path(args.output_dir).name}", state.global_step, state.max_steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Say how far the bank is."""
        metrics: Mapping[str, float] = kwargs["metrics"]
        if state.is_world_process_zero:
            parts = [f"step {state.global_step}", f"validation loss {metrics['eval_loss']:.3f}"]
            if "eval_recovered" in metrics:
                parts.append(f"recovered {metrics['eval_recovered']:.2f}")
            console.print("  " + ", ".join(parts), highlight=False)


def figures(sets: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Lay the figures of several data sets out as a table."""
    table = Table(title=title, title_justify="left")
    for name in ("data", "n", "D(x)", "D(K,x)", "ours", "recovered", "grounded"):
        table.add_column(name, justify="left" if name == "data" else "right")
    for name, found in sets.items():
        nll, perplexity = found["nll"], found["perplexity"]
        cells = [f"{nll[k]:.3f} ({perplexity[k]:.1f})" for k in ("bare", "prompted", "ours")]
        table.add_row(name, str(found["n"]), *cells, share(found["recovered"]), share(found["grounded"]))
    table.caption = "nats a target token (perplexity); recovered, grounded: 0 is no knowledge, 1 is K in the prompt"
    return table


def times(found: Mapping[str, Any]) -> Table:
    """Lay the seconds of a pass out as a table, with their ratio to D(x)."""
    table = Table(title="one pass over one example", title_justify="left")
    for name in ("pass", "ms", "× D(x)", "× D(K,x)"):
        table.add_column(name, justify="left" if name == "pass" else "right")
    for key, label in PASSES.items():
        value = found[key]
        table.add_row(label, f"{1000 * value:.1f}", f"{value / found['bare']:.2f}", f"{value / found['prompted']:.2f}")
    return table


def share(value: float | None) -> str:
    """Print a share, or that it is not defined."""
    return "undefined" if value is None else f"{value:.2f}"
