"""Reads files in a second process, which the system ends if a file takes too long, and which may crash without harm.

The process is started for the first file, and reads one file after the other until this process ends.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from diekae.readers.base import Unreadable

SECONDS = 60
"""Most computing time for one file: twice as much as the largest HTML page takes."""
MEMORY = 4 * 10**9
"""Most bytes of memory of the process that reads."""


def read_in_process(path: Path) -> str:
    """Return the text of a file of a known kind, as :func:`diekae.readers.reading.text_of` does.

    Raises:
        Unreadable: The file cannot be read, takes too long or too much memory, or makes the process crash.
        ModuleNotFoundError: The library that reads this kind is not installed.
    """
    answer: dict[str, str] = json.loads(_process.ask([os.path.abspath(path), SECONDS]))
    if "missing" in answer:
        raise ModuleNotFoundError(answer["missing"])
    if "unreadable" in answer:
        raise Unreadable(answer["unreadable"])
    return answer["text"]


class _ReaderProcess:
    """The process; threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: object) -> bytes:
        """Return the answer to a request, a value of JSON; `Unreadable` if there was none."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            process, answer = self._process, b""
            try:
                assert process.stdin is not None and process.stdout is not None
                with suppress(BrokenPipeError):  # it has crashed
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                    answer = process.stdout.readline()
            finally:
                if not answer.endswith(
                    b"\n"
                ):  # also after Ctrl+C: a late answer would be taken for that of the next file
                    self._end()
        if answer.endswith(b"\n"):
            return answer
        if process.returncode == -signal.SIGXCPU:
            raise Unreadable(f"takes more than {SECONDS} s to read; split it, or save it as plain text (.txt).")
        raise Unreadable(
            f"made the process that reads it crash (exit code {process.returncode}); open it in its own program and "
            "save it again, or as plain text (.txt)."
        )

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    # -P: no module is imported from the folder that the user happens to be in.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "diekae.readers.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _forget() -> None:
    """In a forked process: start another reader, because two processes cannot share one."""
    global _process
    _process = _ReaderProcess()


_process = _ReaderProcess()
atexit.register(lambda: _process.close())
os.register_at_fork(after_in_child=_forget)
