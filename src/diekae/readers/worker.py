"""The process that reads files.

Each line of its input holds a path and the seconds that the file may take; each line of its output, a text or an error.
"""

import json
import math
import os
import resource
import signal
import sys
import time
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


def limit(kind: int, most: int) -> None:
    """Limit a resource of this process."""
    highest = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if highest == resource.RLIM_INFINITY else min(most, highest), highest))


def main() -> None:
    """Answer until the input ends, which it does when the other process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the other process, which then ends this one
    limit(resource.RLIMIT_CORE, 0)  # no core dump if the system ends this process
    with suppress(ValueError, OSError):  # not every system can limit memory
        limit(resource.RLIMIT_AS, MEMORY)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin.buffer:
        path, seconds = json.loads(line)
        limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
        answers.write(json.dumps(answer(Path(path))).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
