"""Which of several documents a question is about: the likelihood that the decoder gives to the question behind each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diekae.data.prompt import Prompt
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.run.score import score, target_logits


def rank(
    model: DiekaeModel,
    question: str,
    documents: Sequence[str | PreparedKnowledge],
    *,
    format: str | None = None,
    batch_size: int = 8,
) -> list[tuple[int, float]]:
    """Rank documents by how likely they make a question, as in query likelihood (Ponte and Croft, 1998).

    The decoder reads the question once behind each document, and generates nothing. So a document costs a pass over the
    tokens of the question.

    Args:
        model: Decoder and bank.
        question: The question.
        documents: Texts, or what the model prepared of them for this format; at least one.
        format: Format of the question; the model's own if None.
        batch_size: Documents that are tried at once.

    Returns:
        The number of each document and log p(question | document) in nats, the likeliest first.

    Raises:
        ValueError: There is no document, the question or a document is blank, or a document was prepared by another
            bank.
        TypeError: The question or a document is no text.

    Example:
        >>> prepared = [model.prepare(text) for text in texts]
        >>> best, _ = rank(model, "Who built the bridge?", prepared)[0]
        >>> model.chat("Who built the bridge?", knowledge=prepared[best])
    """
    inputs = tuple(model.tokenize(question, format)["input_ids"][0].tolist())
    if isinstance(documents, str) or not documents:
        raise ValueError(f"documents={documents!r} must be a list of at least one text or prepared document.")
    (anchor,) = model.anchors_of([inputs])
    ready = model.prepare_rows(list(documents), len(documents), lambda: [inputs] * len(documents))
    prompt = Prompt(anchor, (), (), inputs[len(anchor) :])

    def logits_of(rows: Sequence[int]) -> Tensor:
        return target_logits(model, [prompt] * len(rows), "ours", all_prepared=[ready[row] for row in rows])

    losses = score(logits_of, [prompt] * len(documents), batch_size)
    # The anchor alone predicts the first token, and the anchor reads no document.
    likelihoods = [-float(loss[1:].sum()) for loss in losses]
    return sorted(enumerate(likelihoods), key=lambda pair: -pair[1])
