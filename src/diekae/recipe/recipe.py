"""A recipe: its fields, how it is read from a file, and how it is checked."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diekae.config import DiekaeConfig
from diekae.data.mixture import DataSpec
from diekae.fields import check_types, short
from diekae.models import DTYPES
from diekae.suggest import did_you_mean
from diekae.training.config import TrainingConfig

PARTS = ("train", "validation", "test")


@dataclass
class _Tables:
    """The keys of a recipe's file, and the types of their values."""

    name: str
    decoder: str
    dtype: str
    device: str
    folder: str | None
    bank: str | None
    preset: str
    diekae: Mapping[str, Any]
    training: Mapping[str, Any]
    stage: Any
    data: Mapping[str, tuple[Mapping[str, Any], ...]]


_KEYS = {field.name for field in dataclasses.fields(_Tables)}


@dataclass(frozen=True)
class Recipe:
    """One run."""

    name: str
    """Name of the run's folder."""
    decoder: str
    """Name or folder of the decoder."""
    dtype: str
    """Type that the decoder is loaded in, one of :data:`diekae.models.DTYPES`; auto: the faster one on this machine."""
    device: str
    """Device of decoder and bank, as for :func:`diekae.models.settled_device`; auto: a GPU if there is one."""
    folder: str | None
    """Folder that the data sets' folders are relative to."""
    bank: str | None
    """A trained bank to start from: its folder, or the name of a shipped one. It has its own configuration."""
    diekae: DiekaeConfig | None
    """Configuration of a new bank; None if the run starts from a trained one."""
    stages: tuple[TrainingConfig, ...]
    """The training, stage after stage; each starts where the one before it ended."""
    data: dict[str, tuple[DataSpec, ...]]
    """Sources of the parts train, validation and test."""

    def sources(self, part: str) -> list[DataSpec]:
        """Return the sources of a part, with their folders resolved."""
        base = Path(self.folder or "")
        return [
            dataclasses.replace(spec, folder=str(base / spec.folder)) if spec.folder else spec
            for spec in self.data[part]
        ]


def read_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (TOML) and apply settings such as ``training.epochs=3``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file or a setting is not valid.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no recipe at {str(path)!r}; expected a TOML file, such as those under recipes/.")
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path}: lists or tables are nested too deeply; a recipe needs three levels.") from error
    except ValueError as error:
        raise ValueError(f"{path}: not TOML ({error}).") from error
    for setting in settings:
        _set(values, setting)
    return make_recipe(values, str(path))


def make_recipe(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from its tables.

    Args:
        values: The tables, as in a file.
        where: The file's path, for messages and the default name.

    Raises:
        ValueError: A key or value is not valid, or a part of the data is missing.
    """
    if unknown := set(values) - _KEYS:
        raise ValueError(f"{where}: unknown keys {sorted(map(str, unknown))}; expected {sorted(_KEYS)}.")
    with _inside(where):
        check_types(_Tables, values)
        name = values.get("name", Path(where).stem)
        _check_name(name)
    if values.get("dtype", "auto") not in DTYPES:
        raise ValueError(f"{where}: dtype={values['dtype']!r} is not known; choose one of {', '.join(DTYPES)}.")
    _check_device(values.get("device", "auto"), where)
    bank = values.get("bank")
    if bank is not None and (conflicting := {"preset", "diekae"} & set(values)):
        raise ValueError(
            f"{where}: bank={bank!r} has its own configuration, so {' and '.join(sorted(conflicting))} cannot change "
            "it; leave out the one or the other."
        )
    data = _data(values, where)
    stages = _stages(values, where)
    _check_unrelated(stages, data, where)
    config = None
    if bank is None:
        with _inside(f"{where}: [diekae]"):
            config = DiekaeConfig.preset(values.get("preset", "default"), **values.get("diekae", {}))
    return Recipe(
        name,
        values.get("decoder", "smollm2"),
        values.get("dtype", "auto"),
        values.get("device", "auto"),
        values.get("folder"),
        bank,
        config,
        stages,
        data,
    )


@contextmanager
def _inside(where: str) -> Iterator[None]:
    """Put a place in the recipe before the messages of errors.

    Raises:
        ValueError: As inside the block.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_name(name: str) -> None:
    """Refuse a name that is not that of one folder: the run would be written elsewhere.

    Raises:
        ValueError: It is a path, or cannot be a folder's name.
    """
    if not name.strip() or name in (".", "..") or len(name) > 100 or not all(map(_is_plain, name)):
        raise ValueError(
            f"name={short(name)} must be the name of a folder inside runs/: at most 100 characters, and no / or \\."
        )


def _is_plain(character: str) -> bool:
    return character.isprintable() and character not in "/\\"


def _check_device(name: Any, where: str) -> None:
    """Check a device's spelling. Whether it exists is checked when the recipe runs, maybe on another machine."""
    try:
        if name != "auto":
            torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{where}: device={name!r} is not understood; expected auto, cpu, cuda or cuda:N.") from error


def _data(values: Mapping[str, Any], where: str) -> dict[str, tuple[DataSpec, ...]]:
    """Build the sources of all parts."""
    data = {}
    for part in PARTS:
        specs = values.get("data", {}).get(part)
        if not specs:
            raise ValueError(f"{where}: no [[data.{part}]]; a recipe names at least one source for each of {PARTS}.")
        with _inside(f"{where}: [[data.{part}]]"):
            data[part] = tuple(_make_spec({"split": part, **spec}) for spec in specs)
    return data


def _make_spec(values: Mapping[str, Any]) -> DataSpec:
    """Build one source.

    Raises:
        ValueError: A key or value is not valid, or the source is not named.
    """
    names = [field.name for field in dataclasses.fields(DataSpec)]
    for key in values:
        if key not in names:
            raise ValueError(f"{key!r} is not known; expected one of {', '.join(names)}.{did_you_mean(key, names)}")
    if "source" not in values:
        raise ValueError("source is missing; name a data set, such as 'jsonl'.")
    check_types(DataSpec, values)
    return DataSpec(**values)


def _stages(values: Mapping[str, Any], where: str) -> tuple[TrainingConfig, ...]:
    """Build the stages: ``[training]`` alone, or each ``[[stage]]`` with ``[training]`` as its defaults."""
    shared, stages = values.get("training", {}), values.get("stage", [{}])
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, Mapping) for stage in stages):
        raise ValueError(f"{where}: stage={short(stages)} is not understood; write each stage as a table [[stage]].")
    with _inside(f"{where}: [training]"):
        return tuple(TrainingConfig.from_dict({**shared, **stage}) for stage in stages)


def _check_unrelated(stages: Sequence[TrainingConfig], data: Mapping[str, Sequence[DataSpec]], where: str) -> None:
    """Refuse unrelated knowledge under cross-entropy, which would teach the target whatever K says.

    Raises:
        ValueError: A source for training or validation has unrelated knowledge.
    """
    if not any(stage.objective == "cross_entropy" for stage in stages):
        return
    for part in ("train", "validation"):
        for spec in data[part]:
            if spec.unrelated:
                raise ValueError(
                    f"{where}: [[data.{part}]] of {spec.source!r} has unrelated={spec.unrelated}, but under "
                    "objective='cross_entropy' the bank would learn to say the target from knowledge that does not "
                    "hold it. Leave unrelated out, or train by 'difference' or 'distill', which keep to what D(K, x) "
                    "makes of such knowledge."
                )


def _set(values: dict[str, Any], setting: str) -> None:
    """Apply one ``a.b=value``. The value is read as TOML, or as a text if it is not TOML."""
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"setting {setting!r} is not understood; expected key=value, as in training.epochs=3.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *path, last = name.strip().split(".")
    table: Any = values
    try:
        for key in path:
            table = table[int(key)] if isinstance(table, list) else table.setdefault(key, {})
        table[int(last) if isinstance(table, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"setting {setting!r} names no place in the recipe ({error}); lists are counted from 0, as in "
            "data.test.0.limit=100."
        ) from error
