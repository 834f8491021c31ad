"""Counters for Prometheus."""

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from diekae.serve.job import Job

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One server's counters."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("diekae_requests", "HTTP requests", ["path", "status"], registry=registry)
        self.tokens = Counter("diekae_generated_tokens", "Tokens generated", registry=registry)
        self.prompt_tokens = Counter("diekae_prompt_tokens", "Tokens of prompts, without knowledge", registry=registry)
        self.slots = Counter(
            "diekae_knowledge_tokens_read",
            "Tokens of prepared knowledge that answers read; in a prompt, each would have been computed again",
            registry=registry,
        )
        self.prepared = Counter(
            "diekae_knowledge_tokens_prepared", "Tokens of knowledge that were computed, once each", registry=registry
        )
        self.seconds = Histogram(
            "diekae_stage_seconds",
            "Seconds of each stage: prepare (a document in the background), read (find and load a request's"
            " knowledge), wait (in the queue), generate",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.cancelled = Counter("diekae_cancelled_answers", "Answers whose reader left", registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(f"diekae_{name}", text, registry=self.registry).set_function(value)

    def observe(self, stage: str, seconds: float) -> None:
        """Count the seconds of a stage."""
        self.seconds.labels(stage).observe(seconds)

    def finished(self, jobs: Sequence[Job]) -> None:
        """Count a request's answers."""
        now = time.perf_counter()
        for job in jobs:
            self.observe("wait", (job.started or now) - job.submitted)
            if job.started is None:
                continue
            self.observe("generate", now - job.started)
            self.prompt_tokens.inc(len(job.prompt))
            self.slots.inc(len(job.prepared or ()))
            self.tokens.inc(len(job.generated))
        self.cancelled.inc(sum(not job.finished for job in jobs))

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self.registry)
