"""The mechanism ``weights``: encoders E(_, x) trained on the edits, no knowledge given (paper, section 3.4).

All edits share the encoders, so each change of the list trains them anew. The encoders are the paper's: ``token``,
which reads x alone where nothing is known, in layers 3 to 8. They differ in three things. They start as the identity,
where the paper begins from encoders that were trained on differences (its section 4). Generated tokens receive too, not
the prompt alone. And the first tokens, which hold the attention sink, receive nothing.

Trained on the edits alone, as in the paper, they learn to say the new objects everywhere. Two things hold against it,
and both can be switched off: edits are also learned behind sentences that the decoder itself wrote (the context
templates of MEMIT, ``get_context_templates`` in kmeng01/memit), and on such sentences and on other subjects the
injected run is held to the bare one by a KL.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diekae.config import DiekaeConfig
from diekae.data.example import Example
from diekae.data.prompt import Prompt
from diekae.edit.edit import Edit, make_edit
from diekae.edit.store import Record
from diekae.editor import Call, Editor
from diekae.files import write_atomically
from diekae.inject.hooks import frozen
from diekae.knowledge import Knowledge, PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.progress import Progress, silent
from diekae.run.answer import until_end
from diekae.training.config import TrainingConfig
from diekae.training.run import build_trainer
from diekae_research.editing.lessons import Lesson, LessonObjective, Lessons, Told, staying, taught

OPENINGS = ("The", "In", "She", "It", "Because", "Therefore", "I", "You")
"""What the decoder begins its own sentences with."""
OTHERS = (
    "Marie Curie, Ludwig van Beethoven, Nelson Mandela, Frida Kahlo, Isaac Newton, Jane Austen, Mahatma Gandhi, Pelé, "
    "Toyota, Nokia, Lake Victoria, Mount Fuji, Amsterdam, Kenya, Peru, Norway, the Eiffel Tower, Hamlet, Wikipedia, "
    "the Danube, Queen, Vancouver, Boeing 747, Stanford University"
).split(", ")
"""Subjects on which the decoder is to stay as it is, unless an edit is about one."""
FILE = "weight-edits.json"


@dataclass(frozen=True)
class WeightOptions:
    """How encoders are trained on edits."""

    preset: str = "paper"
    """What the encoders are; see :meth:`DiekaeConfig.preset`. Without knowledge ``paper`` reads x as tokens,
    ``default`` as the decoder's states, by its skip path alone; ``attention`` is no more than an MLP behind each
    attention."""
    layers: str | tuple[int, ...] | None = None
    """Layers that receive; the preset's if None."""
    epochs: float = 20.0
    """Passes over the edits."""
    batch_size: int = 8
    """Edits a step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    sentences: int = 24
    """Sentences of the decoder's own that edits are learned behind and that must stay; 0 learns the prompts alone."""
    locality: float = 1.0
    """Weight of the KL to the bare decoder, in nats a token, beside the cross-entropy; 0 is the paper's row."""
    seed: int = 0
    """Decides sentences, start and order."""

    def configuration(self) -> DiekaeConfig:
        """Return the preset as edits need it: generated tokens receive, anchors do not, and the start is the identity.

        Raises:
            ValueError: The preset is not known, or has nothing to train.
        """
        changes: dict[str, Any] = {"scope": "all", "anchor": "shared"}
        if self.layers is not None:
            changes["layers"] = self.layers
        config = DiekaeConfig.preset(self.preset, **changes)
        if config.encoder == "token":
            config = dataclasses.replace(config, encoder_options={**config.encoder_options, "identity_start": True})
        if config.encoder == "attention" and not config.encoder_options["mlp_width"]:
            raise ValueError(
                f"preset={self.preset!r} has nothing that could learn an edit; choose paper, default or attention."
            )
        return config


class WeightEdits(Editor):
    """Edits as encoders that read x alone."""

    mechanism = "weights"

    def __init__(self, model: DiekaeModel, **options: Any) -> None:
        """Begin without edits.

        Args:
            model: The model that is edited; it needs a tokenizer.
            **options: Fields of :class:`WeightOptions`.

        Raises:
            ValueError: An option is not known.
        """
        unknown = set(options) - {field.name for field in dataclasses.fields(WeightOptions)}
        if unknown:
            known = ", ".join(field.name for field in dataclasses.fields(WeightOptions))
            raise ValueError(f"options {', '.join(sorted(unknown))} are not known; expected some of {known}.")
        self.options, self._outside = WeightOptions(**options), {"model": model}
        self.inner: DiekaeModel | None = None
        self.log: list[dict[str, float]] = []
        self._records: list[Record] = []

    @property
    def model(self) -> DiekaeModel:
        """Return the model that is edited."""
        return self._outside["model"]

    def __repr__(self) -> str:
        """Say on one line how many edits there are and what was trained on them."""
        options = f"preset {self.options.preset!r}, {self.options.epochs:g} epochs"
        return f"WeightEdits({len(self.list())} edits in force of {len(self._records)}, {options})"

    def to(self, device: torch.device) -> None:
        """See :meth:`Editor.to`."""
        if self.inner is not None:
            self.inner.to(device)

    def add(self, edits: Sequence[Edit | Mapping[str, Any]], *, progress: Progress = silent) -> list[Record]:
        """Train encoders on these edits and all before.

        Raises:
            ValueError: An edit is not possible, or there already.
        """
        made = [edit if isinstance(edit, Edit) else make_edit(edit) for edit in edits]
        live = {record.edit.fact: record for record in self._records if record.state == "live"}
        for edit in made:
            if edit.fact in live and live[edit.fact].edit.target == edit.target:
                raise ValueError(f"{edit.prompt!r} → {edit.target!r} is edited already; leave it out.")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        records = list(self._records)
        fresh = []
        for edit in made:
            old = [n for n, record in enumerate(records) if record.state == "live" and record.edit.fact == edit.fact]
            for n in old:
                records[n] = dataclasses.replace(records[n], state="superseded")
            fresh.append(Record(len(records) + 1, edit, "live", now))
            records.append(fresh[-1])
        self._train([record.edit for record in records if record.state == "live"], progress)
        self._records = records
        return fresh

    def list(self, *, every: bool = False) -> list[Record]:
        """Return the edits in force, or with ``every`` all there ever were."""
        return [record for record in self._records if every or record.state == "live"]

    def revert(self, number: int) -> Record:
        """Take an edit back: the encoders are trained anew on the others, and on none at all after the last.

        Raises:
            ValueError: There is no such edit in force.
        """
        places = [n for n, record in enumerate(self._records) if record.id == number and record.state == "live"]
        if not places:
            raise ValueError(f"no edit {number} is in force; `list` shows those that are.")
        records = list(self._records)
        records[places[0]] = dataclasses.replace(records[places[0]], state="reverted")
        self._train([record.edit for record in records if record.state == "live"], lambda _what, _done, _all: None)
        self._records = records
        return records[places[0]]

    def save(self, folder: str | Path) -> None:
        """Write the encoders and the list of edits; :func:`load_weight_edits` reads them."""
        if self.inner is None:
            raise ValueError("there are no edits to save; make some first.")
        self.inner.save_pretrained(Path(folder) / "bank")
        content = {"options": dataclasses.asdict(self.options), "edits": [dataclasses.asdict(r) for r in self._records]}
        write_atomically(Path(folder) / FILE, json.dumps(content, indent=1))

    @contextmanager
    def around(
        self, knowledge: Knowledge, input_ids: Tensor, attention_mask: Tensor | None, cache: Any
    ) -> Iterator[Call]:
        """See :meth:`Editor.around`: E(_, x) is added to every call, whatever it asks.

        Raises:
            ValueError: Knowledge is given to a bank that cannot run beside these encoders.
        """
        if self.inner is None:
            yield Call(knowledge)
            return
        self._check_together(knowledge)
        done = int(cache.get_seq_length()) if cache is not None else 0
        with self.inner.behind(nothing(self.inner), input_ids, attention_mask, done=done):
            yield Call(knowledge)

    def _check_together(self, knowledge: Knowledge) -> None:
        """Refuse knowledge where both banks would read x at one place: as one more layer of the cache, or in attention.

        Raises:
            ValueError: They would.
        """
        assert self.inner is not None
        given = knowledge if isinstance(knowledge, list | tuple) else [knowledge]
        reads = self.inner.bank.encoder.reads
        if reads == "states" or reads != self.model.bank.encoder.reads or all(row is None for row in given):
            return
        name = self.inner.config.encoder
        raise ValueError(
            f"weight edits of encoder={name!r} cannot be in force while knowledge is given to a bank of the same "
            "encoder: both would keep what they read of x at one place. Edit with mechanism='memory', make the weight "
            "edits with preset='default', or call without knowledge."
        )

    def _train(self, edits: Sequence[Edit], progress: Progress) -> None:
        """Train new encoders; those in force stay until they are ready."""
        if not edits:
            self.inner = None
            return
        options, model = self.options, self.model
        torch.manual_seed(options.seed)
        inner = DiekaeModel(model.decoder, options.configuration(), model.tokenizer)
        sentences = own_sentences(model, options.sentences, options.seed)
        data = Lessons(training_lessons(model, edits, sentences, options))
        settings = TrainingConfig(
            objective="cross_entropy",
            max_steps=math.ceil(options.epochs * len(edits) / options.batch_size),
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            start_learning_rate=options.learning_rate / 10,
            final_learning_rate=options.learning_rate / 20,
            evaluations=1,
            seed=options.seed,
        )
        with tempfile.TemporaryDirectory() as folder, frozen(model.decoder):
            objective = LessonObjective(inner, inner.bank, options.locality)
            check: Any = [data, Lessons(data.items[: options.batch_size])]
            watch = Told("training encoders", progress)
            trainer = build_trainer(objective, check, settings, Path(folder), None, [watch])
            trainer.train_from(None)
            self.log = list(trainer.state.log_history)
        self.inner = inner.eval()


def training_lessons(
    model: DiekaeModel, edits: Sequence[Edit], sentences: Sequence[str], options: WeightOptions
) -> list[list[Lesson]]:
    """Return each edit, plain and behind a sentence, with as many texts along which the decoder stays."""
    prompter, draw = model.need_prompter(), random.Random(options.seed)
    known = {name for edit in edits for name in edit.names}
    others = [name for name in OTHERS if name not in known]
    items = []
    for edit in edits:
        texts = [edit.prompt] + ([f"{draw.choice(sentences)} {edit.prompt}"] if sentences else [])
        lessons = [taught(prompter.prompt(Example((), text, edit.target), "plain")) for text in texts]
        if options.locality:
            stays = [edit.prompt.replace(edit.subject, draw.choice(others))]
            stays += [draw.choice(sentences)] if sentences else []
            lessons += [staying(Prompt(model.anchor, (), prompter.input(text, "plain"), ())) for text in stays]
        items.append(lessons)
    return items


@torch.no_grad()
def own_sentences(model: DiekaeModel, number: int, seed: int) -> list[str]:
    """Return beginnings of texts that the bare decoder samples, some ten tokens each."""
    if not number:
        return []
    prompter = model.need_prompter()
    found: list[str] = []
    with torch.random.fork_rng(devices=[]), frozen(model.decoder):
        torch.manual_seed(seed)
        for opening in OPENINGS:
            row = [*model.anchor, *prompter.input(opening, "plain")]
            ids = torch.tensor([row] * math.ceil(number / len(OPENINGS)), device=model.device)
            made = model.decoder.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=True, pad_token_id=0
            )
            rows = until_end(made[:, len(model.anchor) :], model.decoder)
            found += [str(prompter.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
    return [" ".join(text.split()).rstrip(".") + "." for text in found][:number]


def nothing(model: DiekaeModel) -> PreparedKnowledge:
    """Return the memory of no knowledge, with which a bank is E(_, x)."""
    (prepared,) = read_documents(model.attached, model.anchor, [()])
    return prepared


def load_weight_edits(model: DiekaeModel, folder: str | Path) -> WeightEdits:
    """Read what :meth:`WeightEdits.save` wrote.

    Raises:
        FileNotFoundError: The folder holds no such edits.
        ValueError: They are damaged, or of another decoder.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no edits: {FILE} is missing; give what `edits.save` wrote.")
    try:
        content = json.loads(path.read_text())
        edits = WeightEdits(model, **content["options"])
        edits._records = [Record(**{**row, "edit": Edit(**row["edit"])}) for row in content["edits"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error!r}); make the edits anew.") from error
    edits.inner = DiekaeModel.from_pretrained(Path(folder) / "bank", model.decoder, model.tokenizer)
    return edits
