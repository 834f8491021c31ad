"""Editing a model, and taking up edits that were saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diekae.edit.edit import Edit
from diekae.edit.edits import Edits, make_store
from diekae.edit.gate import Gate, MentionGate
from diekae.edit.learned import LearnedGate, States
from diekae.edit.store import FILE
from diekae.edit.trained import Trained, find_trained
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent

GATES = ("learned", "mention")


def edit_model(
    model: DiekaeModel,
    edits: Sequence[Edit | Mapping[str, Any]],
    *,
    folder: str | Path | None = None,
    gate: str | Gate | None = None,
    trained: Trained | None = None,
    progress: Progress = silent,
) -> Edits:
    """Edit facts: from then on calls of the model are edited. A model that has edits already gets these in addition.

    Each edit is knowledge that is injected where a gate opens; nothing is trained.

    Args:
        model: What is edited: decoder, bank and tokenizer.
        edits: :class:`Edit`, or dictionaries as MEMIT and EasyEdit write them.
        folder: Where the edits are kept, each as soon as it is made; None keeps them in this process alone.
        gate: ``learned`` or ``mention``, or a gate of yours. By default the learned one where one was trained for the
            bank.
        trained: What was trained for editing with this bank; by default what came with the package.
        progress: Called as the work goes on.

    Returns:
        The edits, with ``list``, ``revert``, ``add`` and ``save``.

    Raises:
        ValueError: An edit is not possible or is there already.
    """
    editor = model.editor
    if not isinstance(editor, Edits) or folder is not None or gate is not None or trained is not None:
        editor = open_edits(model, folder, gate, trained)
    editor.add(edits, progress=progress)
    model.editor = editor
    return editor


def load_edits(
    model: DiekaeModel, folder: str | Path, *, gate: str | Gate | None = None, trained: Trained | None = None
) -> Edits:
    """Take up saved edits: they are in force from here on, and edits that are added go into the same folder.

    Raises:
        FileNotFoundError: The folder holds no edits.
        ValueError: They were made for another decoder or bank, or are damaged.
    """
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
) -> Edits:
    """Open the edits of a folder, or begin them, without putting them in force; see :func:`edit_model`."""
    trained = find_trained(model) if trained is None else trained
    chosen = make_gate(model, gate, trained)
    return Edits(model, make_store(model, folder), chosen, trained.adapter)


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
            "gate='learned' was not trained for this bank; train it (`diekae-research edit train`), or use 'mention'."
        )
    states = States(model.decoder, model.need_prompter(), model.anchor, trained.gate.layers)
    return LearnedGate(states, trained.encoder, trained.gate)
