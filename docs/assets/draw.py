"""Draw the pictures of README and docs: ``python docs/assets/draw.py``.

``method.svg`` and ``rooms.svg`` are sketches. ``answers-and-cost.svg`` is drawn from answers.json and speed/decode.json
in research/results.
``--png`` also writes PNG files, to look at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "research" / "results"
FROZEN, SLOTS, KNOWLEDGE, INPUT, INK = "#e8edf3", "#ffe2b8", "#ffc46b", "#a9d3c0", "#24303c"
SETS = {"documents": "documents", "sentences": "sentences", "natural_questions": "Natural\nQuestions", "facts": "facts"}
ROOMS = (
    (("cli/", "the command line"),),
    (("serve/", "server and page"), ("study/", "a bank from documents")),
    (("evaluation/", "measures a bank"), ("edit/", "facts and gates")),
    (("training/", "objectives, trainer"), ("answering/", "question to answer")),
    (("run/", "prompts to losses"), ("store/", "documents on disk")),
    (("model/", "decoder and bank together"),),
    (("inject/", "how a decoder takes K"), ("knowledge/", "what is prepared of K")),
    (("config.py", "every choice that makes a bank"),),
    (("encoders/", "read K"), ("data/", "texts to tokens")),
    (("readers/", "files to texts"),),
)
"""Rooms of the library, the highest first: a room imports only from rooms below it."""
LENGTHS = (128, 1024, 4096)
BANKS = {"exact": ("smollm2-exact", "#c26a00"), "bank": ("smollm2", "#2c7a5b")}
"""Names in decode.json: what the picture calls them, and their colour."""


def main() -> None:
    """Draw all pictures."""
    plt.rcParams.update({"svg.hashsalt": "diekae", "font.size": 11, "text.color": INK, "axes.edgecolor": INK})
    save(draw_method(), "method")
    save(draw_rooms(), "rooms")
    save(draw_results(), "answers-and-cost")


def save(figure: Figure, name: str) -> None:
    """Write one picture; without a date, so that the same picture is the same file."""
    figure.savefig(HERE / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    if "--png" in sys.argv:
        figure.savefig(HERE / f"{name}.png", dpi=110, facecolor="white")


def draw_method() -> Figure:
    """Sketch how a document is prepared, and how the decoder's attention reads it later."""
    figure, axes = plt.subplots(figsize=(9.6, 4.5), layout="constrained")
    axes.set(xlim=(0, 96), ylim=(0, 45))
    axes.axis("off")
    axes.text(17, 42.5, "Once per document", ha="center", weight="bold")
    axes.text(76, 42.5, "For every question", ha="center", weight="bold")
    for height, layer in ((13, "layer 0"), (21, "layer 1"), (33, "layer L")):
        box(axes, 4, height, 26, 5.5, f"{layer} of the decoder", FROZEN)
        box(axes, 37, height, 19, 5.5, "keys and values of K", SLOTS)
        box(axes, 63, height, 26, 5.5, f"{layer} of the decoder", FROZEN)
        arrow(axes, (30, height + 2.75), (37, height + 2.75))
        arrow(axes, (56, height + 2.75), (63, height + 2.75))
    for x in (17, 46.5, 76):
        axes.text(x, 29.6, "⋮", ha="center", va="center", fontsize=16)
    axes.text(46.5, 9.2, "prepared knowledge,\nkept in memory or on disk", ha="center", va="center", fontsize=10)
    box(axes, 4, 5, 7, 4.5, "anchor", "white")
    box(axes, 12, 5, 18, 4.5, "document K", KNOWLEDGE)
    box(axes, 63, 5, 7, 4.5, "anchor", "white")
    box(axes, 71, 5, 18, 4.5, "question x", INPUT)
    for x in (17, 76):
        arrow(axes, (x, 9.6), (x, 13))
        arrow(axes, (x, 18.6), (x, 21))
    arrow(axes, (89, 35.75), (92.5, 35.75))
    axes.text(93, 35.75, "answer", rotation=90, va="center")
    axes.text(
        48,
        1.2,
        "The decoder's own attention reads K beside x. Its weights stay as they are, and K takes no context.",
        ha="center",
        fontsize=10.5,
    )
    return figure


def draw_rooms() -> Figure:
    """Draw the rooms of the library, one floor above the other, and the research package above them."""
    bottom = 42 - 6 * len(ROOMS)
    figure, axes = plt.subplots(figsize=(8, (52 - bottom) / 10), layout="constrained")
    axes.set(xlim=(0, 80), ylim=(bottom, 52))
    axes.axis("off")
    box(axes, 4, 46.5, 72, 4.5, "research/: data sets, baselines, the paper's tables, benchmarks, results", INPUT)
    axes.text(40, 44.3, "imports point down", ha="center", va="center", fontsize=9)
    for floor, rooms in enumerate(ROOMS):
        width = (72 - 1.5 * (len(rooms) - 1)) / len(rooms)
        for number, (name, role) in enumerate(rooms):
            color = SLOTS if name.endswith(".py") else FROZEN
            box(axes, 4 + number * (width + 1.5), 37 - 6 * floor, width, 5, f"{name}  {role}", color)
    return figure


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    """Draw a box with a text in it."""
    style = "round,pad=0,rounding_size=0.9"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color, edgecolor=INK, linewidth=1))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0})


def draw_results() -> Figure:
    """Show right answers beside the prompt's, and seconds a generated token beside a cached prefix's."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    draw_answers(left, read("answers.json")["sets"])
    draw_cost(right, read("speed/decode.json")["rows"])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_answers(axes: Axes, sets: dict[str, Any]) -> None:
    """Draw two bars for each set of questions."""
    ways = (("prompted", "K in the prompt", "#b8c2cc"), ("ours", "smollm2, 24 layers", BANKS["bank"][1]))
    for number, (way, label, color) in enumerate(ways):
        heights = [100 * sets[name]["ways"][way]["right"] for name in SETS]
        places = [place + 0.38 * (number - 0.5) for place in range(len(SETS))]
        bars = axes.bar(places, heights, 0.36, label=label, color=color)
        axes.bar_label(bars, fmt="%g", fontsize=9)
    axes.set_xticks(range(len(SETS)), SETS.values())
    axes.set(ylabel="right answers, %", ylim=(0, 82), title="Right answers")
    axes.legend(frameon=False, loc="upper right", fontsize=9)


def draw_cost(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw seconds a generated token as a ratio to a cached prefix's, a line a bank."""
    figures = {row["name"]: row["figure"] for row in rows}
    for name, (label, color) in BANKS.items():
        ratios = [figures[f"generated token, {name}, |K| {length}, against a cached prefix"] for length in LENGTHS]
        axes.plot(LENGTHS, ratios, marker="o", color=color, label=label)
        for length, ratio in zip(LENGTHS, ratios, strict=True):
            shift = (0, -15 if name == "exact" else 7)  # the lower line has its figures below
            axes.annotate(f"{ratio:.2f}", (length, ratio), shift, textcoords="offset points", ha="center", fontsize=9)
    axes.axhline(1, color=INK, linewidth=1, linestyle="--")
    axes.text(LENGTHS[-1], 1.005, "a cached prefix", ha="right", va="bottom", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
    axes.set(xlabel="tokens of K", ylabel="ratio of seconds", ylim=(0.75, 1.25), title="Time of a generated token")
    axes.legend(frameon=False, loc="upper right", fontsize=9)


def read(name: str) -> Any:
    """Read a committed result."""
    return json.loads((RESULTS / name).read_text())


if __name__ == "__main__":
    main()
