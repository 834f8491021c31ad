"""The training of a study as a recipe, which users can repeat and change."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diekae.files import write_atomically
from diekae.study.plan import VALIDATION, VALIDATIONS

UNRELATED = 0.15
"""Share of the training questions that are given the text of another question."""
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
"""Template of the recipe."""
OTHER_LIMIT = 100
"""Most questions that are also trained in the format ``qa``."""
OTHER_FORMAT = f"""
[[data.train]]
source = "jsonl"
folder = "data"
format = "qa"
limit = {OTHER_LIMIT}
"""
"""Data in a second format, so that the bank also answers without the chat template."""


def write_recipe(out: Path, decoder: str, decided: Mapping[str, Any], seed: int) -> None:
    """Write ``recipe.toml`` into a run's folder, by the decisions of ``study.json``."""
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
        # The bank learns that irrelevant knowledge changes almost nothing.
        unrelated=f"unrelated = {UNRELATED}\n" if decided["windows"] > 1 else "",
        other_format=OTHER_FORMAT if config["format"] != "qa" else "",
    )
    write_atomically(out / "recipe.toml", text)
