"""Reads files in a second process, which is ended when a file takes too long, and may crash without harm.

The process is started for the first file, and reads one file after the other until this process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from diekae.readers.base import Unreadable

SECONDS = 120.0
"""Most time for one file."""
MEMORY = 4 * 10**9
"""Most bytes of memory of the process that reads."""


def read_in_process(path: Path) -> str:
    """Return the text of a file of a known kind, as :func:`diekae.readers.reading.text_of` does.

    Raises:
        Unreadable: The file cannot be read, takes too long or too much memory, or makes the process crash.
        ModuleNotFoundError: The library that reads this kind is not installed.
    """
    answer: dict[str, str] = json.loads(_process.ask(json.dumps(os.path.abspath(path)).encode() + b"\n"))
    if "missing" in answer:
        raise ModuleNotFoundError(answer["missing"])
    if "unreadable" in answer:
        raise Unreadable(answer["unreadable"])
    return answer["text"]


class _ReaderProcess:
    """The process; threads take turns."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: bytes) -> bytes:
        """Return the answer to a request, both one line.

        Raises:
            Unreadable: There was no answer.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            process, is_late = self._process, threading.Event()

            def end() -> None:
                is_late.set()
                process.kill()

            timer = threading.Timer(SECONDS, end)
            timer.start()
            answer = b""
            try:
                assert process.stdin is not None and process.stdout is not None
                with suppress(BrokenPipeError):  # it has crashed
                    process.stdin.write(request)
                    process.stdin.flush()
                    answer = process.stdout.readline()
            finally:  # also after Ctrl+C: what it would still answer belongs to no request
                timer.cancel()
                timer.join()
                if not answer.endswith(b"\n") or is_late.is_set():
                    self._end()
            if answer.endswith(b"\n"):
                return answer
            if is_late.is_set():
                raise Unreadable(f"takes more than {SECONDS:g} s to read; split it, or save it as plain text (.txt).")
            raise Unreadable(
                f"made the process that reads it crash (exit code {process.returncode}); open it in its own program "
                "and save it again, or as plain text (.txt)."
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
