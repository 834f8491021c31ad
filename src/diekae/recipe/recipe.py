"""A recipe: its fields, how it is read from a file, and how it is checked."""

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
from diekae.fields import check_choice, check_table, check_types, short
from diekae.files import as_path
from diekae.models import DTYPES
from diekae.training.config import TrainingConfig

PARTS = ("train", "validation", "test")
_PLAIN = ("name", "decoder", "dtype", "device", "folder", "bank")
_TABLES = ("diekae", "training", "data")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run."""

    name: str
    """Name of the run's folder."""
    decoder: str = "smollm2"
    """Name or folder of the decoder."""
    dtype: str = "auto"
    """Type that the decoder is loaded in, one of :data:`diekae.models.DTYPES`; auto: the faster one on this machine."""
    device: str = "auto"
    """Device of decoder and bank, as for :func:`diekae.models.resolve_device`; auto: a GPU if there is one."""
    folder: str | None = None
    """Folder that the data sets' folders are relative to."""
    bank: str | None = None
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
    if not as_path(path).is_file():
        raise FileNotFoundError(
            f"no recipe at {str(path)!r}; expected a TOML file, such as the one that `diekae train --decoder` writes."
        )
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
    """Build a recipe from its tables; ``where`` is the file's path, for messages and the default name.

    Raises:
        ValueError: A key or value is not valid, or a part of the data is missing.
    """
    plain = {name: values[name] for name in _PLAIN if name in values}
    with _inside(where):
        for key in values:
            check_choice(f"key {key!r}", key, (*_PLAIN, *_TABLES, "preset", "stage"))
        check_types(Recipe, plain)
        for name in _TABLES:
            check_table(values.get(name, {}), name)
        recipe = Recipe(
            **{"name": Path(where).stem, **plain},
            diekae=_config(values),
            stages=_stages(values),
            data={part: _specs(values.get("data", {}).get(part), part) for part in PARTS},
        )
        _check(recipe)
    return recipe


@contextmanager
def _inside(where: str) -> Iterator[None]:
    """Put a place in the recipe before the messages of ValueErrors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _config(values: Mapping[str, Any]) -> DiekaeConfig | None:
    """Build the configuration of a new bank; None if the recipe names a trained one."""
    if values.get("bank") is None:
        with _inside("[diekae]"):
            return DiekaeConfig.preset(values.get("preset", "default"), **values.get("diekae", {}))
    if conflicting := {"preset", "diekae"} & set(values):
        raise ValueError(
            f"bank={values['bank']!r} has its own configuration, so {' and '.join(sorted(conflicting))} cannot change "
            "it; leave one of them out."
        )
    return None


def _stages(values: Mapping[str, Any]) -> tuple[TrainingConfig, ...]:
    """Build the stages: ``[training]`` alone, or each ``[[stage]]`` with ``[training]`` as its defaults."""
    shared, stages = values.get("training", {}), values.get("stage", [{}])
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, Mapping) for stage in stages):
        raise ValueError(f"stage={short(stages)} is not understood; write each stage as a table [[stage]].")
    with _inside("[training]"):
        return tuple(TrainingConfig.from_dict({**shared, **stage}) for stage in stages)


def _specs(tables: Any, part: str) -> tuple[DataSpec, ...]:
    """Build the sources of one part from its tables ``[[data.part]]``."""
    if not isinstance(tables, list | tuple) or not tables:
        raise ValueError(f"no [[data.{part}]]; a recipe names at least one source for each of {PARTS}.")
    names = [field.name for field in dataclasses.fields(DataSpec)]
    specs = []
    with _inside(f"[[data.{part}]]"):
        for table in tables:
            check_table(table, "a source")
            for key in table:
                check_choice(f"key {key!r}", key, names)
            if "source" not in table:
                raise ValueError("source is missing; name a data set, such as 'jsonl'.")
            check_types(DataSpec, table)
            specs.append(DataSpec(**{"split": part, **table}))
    return tuple(specs)


def _check(recipe: Recipe) -> None:
    """Check a recipe's plain values, and that its data suit its objectives."""
    # The run would be written elsewhere under a name that is a path.
    name, is_plain = recipe.name, lambda character: character.isprintable() and character not in "/\\"
    if not name.strip() or name in (".", "..") or len(name) > 100 or not all(map(is_plain, name)):
        raise ValueError(
            f"name={short(name)} must be the name of a folder inside runs/: at most 100 characters, and no / or \\."
        )
    check_choice(f"dtype={recipe.dtype!r}", recipe.dtype, DTYPES)
    try:  # whether the device exists is checked when the recipe runs, maybe on another machine
        torch.device("cpu" if recipe.device == "auto" else recipe.device)
    except RuntimeError as error:
        raise ValueError(f"device={recipe.device!r} is not understood; expected auto, cpu, cuda or cuda:N.") from error
    unrelated = [(part, spec) for part in ("train", "validation") for spec in recipe.data[part] if spec.unrelated]
    if unrelated and any(stage.objective == "cross_entropy" for stage in recipe.stages):
        part, spec = unrelated[0]
        raise ValueError(
            f"[[data.{part}]] of {spec.source!r} has unrelated={spec.unrelated}, but under objective='cross_entropy' "
            "the bank would learn to say the target from knowledge that does not hold it. Leave unrelated out, or "
            "train by 'difference' or 'distill', which keep to what D(K, x) makes of such knowledge."
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
