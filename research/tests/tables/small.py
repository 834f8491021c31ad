"""A tiny decoder and data folders in the publishers' layouts, small enough that every table runs in seconds."""

import json
from pathlib import Path
from typing import Any

from builders import VOCABULARY, make_decoder, make_tokenizer
from layouts import write_json, write_lines

COLOURS = ("red", "blue", "green", "silver", "gold")
THINGS = ("house", "bridge", "tower", "castle", "boat", "door", "gate", "wall")
FACTS = [(thing, colour) for thing in THINGS for colour in COLOURS]
LABELS = ("True", "False", "Unknown")


def write_decoder(folder: Path, **sizes: Any) -> Path:
    """A random decoder of ten layers, so that it has the paper's six, with a tokenizer that tells labels apart."""
    make_decoder(**{"num_hidden_layers": 10, "max_position_embeddings": 128, "gain": 2.0, **sizes}).save_pretrained(
        folder
    )
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([*LABELS, "painted"])
    assert len(tokenizer) <= VOCABULARY
    tokenizer.save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    """DREAM, ProofWriter, FOLIO and CounterFact, some forty records each."""
    parts = {"train": FACTS[:20], "dev": FACTS[20:30], "test": FACTS[30:]}
    for part, facts in parts.items():
        dialogues = [
            [[f"M: the {thing} is {colour}"], [{"question": f"what is the {thing}", "answer": colour}], f"1-{n}"]
            for n, (thing, colour) in enumerate(facts)
        ]
        write_json(folder / "dream" / f"{part}.json", dialogues)
        write_json(
            folder / "proofwriter" / f"{part}.json",
            [
                {
                    "context": f"the {thing} is {colour}",
                    "question": f"is the following statement true, false, or unknown? the {thing} is red",
                    "answer": "ABC"[n % 3],
                }
                for n, (thing, colour) in enumerate(facts)
            ],
        )
    for name, facts in (("train", FACTS[:24]), ("validation", FACTS[24:])):
        rows = [
            {"premises": [f"the {thing} is {colour}"], "conclusion": f"the {thing} was red", "label": LABELS[n % 3]}
            for n, (thing, colour) in enumerate(facts)
        ]
        write_lines(folder / "folio" / f"folio-{name}.jsonl", *rows)
    write_counterfact(folder / "counterfact")
    return folder


def write_counterfact(folder: Path) -> None:
    """The reduced layout: every third case's paraphrase is a generation prompt."""
    cases = [
        {
            "case_id": number,
            "prompt": f"the {thing} is painted",
            "subject": thing,
            "target_new": "blue" if colour != "blue" else "red",
            "ground_truth": colour,
            "rephrase_prompt": f"a {thing} has on it" if number % 3 else f"by the {thing} we {number}",
            "locality_prompt": f"the {other} is painted",
            "locality_ground_truth": colour,
        }
        for number, (thing, colour, other) in enumerate(
            (thing, colour, THINGS[(place + 1) % len(THINGS)])
            for place, thing in enumerate(THINGS)
            for colour in COLOURS[:3]
        )
    ]
    for name, rows in (("train", cases[0::3]), ("edit", cases[1::3]), ("val", cases[2::3])):
        write_json(folder / f"counterfact-{name}.json", rows)
    generation = [case["rephrase_prompt"] for case in cases if case["case_id"] % 3 == 0]
    (folder / "generation_prompts.txt").write_text("\n".join(generation) + "\n")


def read(path: Path) -> Any:
    return json.loads(path.read_text())
