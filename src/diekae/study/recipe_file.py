"""The recipe of a study's training, so that it can be repeated and changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diekae.files import write_atomically
from diekae.study.plan import VALIDATION, VALIDATIONS

UNRELATED = 0.15
"""Share of the questions that are given another's text in training."""
RECIPE = """# Written by `diekae train --decoder`; `diekae train` with this file repeats the training.
name = {name}
decoder = {decoder}
folder = {folder}

[diekae]
layers = {layers}
encoder = "attention"
encoder_options = {encoder_options}
site = "attention"
scope = "all"
format = "{format}"
template = {template}

[training]
objective = "distill"
whole_input = true
max_steps = {steps}
batch_size = {batch_size}
gradient_accumulation = {gradient_accumulation}
learning_rate = 4e-4
start_learning_rate = 5e-5
final_learning_rate = 2e-5
group_by_length = true
evaluations = {evaluations}
logging_steps = 5
seed = {seed}

[[data.train]]
source = "jsonl"
folder = "data"
{unrelated}{other_format}
[[data.validation]]
source = "jsonl"
folder = "data"
limit = {validation}

[[data.test]]
source = "jsonl"
folder = "data"
"""
"""The recipe of a run, to be filled in."""
OTHER_LIMIT = 100
"""Questions in a second format."""
OTHER_FORMAT = f"""
[[data.train]]
source = "jsonl"
folder = "data"
format = "qa"
limit = {OTHER_LIMIT}
"""
"""Data of a second format, so that the bank can be asked without the chat template too."""


def write_recipe(out: Path, decoder: str, decided: Mapping[str, Any], seed: int) -> None:
    """Write ``recipe.toml`` into a run's folder.

    Args:
        out: The folder, with the questions in ``data``.
        decoder: Name or folder of the decoder.
        decided: What was decided, as ``study.json`` has it.
        seed: Decides start and order of the training.
    """
    config = decided["config"]
    sizes = ", ".join(f"{name} = {config['encoder_options'][name]}" for name in ("rank", "mlp_width"))
    text = RECIPE.format(
        name=json.dumps(out.name),
        decoder=json.dumps(decoder),
        folder=json.dumps(str(out.absolute())),
        layers=decided["layers"],
        encoder_options=f"{{ {sizes} }}",
        format=config["format"],
        template=json.dumps(config["template"]),
        steps=decided["steps"],
        batch_size=decided["batch_size"],
        gradient_accumulation=decided["gradient_accumulation"],
        evaluations=VALIDATIONS,
        validation=VALIDATION,
        seed=seed,
        # Knowledge that says nothing about the question must change nothing.
        unrelated=f"unrelated = {UNRELATED}\n" if decided["windows"] > 1 else "",
        other_format=OTHER_FORMAT if config["format"] != "qa" else "",
    )
    write_atomically(out / "recipe.toml", text)
