"""Attach edits to a model: make new ones, or load saved ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from diekae.edit.database import FILE
from diekae.edit.edit import Edit
from diekae.edit.edits import Edits, make_store
from diekae.edit.gate import Gate, MentionGate
from diekae.edit.learned_gate import LearnedGate
from diekae.edit.prompt_encoder import StateReader
from diekae.edit.trained_parts import TrainedParts, find_trained
from diekae.fields import check_choice
from diekae.files import as_path
from diekae.model import DiekaeModel
from diekae.progress import Progress, silent

GateName = Literal["learned", "mention"]


def edit_model(
    model: DiekaeModel,
    edits: Sequence[Edit | Mapping[str, Any]],
    *,
    folder: str | Path | None = None,
    gate: str | Gate | None = None,
    trained: TrainedParts | None = None,
    progress: Progress = silent,
) -> Edits:
    """Edit facts. From then on ``model(…)`` and ``model.generate(…)`` are edited.

    Each edit is knowledge that is injected where the gate opens; nothing is trained. If the model has edits already,
    these are added to them.

        edits = edit_model(model, [Edit("The capital of Australia is", "Australia", "Sydney")])
        edits.revert(1)

    Args:
        model: Decoder, bank and tokenizer.
        edits: :class:`Edit`, or dictionaries in the layouts of MEMIT and EasyEdit.
        folder: Where the edits are stored, each as soon as it is made. None stores them in RAM only.
        gate: ``learned``, ``mention``, or a gate of your own. The default is the learned gate, where one was trained
            for this decoder, else ``mention``.
        trained: The trained gate and adapter for this bank; the default is what came with the package.
        progress: Called as the work goes on.

    Returns:
        The edits, with ``list``, ``revert``, ``add`` and ``save``.

    Raises:
        ValueError: An edit is not valid, or exists already.
    """
    editor = model.editor
    if not isinstance(editor, Edits) or folder is not None or gate is not None or trained is not None:
        editor = open_edits(model, folder, gate, trained)
    editor.add(edits, progress=progress)
    model.editor = editor
    return editor


def load_edits(
    model: DiekaeModel, folder: str | Path, *, gate: str | Gate | None = None, trained: TrainedParts | None = None
) -> Edits:
    """Load saved edits and put them in force. Edits that are added later are stored in the same folder.

    Raises:
        FileNotFoundError: The folder holds no edits.
        ValueError: They were made for another decoder or bank, or are damaged.
    """
    if not (as_path(folder) / FILE).is_file():
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
    model: DiekaeModel, folder: str | Path | None, gate: str | Gate | None = None, trained: TrainedParts | None = None
) -> Edits:
    """Open the edits of a folder, or start an empty store, without putting them in force; see :func:`edit_model`."""
    trained = find_trained(model) if trained is None else trained
    chosen = make_gate(model, gate, trained)
    return Edits(model, make_store(model, folder), chosen, trained.adapter)


def make_gate(model: DiekaeModel, gate: str | Gate | None, trained: TrainedParts) -> Gate:
    """Return the gate of a name, or the given gate; see :func:`edit_model`.

    Raises:
        ValueError: The name is not known, or ``learned`` is asked for and no gate was trained.
    """
    if isinstance(gate, Gate):
        return gate
    name = gate or ("mention" if trained.encoder is None else "learned")
    check_choice(f"gate={name!r}", name, get_args(GateName))
    if name == "mention":
        return MentionGate()
    if trained.encoder is None:
        raise ValueError(
            "gate='learned' was not trained for this bank; train it (`diekae-research edit train`), or use 'mention'."
        )
    states = StateReader(model.decoder, model.need_prompter(), trained.gate.layers)
    return LearnedGate(states, trained.encoder, trained.gate)
