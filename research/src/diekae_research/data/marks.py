"""The paper's marks in texts (appendix C): who speaks, and where a document ends.

    [USR] Who directed it? [SYS] David Fincher did. [USR] Is it any good? [SYS]

The target is what the system says next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diekae.data.example import Example

USR, SYS, SEP = "[USR]", "[SYS]", "[SEP]"


def dialogue(turns: Iterable[tuple[str, str]], system: str) -> str:
    """Return a dialogue with marks; it ends with the system's, whose turn it is.

    Args:
        turns: Speaker and text of each turn.
        system: The speaker that the decoder answers for.
    """
    return " ".join([*(f"{SYS if speaker == system else USR} {text}" for speaker, text in turns), SYS])


def marked(example: Example) -> Example:
    """Return the example with the paper's marks: documents joined by ``[SEP]``, the input as a user's turn."""
    documents = (f" {SEP} ".join(example.knowledge),) if example.knowledge else ()
    is_dialogue = example.input.startswith((USR, SYS))
    return replace(example, knowledge=documents, input=example.input if is_dialogue else f"{USR} {example.input} {SYS}")


def one_line(text: str) -> str:
    """Return the text with every run of white space replaced by one space."""
    return " ".join(text.split())
