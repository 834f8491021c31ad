"""A saved decoder with data and a recipe, and a bank trained by that recipe."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import make_decoder, make_tokenizer
from cli_runs import succeed

COLOURS, THINGS = ("red", "blue", "green", "silver"), ("house", "bridge", "tower", "castle", "boat", "door", "gate")


RECIPE = """
name = "tiny"
decoder = "{decoder}"
folder = "{folder}"

[diekae]
layers = "all"
encoder_options = {{ width = 16, heads = 2, mlp_width = 24 }}

[training]
max_steps = 8
batch_size = 4
evaluations = 2
logging_steps = 2

[[data.train]]
source = "jsonl"
folder = "data"

[[data.validation]]
source = "jsonl"
folder = "data"

[[data.test]]
source = "jsonl"
folder = "data"

[[data.test]]
source = "jsonl"
folder = "data"
limit = 3
"""


def examples() -> list[dict[str, Any]]:
    return [
        {"knowledge": f"the {thing} is {colour}", "input": f"what is the {thing}", "target": colour}
        for thing in THINGS
        for colour in COLOURS
    ]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a saved decoder, data and a recipe."""
    folder = tmp_path_factory.mktemp("cli")
    make_decoder().save_pretrained(folder / "decoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    (folder / "data").mkdir()
    rows = examples()
    for part, chosen in (("train", rows[:20]), ("validation", rows[20:24]), ("test", rows[24:])):
        (folder / "data" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    (folder / "tiny.toml").write_text(RECIPE.format(decoder=folder / "decoder", folder=folder))
    (folder / "fact.txt").write_text("the tower is blue\n")
    return folder


@pytest.fixture(scope="session")
def trained(workspace: Path) -> tuple[Path, str]:
    """Return the folder of a run, and what it printed."""
    output = succeed("train", workspace / "tiny.toml", "--out", workspace / "run")
    return workspace / "run", output
