"""The embedded engine: one thread that generates the answers of several requests in one batch.

The HTTP layer uses :meth:`Engine.submit` and the events of jobs only, so that another engine can take its place.
"""

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from diekae.data.batch import pad_left
from diekae.inject.hooks import contiguous_head
from diekae.model import DiekaeModel
from diekae.model.generation import end_tokens, greedy_options
from diekae.serve.job import Job
from diekae.serve.options import EngineOptions
from diekae.serve.sampling import RowSampler, RowsEnd

logger = logging.getLogger(__name__)
FEWEST_STEPS = 8
"""Tokens between two times that a batch is formed. Each time x is read again, which is short: K is not in it."""


class Busy(RuntimeError):
    """The queue is full."""


class Engine:
    """Generates answers, several at once; requests join and leave between tokens."""

    def __init__(self, model: DiekaeModel, options: EngineOptions | None = None) -> None:
        self.model, self.options = model, options or EngineOptions()
        # Fast tokenizers must not be shared between threads: encoding changes their settings.
        self.tokenizer = copy.deepcopy(model.need_prompter().tokenizer)
        self.ends = end_tokens(model.decoder)
        self.editing = threading.RLock()
        """Hold this while the model's edits are changed."""
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._live: list[Job] = []
        self._thread = threading.Thread(target=self._run, name="diekae-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many answers wait to be started."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Return how many answers are being generated."""
        return len(self._live)

    @property
    def alive(self) -> bool:
        """Tell whether the engine takes requests."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, *jobs: Job) -> None:
        """Queue the answers of one request, all or none; `Busy` if the queue is full, or the engine stops."""
        with self._changed:
            if not self.alive:
                raise Busy("the server is stopping")
            self._waiting = deque(job for job in self._waiting if not _end_if_cancelled(job))
            if len(self._waiting) + len(jobs) > self.options.queue_size:
                raise Busy(f"{len(self._waiting)} answers wait already, of at most {self.options.queue_size}")
            self._waiting.extend(jobs)
            self._changed.notify_all()

    def stop(self, timeout: float | None = None) -> None:
        """Take no more requests, finish those that were taken, and end the thread.

        After ``timeout`` seconds, what is left is cancelled; None waits until all are finished.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            for job in [*self._live, *self._waiting]:
                job.cancel()
        self._thread.join()

    def _run(self) -> None:
        while self._form_batch():
            self._generate(self._live)

    def _form_batch(self) -> bool:
        """Let finished jobs leave and waiting ones join; returns False when the engine has stopped.

        An idle engine waits for the first job, and then a moment for others.
        """
        self._live = [job for job in self._live if not _end_if_cancelled(job)]
        with self._changed:
            if not self._live:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                full = self.options.batch_size
                self._changed.wait_for(lambda: len(self._waiting) >= full or self._stopping, self.options.wait)
            while self._waiting and self._fits(self._waiting[0], self._live):
                job = self._waiting.popleft()
                if not _end_if_cancelled(job):
                    self._live.append(job)
            goes_on = bool(self._live or self._waiting or not self._stopping)
        self._live = [job for job in self._live if job.started or self._start(job)]
        return goes_on

    def _fits(self, job: Job, others: Sequence[Job]) -> bool:
        """Tell whether a job may join others."""
        rows = len(others) + 1
        longest = max(row.size for row in (job, *others))
        return not others or (rows <= self.options.batch_size and rows * longest <= self.options.batch_tokens)

    def _start(self, job: Job) -> bool:
        """Add what the edits in force say to a job's knowledge; returns False if that failed.

        Edits decide by the prompt, so they are asked once, before anything is generated. An answer keeps to the edits
        that were in force when it started.
        """
        job.started = time.perf_counter()
        try:
            if self.model.editor is not None:
                ids = torch.tensor([job.prompt], device=self.model.device)
                with self.editing, self.model.editor.around([job.prepared], ids, torch.ones_like(ids), None) as call:
                    (job.prepared,) = call.knowledge
        except Exception as error:
            logger.exception("the edits could not be asked")
            job.fail(error)
        return not job.finished

    def _generate(self, jobs: list[Job]) -> None:
        """Generate until all are finished, or until the batch is to be formed again.

        When a batch fails, each row is tried alone, so that only the rows at fault fail.
        """
        if not jobs:
            return
        try:
            return self._forward(jobs)
        except Exception as error:
            if len(jobs) == 1:
                logger.exception("an answer could not be generated")
                return jobs[0].fail(error)
            logger.warning("a batch of %d failed and is tried row by row: %s", len(jobs), error)
        for job in jobs:
            if not job.over:
                self._generate([job])

    def _forward(self, jobs: list[Job]) -> None:
        rows = [(*job.prompt, *job.generated) for job in jobs]
        ids, mask = pad_left(rows, self.tokenizer.pad_token_id, self.model.device)
        knowledge = [job.prepared for job in jobs]
        known = knowledge if any(prepared is not None for prepared in knowledge) else None
        options: dict[str, Any] = {
            **greedy_options(max(job.remaining for job in jobs), self.tokenizer),
            # Penalties would count the padding, which depends on the other rows.
            "repetition_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "min_new_tokens": None,
            "logits_processor": [RowSampler(jobs, self.tokenizer, self.ends)],
            "stopping_criteria": [RowsEnd(jobs, self._interrupt(jobs))],
        }
        # One row alone, and rows of equal length, need not read their own anchor.
        cache = None if known is None else self.model.unseen_anchor(knowledge, ids, mask)
        if cache is not None:
            options["cache"] = cache
        decoder = self.model.decoder
        with torch.no_grad(), self.model.call_context(known, ids, mask), contiguous_head(decoder):
            decoder.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]

    def _interrupt(self, jobs: list[Job]) -> Callable[[int], bool]:
        """Return what tells whether others should join, or so many have left that the batch should shrink."""

        def due(steps: int) -> bool:
            # With the scope "prompt" generated tokens receive nothing, so they must not be read again as a prompt.
            if steps % FEWEST_STEPS or self.model.config.scope == "prompt":
                return False
            running = [job for job in jobs if not job.over]
            with self._changed:
                joins = bool(self._waiting) and self._fits(self._waiting[0], running)
            return bool(running) and (joins or len(running) <= len(jobs) // 2)

        return due


def _end_if_cancelled(job: Job) -> bool:
    """End a job whose client has left; tell whether the job is finished."""
    if job.cancelled:
        job.end("cancelled")
    return job.finished
