"""Counters for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from diekae.serve.job import Job

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One server's counters."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("diekae_requests", "HTTP requests", ["path", "status"], registry=registry)
        self.tokens = Counter("diekae_generated_tokens", "Tokens generated", registry=registry)
        self.prompt_tokens = Counter("diekae_prompt_tokens", "Tokens of prompts, without knowledge", registry=registry)
        self.slots = Counter(
            "diekae_knowledge_tokens_read",
            "Tokens of prepared knowledge that were read, which a prompt would have held",
            registry=registry,
        )
        self.prepared = Counter("diekae_knowledge_tokens_prepared", "Tokens of knowledge prepared", registry=registry)
        self.seconds = Histogram(
            "diekae_answer_seconds", "Seconds from request to the answer's end", buckets=SECONDS, registry=registry
        )
        self.cancelled = Counter("diekae_cancelled_answers", "Answers whose reader left", registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(f"diekae_{name}", text, registry=self.registry).set_function(value)

    def accepted(self, knowledge_tokens: int) -> None:
        """Count a request that was queued."""
        self.slots.inc(knowledge_tokens)

    def finished(self, jobs: Sequence[Job], seconds: float) -> None:
        """Count a request's answers."""
        self.seconds.observe(seconds)
        self.prompt_tokens.inc(sum(len(job.prompt) for job in jobs))
        self.tokens.inc(sum(len(job.generated) for job in jobs))
        self.cancelled.inc(sum(job.cancelled and not job.finished for job in jobs))

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self.registry)
