"""The paper's marks in texts (appendix C): who speaks, and where one document ends.

    [USR] Who directed it? [SYS] David Fincher did. [USR] Is it any good? [SYS]

The target is what the system says next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diekae.data.example import Example

USR, SYS, SEP = "[USR]", "[SYS]", "[SEP]"


def dialogue(turns: Iterable[tuple[str, str]], system: str) -> str:
    """What was said so far, and the mark of the system, whose turn it is.

    Args:
        turns: Speaker and text of each turn.
        system: The speaker whose side the decoder takes.
    """
    return " ".join([*(f"{SYS if speaker == system else USR} {text}" for speaker, text in turns), SYS])


def marked(example: Example) -> Example:
    """The example as the paper writes it: documents joined by ``[SEP]``, an input without marks as a user's turn."""
    documents = (f" {SEP} ".join(example.knowledge),) if example.knowledge else ()
    spoken = example.input.startswith((USR, SYS))
    return replace(example, knowledge=documents, input=example.input if spoken else f"{USR} {example.input} {SYS}")


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())
