"""A fixed number of threads for work that would block the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from diekae.serve.engine import Busy

Result = TypeVar("Result")
THREADS = 4
"""Threads of one kind."""


class Workers:
    """A fixed number of threads with a bounded queue."""

    def __init__(self, name: str, most: int) -> None:
        """Start without threads; they are made when they are needed.

        Args:
            name: What the threads do.
            most: Most calls that wait or run; more are refused.
        """
        self.most = most
        self._pool = ThreadPoolExecutor(THREADS, f"diekae-{name}")
        self._lock, self._pending = threading.Lock(), 0

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in a thread; a call that has not begun is dropped when the caller is cancelled.

        Raises:
            Busy: Too many calls wait.
        """
        with self._lock:
            if self._pending >= self.most:
                raise Busy(f"{self._pending} requests are being prepared already")
            self._pending += 1
        future = self._pool.submit(function, *args)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Drop the calls that have not begun, and wait for the others."""
        self._pool.shutdown(cancel_futures=True)

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._pending -= 1
