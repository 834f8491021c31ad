"""The embedded engine: one thread that generates the answers of requests that wait together in one batch.

The HTTP layer knows an engine by :meth:`Engine.submit` alone, so that another engine can take this one's place.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from diekae.data.prompt import pad_left
from diekae.model import DiekaeModel
from diekae.run.answer import end_tokens
from diekae.serve.job import Job
from diekae.serve.sampling import RowSampler, RowsEnd

FEWEST_STEPS = 8
"""Tokens between two times that a batch is formed: each time x is read again, which is short, for K is not in it."""


class Busy(RuntimeError):
    """The queue is full."""


@dataclass(frozen=True)
class EngineOptions:
    """How requests share the decoder."""

    batch_size: int = 8
    """Most answers that are generated at once."""
    queue_size: int = 64
    """Most requests that wait; more are refused."""
    wait: float = 0.005
    """Seconds that the first request of a batch waits for others."""


class Engine:
    """Generates answers, several at once; requests join and leave between tokens."""

    def __init__(self, model: DiekaeModel, options: EngineOptions | None = None) -> None:
        """Start the thread.

        Args:
            model: Decoder and bank, with a tokenizer.
            options: Sizes of batch and queue.
        """
        self.model, self.options = model, options or EngineOptions()
        self.tokenizer = model.need_prompter().tokenizer
        self.ends = end_tokens(model.decoder)
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._live: list[Job] = []
        self._thread = threading.Thread(target=self._run, name="diekae-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many answers wait to be begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Return how many answers are being generated."""
        return len(self._live)

    @property
    def alive(self) -> bool:
        """Tell whether the thread runs and takes requests."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, *jobs: Job) -> None:
        """Queue the answers of one request, all or none.

        Raises:
            Busy: The queue is full, or the engine stops.
        """
        with self._changed:
            if self._stopping:
                raise Busy("the server is stopping")
            if len(self._waiting) + len(jobs) > self.options.queue_size:
                raise Busy(f"{len(self._waiting)} answers wait already, of {self.options.queue_size} that may")
            self._waiting.extend(jobs)
            self._changed.notify_all()

    def stop(self, timeout: float | None = None) -> None:
        """Take no more requests, finish those that were taken, and end the thread.

        Args:
            timeout: Seconds to wait; what is left then is cancelled. None waits until all are finished.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        for job in [*self._live, *self._waiting]:
            job.cancel()
        self._thread.join()

    def _run(self) -> None:
        while self._form_batch():
            try:
                self._generate(self._live)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must be told
                for job in self._live:
                    job.fail(error)

    def _form_batch(self) -> bool:
        """Let finished jobs leave and waiting ones join; returns False when there is nothing left to do.

        An idle engine waits for the first job, and then a moment for others.
        """
        self._live = [job for job in self._live if not self._left(job)]
        with self._changed:
            if not self._live:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                full = self.options.batch_size
                self._changed.wait_for(lambda: len(self._waiting) >= full or self._stopping, self.options.wait)
            while self._waiting and len(self._live) < self.options.batch_size:
                job = self._waiting.popleft()
                if not self._left(job):
                    self._live.append(job)
            return bool(self._live or self._waiting or not self._stopping)

    def _left(self, job: Job) -> bool:
        """Tell whether a job is over; one whose reader has left is ended."""
        if job.cancelled:
            job.end("cancelled")
        return job.finished

    def _generate(self, jobs: list[Job]) -> None:
        """Generate until all are finished, or until the batch is to be formed anew."""
        if not jobs:
            return
        rows = [(*job.prompt, *job.generated) for job in jobs]
        ids, mask = pad_left(rows, self.tokenizer.pad_token_id, self.model.device)
        knowledge = [job.prepared for job in jobs]
        options: dict[str, Any] = {
            "max_new_tokens": max(job.remaining for job in jobs),
            "do_sample": False,
            "num_beams": 1,
            "temperature": None,
            "top_p": None,
            "top_k": None,
            "pad_token_id": self.tokenizer.pad_token_id or 0,
            "logits_processor": [RowSampler(jobs, self.tokenizer, self.ends)],
            "stopping_criteria": [RowsEnd(jobs, self._interrupt(jobs))],
        }
        known = knowledge if any(prepared is not None for prepared in knowledge) else None
        with torch.no_grad():
            self.model.generate(ids, attention_mask=mask, knowledge=known, **options)

    def _interrupt(self, jobs: list[Job]) -> Callable[[int], bool]:
        """Return what tells whether others should join, or so many have left that the batch should shrink."""

        def due(steps: int) -> bool:
            # A gate decides by the prompt, so what was generated must not be read as one.
            if steps % FEWEST_STEPS or self.model.editor is not None:
                return False
            running = sum(not (job.finished or job.cancelled) for job in jobs)
            joins = running < self.options.batch_size and bool(self._waiting)
            return running > 0 and (joins or running <= len(jobs) // 2)

        return due
