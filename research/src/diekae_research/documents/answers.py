"""Right answers: a bank's as a share of the prompt's, on ordinary documents, single sentences, questions and facts.

    diekae-research answers --data FOLDER [--bank NAME_OR_FOLDER] [--layers all] [--json PATH]

Every way answers greedily, one question at a time in its own words; right is what has the answer in its first line
(SQuAD's normalisation). Beside it stand exact match, F1, and the share of D(K,x)'s right answers that ours gives too.
``--layers`` reads without a bank, in all layers or in those that are named.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from diekae.data.example import Example
from diekae.data.mixture import DataSpec, load_mixture
from diekae.data.prompt import Prompt
from diekae.evaluation import answers
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import DTYPES, load_decoder, settled_device, settled_dtype
from diekae.run.score import batches
from diekae_research.methods.ours import as_methods
from diekae_research.provenance import write_json

HERE = Path(__file__).parent
TOKENS = 32
SETS = ("documents", "sentences", "natural_questions", "facts")
KINDS = ("name", "number", "phrase")


def examples(model: DiekaeModel, name: str, data: Path | None, limit: int, seed: int, style: str) -> list[Prompt]:
    """Return the questions of one set."""
    prompter = model.need_prompter()
    if name in ("documents", "sentences"):
        rows = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        found = [
            Example((row["text"],), ask["question"], ask["answers"][0] if "answers" in ask else ask["answer"])
            for row in rows
            for ask in row.get("questions", [row])
            if ask["kind"] in KINDS
        ]
        return [prompter.prompt(example, style) for example in found[:: max(1, len(found) // limit)][:limit]]
    folder = None if name == "facts" else str(data / name) if data else None
    spec = DataSpec(source=name, split="test", folder=folder, limit=limit, format=style, longest=400)
    return load_mixture([spec], seed, prompter)


def reference(model: DiekaeModel, prompt: Prompt) -> str:
    """Return the target as text."""
    return str(model.need_prompter().tokenizer.decode(list(prompt.target), skip_special_tokens=True)).strip()


def measure(model: DiekaeModel, prompts: Sequence[Prompt], ways: Sequence[str], what: str) -> dict[str, Any]:
    """Answer in every way; returns figures and all answers."""
    wanted = [reference(model, prompt) for prompt in prompts]
    said: dict[str, list[str]] = {}
    for method in as_methods(model):
        if method.name not in ways:
            continue
        lines = [""] * len(prompts)
        for rows, done in batches(prompts, 8):
            for row, text in zip(rows, method.generate([prompts[row] for row in rows], TOKENS), strict=True):
                lines[row] = answers.first_line(text)
            print(f"\r{what}: {method.name} {done}/{len(prompts)}   ", end="", file=sys.stderr)
        said[method.name] = lines
    print(file=sys.stderr)
    right = {
        name: [answers.right(line, [want]) for line, want in zip(lines, wanted, strict=True)]
        for name, lines in said.items()
    }
    figures = {
        name: {
            "right": sum(right[name]) / len(wanted),
            "exact": sum(answers.exact_match(a, [b]) for a, b in zip(lines, wanted, strict=True)) / len(wanted),
            "f1": sum(answers.f1(a, [b]) for a, b in zip(lines, wanted, strict=True)) / len(wanted),
        }
        for name, lines in said.items()
    }
    found: dict[str, Any] = {"n": len(wanted), "ways": figures}
    if {"prompted", "ours"} <= set(said) and sum(right["prompted"]):
        both = sum(a and b for a, b in zip(right["prompted"], right["ours"], strict=True))
        found["share"] = sum(right["ours"]) / sum(right["prompted"])
        found["kept"] = both / sum(right["prompted"])
        found["same_words"] = sum(a == b for a, b in zip(said["prompted"], said["ours"], strict=True)) / len(wanted)
    rows = zip(wanted, *said.values(), strict=True)
    return {**found, "answers": [dict(zip(("wanted", *said), row, strict=True)) for row in rows]}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the raw data sets, for natural_questions")
    parser.add_argument("--decoder", default="smollm2")
    parser.add_argument("--bank", help="a bank's folder or a shipped one's name; without it K is read untrained")
    parser.add_argument("--layers", default="all", help="layers that are read untrained: all, every:2, or 5,8,10")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--ways", nargs="*", default=["bare", "prompted", "ours"])
    parser.add_argument("--format", default="qa", choices=("qa", "chat", "plain"))
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--dtype", default="auto", choices=sorted(DTYPES))
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, or auto: a GPU where there is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def spelled(layers: str) -> str | list[int]:
    """Return layers as the library takes them."""
    return [int(part) for part in layers.split(",")] if layers[0].isdigit() else layers


def sets(model: DiekaeModel, given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each set's figures."""
    for name in given.sets:
        prompts = examples(model, name, given.data, given.limit, given.seed, given.format)
        with frozen(model.decoder), torch.no_grad():
            yield name, measure(model, prompts, given.ways, name)


def main() -> None:
    """Measure, print and write."""
    given = parse()
    device = settled_device(given.device)
    decoder, tokenizer = load_decoder(given.decoder, dtype=DTYPES[given.dtype], device=device)
    if given.bank:
        model = DiekaeModel.from_pretrained(given.bank, decoder, tokenizer)
    else:
        model = DiekaeModel.exact(decoder, tokenizer, layers=spelled(given.layers))
    found = {}
    for name, figures in sets(model, given):
        found[name] = figures
        share = f", share {figures['share']:.2f}" if "share" in figures else ""
        told = ", ".join(f"{way} {values['right'] * figures['n']:.0f}" for way, values in figures["ways"].items())
        print(f"{name}: of {figures['n']} right: {told}{share}", flush=True)
    if given.json:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
        settings |= {"data": None, "json": None, "bank": Path(given.bank).name if given.bank else None}
        settings |= {"dtype": settled_dtype(given.dtype, device), "device": device.type, "layers": list(model.layers)}
        write_json(given.json, {"settings": settings, "sets": found})


if __name__ == "__main__":
    main()
