"""The training of a study as a recipe, which users can repeat and change."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from diekae.files import write_atomically
from diekae.study.plan import VALIDATION, VALIDATIONS

OTHER_LIMIT = 100
"""Most questions that are also trained in the format ``qa``."""
RECIPE = """# Written by `diekae train --decoder`; `diekae train` with this file repeats the training.
name = {{ name | toml }}
decoder = {{ decoder | toml }}
folder = {{ folder | toml }}

[diekae]
layers = {{ layers }}
encoder = "attention"
encoder_options = { rank = {{ config.encoder_options.rank }}, mlp_width = {{ config.encoder_options.mlp_width }} }
site = "attention"
scope = "all"
format = {{ config.format | toml }}
template = {{ config.template | toml }}

[training]
objective = "distill"
whole_input = true
max_steps = {{ steps }}
batch_size = {{ batch_size }}
gradient_accumulation = {{ gradient_accumulation }}
learning_rate = 4e-4
start_learning_rate = 5e-5
final_learning_rate = 2e-5
group_by_length = true
evaluations = {{ evaluations }}
logging_steps = 5
seed = {{ seed }}

[[data.train]]
source = "jsonl"
folder = "data"
{% if windows > 1 %}{# The bank learns that irrelevant knowledge changes almost nothing. #}
unrelated = 0.15
{% endif %}
{% if config.format != "qa" %}{# So that the bank also answers without the chat template. #}

[[data.train]]
source = "jsonl"
folder = "data"
format = "qa"
limit = {{ other_limit }}
{% endif %}

[[data.validation]]
source = "jsonl"
folder = "data"
limit = {{ validation }}

[[data.test]]
source = "jsonl"
folder = "data"
"""
"""Template of the recipe (Jinja)."""


def write_recipe(out: Path, decoder: str, decided: Mapping[str, Any], seed: int) -> None:
    """Write ``recipe.toml`` into a run's folder, by the decisions of ``study.json``."""
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    # TOML has no pairs of surrogates, by which JSON in ASCII writes most emoji.
    environment.filters["toml"] = lambda text: json.dumps(text, ensure_ascii=False)
    values = {**decided, "name": out.name, "decoder": decoder, "folder": str(out.absolute()), "seed": seed}
    limits = {"evaluations": VALIDATIONS, "validation": VALIDATION, "other_limit": OTHER_LIMIT}
    write_atomically(out / "recipe.toml", environment.from_string(RECIPE).render(values, **limits))
