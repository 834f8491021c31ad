"""Making a model's edits, and taking up those that were saved; :meth:`DiekaeModel.edit` comes here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diekae.editing.edit import Edit
from diekae.editing.gate import Gate, MentionGate, Progress
from diekae.editing.learned import LearnedGate, States
from diekae.editing.memory import MemoryEdits, make_store
from diekae.editing.store import FILE
from diekae.editing.trained import Trained, find_trained
from diekae.editing.weights import FILE as WEIGHTS_FILE
from diekae.editing.weights import WeightEdits, load_weight_edits
from diekae.model import DiekaeModel

MECHANISMS = ("memory", "weights")
GATES = ("learned", "mention")


def edit_model(
    model: DiekaeModel,
    edits: Sequence[Edit | Mapping[str, Any]],
    *,
    mechanism: str = "memory",
    folder: str | Path | None = None,
    gate: str | Gate | None = None,
    trained: Trained | None = None,
    progress: Progress = lambda _what, _done, _all: None,
    **options: Any,
) -> Any:
    """Edit facts; a model that has edits of the mechanism already gets these in addition.

    Args:
        model: What is edited: decoder, bank and tokenizer.
        edits: :class:`Edit`, or dictionaries as MEMIT and EasyEdit write them.
        mechanism: ``memory``: each edit is knowledge, injected where a gate opens. ``weights``: encoders E(_, x) are
            trained on all edits together (paper, section 3.4).
        folder: Where ``memory`` keeps the edits, each as soon as it is made; in this process alone if None.
        gate: ``learned`` or ``mention``, or a gate of yours; the learned one where one was trained for the bank.
        trained: What was trained for editing with this bank; by default what came with the package.
        progress: Told how far it is.
        **options: For the mechanism ``weights``: see :class:`diekae.editing.weights.WeightOptions`.

    Returns:
        The edits, with ``list``, ``revert``, ``add`` and ``save``.

    Raises:
        ValueError: An edit is not possible or there already, or an option is unknown.
    """
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism={mechanism!r} is not known; choose one of {', '.join(MECHANISMS)}.")
    editor: Any = model.editor
    if mechanism == "weights":
        if not isinstance(editor, WeightEdits):
            editor = WeightEdits(model, **options)
        elif options:
            raise ValueError(
                f"options {', '.join(options)} come too late: the model has weight edits, which are trained as they "
                "were begun. Leave the options out, or begin anew with model.editor = None."
            )
    elif options:
        raise ValueError(f"options {', '.join(options)} are for mechanism='weights'.")
    elif not isinstance(editor, MemoryEdits) or folder is not None or gate is not None or trained is not None:
        editor = open_edits(model, folder, gate, trained)
    editor.add(edits, progress=progress)
    model.editor = editor
    return editor


def load_edits(
    model: DiekaeModel, folder: str | Path, *, gate: str | Gate | None = None, trained: Trained | None = None
) -> Any:
    """Take up saved edits: they are in force from here on, and edits that are added go into the same folder.

    Raises:
        FileNotFoundError: The folder holds no edits.
        ValueError: They were made for another decoder or bank, or are damaged.
    """
    if (Path(folder) / WEIGHTS_FILE).is_file():
        model.editor = load_weight_edits(model, folder)
        return model.editor
    if not (Path(folder) / FILE).is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no edits: {FILE} is missing; give what `edits.save` wrote.")
    edits = open_edits(model, folder, gate, trained)
    try:
        edits.refresh()
    except BaseException:
        edits.store.close()
        raise
    model.editor = edits
    return edits


def open_edits(
    model: DiekaeModel, folder: str | Path | None, gate: str | Gate | None = None, trained: Trained | None = None
) -> MemoryEdits:
    """Open the edits of a folder, or begin them, without putting them in force; see :func:`edit_model`."""
    trained = find_trained(model) if trained is None else trained
    chosen = make_gate(model, gate, trained)
    return MemoryEdits(model, make_store(model, folder), chosen, trained.adapter)


def make_gate(model: DiekaeModel, gate: str | Gate | None, trained: Trained) -> Gate:
    """Return the gate that is asked for.

    Raises:
        ValueError: It is not known, or a learned one is asked for where none was trained.
    """
    if isinstance(gate, Gate):
        return gate
    name = gate or ("mention" if trained.encoder is None else "learned")
    if name not in GATES:
        raise ValueError(f"gate={name!r} is not known; choose one of {', '.join(GATES)}.")
    if name == "mention":
        return MentionGate()
    if trained.encoder is None:
        raise ValueError(
            "gate='learned' was not trained for this bank; train it (`diekae edit train`), or use 'mention'."
        )
    states = States(model.decoder, model.need_prompter(), model.anchor, trained.gate.layers)
    return LearnedGate(states, trained.encoder, trained.gate)
