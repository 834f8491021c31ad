"""The process that reads files: a path on each line of its input, a text or an error on each line of its output."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

from diekae.readers.base import Unreadable
from diekae.readers.process import MEMORY
from diekae.readers.reading import READERS, text_of


def answer(path: Path) -> dict[str, str]:
    """Return the text of a file, or why there is none."""
    try:
        return {"text": text_of(path, READERS[path.suffix.lower()])}
    except ModuleNotFoundError as error:
        return {"missing": str(error)}
    except Unreadable as error:
        return {"unreadable": str(error)}


def main() -> None:
    """Answer until the input ends, which it does when the other process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the other process, which then ends this one
    with suppress(ValueError, OSError):  # not every system can limit memory
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin.buffer:
        answers.write(json.dumps(answer(Path(json.loads(line)))).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
