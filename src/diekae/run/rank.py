"""Which of several documents a question is about."""

from __future__ import annotations

from collections.abc import Sequence

from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.model.relevance import gains


def rank(
    model: DiekaeModel,
    question: str,
    documents: Sequence[str | PreparedKnowledge],
    *,
    format: str | None = None,
    batch_size: int = 8,
) -> list[tuple[int, float]]:
    """Rank documents by how much likelier they make a question.

    The decoder reads the question once behind each document and once alone, and generates nothing. So a document costs
    a pass over the tokens of the question.

    Args:
        model: Decoder and bank.
        question: The question. Of a long one, the last 256 tokens count.
        documents: Texts, or what the model prepared of them for this format; at least one.
        format: Format of the question; the model's own if None.
        batch_size: Documents that are tried at once, at most.

    Returns:
        The number of each document and its gain, log p(question | document) - log p(question) in nats; the best first.

    Raises:
        ValueError: There is no document, the batch size is below 1, the question or a document is blank, or a document
            was prepared by another bank.
        TypeError: The question or a document is no text.

    Example:
        >>> prepared = [model.prepare(text) for text in texts]
        >>> best, _ = rank(model, "Who built the bridge?", prepared)[0]
        >>> model.chat("Who built the bridge?", knowledge=prepared[best])
    """
    inputs = tuple(model.tokenize(question, format)["input_ids"][0].tolist())
    if isinstance(documents, str | PreparedKnowledge) or not documents:
        raise ValueError(f"documents={documents!r} must be a list of at least one text or prepared document.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be at least 1.")
    ready = model.prepare_rows(list(documents), len(documents), lambda: [inputs] * len(documents))
    known = [prepared for prepared in ready if prepared is not None]
    if len(known) < len(ready):
        raise ValueError(f"documents={documents!r} holds None; give a text or a prepared document for each.")
    return sorted(enumerate(gains(model, inputs, known, batch_size)), key=lambda pair: -pair[1])
