"""Every verb that loads a model loads it on the device that `--device` names."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from diekae_research.cli import typer_app
from test_device import Asked, asked, gpus, place, raise_asked  # noqa: F401 - fixtures

VERBS = {
    "curves": ("--bank", "bank", "--data", "data.jsonl"),
    "bench": ("decode", "--decoder", "decoder"),
    "reproduce": ("table4", "--model", "decoder", "--data", ".", "--out", "tables"),
    "edit evaluate": ("--bank", "bank", "--data", ".", "--out", "measured"),
    "edit train": ("--bank", "bank", "--data", ".", "--out", "trained"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_loads_on_the_device_of_its_option(
    verb: str,
    place: Path,  # noqa: F811
    gpus: None,  # noqa: F811
    asked: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    for module in ("diekae_research.tables.lab", "diekae_research.cli.bench"):
        monkeypatch.setattr(f"{module}.load_decoder", raise_asked)
    for options, device in (((), "cuda:0"), (("--device", "cpu"), "cpu"), (("--device", "cuda:1"), "cuda:1")):
        result = CliRunner().invoke(typer_app, [*verb.split(), *VERBS[verb], *options])
        assert isinstance(result.exception, Asked) and str(result.exception) == device, result.output
