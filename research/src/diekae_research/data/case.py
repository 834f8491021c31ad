"""A case of a set of edits: the edit, its paraphrases, and neighbours that must not change."""

from __future__ import annotations

from dataclasses import dataclass

from diekae.edit.edit import Edit

NEIGHBOURS = 10
"""Neighbourhood prompts of a case, at most; as many as the original CounterFact has."""


@dataclass(frozen=True)
class Case:
    """One case."""

    case: int
    """``case_id``."""
    prompt: str
    """The edited prompt; it contains the subject."""
    subject: str
    """Who or what the fact is about."""
    new: str
    """The new object."""
    true: str
    """The true object."""
    paraphrases: tuple[str, ...]
    """The prompt in other words; only true paraphrases."""
    neighbours: tuple[str, ...]
    """Prompts about other subjects, whose answer remains the true object."""
    format: str = "plain"
    """Text around prompts: ``plain`` for beginnings of sentences, ``qa`` for questions."""

    @property
    def edit(self) -> Edit:
        """Return the edit."""
        return Edit(self.prompt, self.subject, self.new, target_true=self.true)

    @property
    def template(self) -> str:
        """Return the prompt without its subject."""
        return self.prompt.replace(self.subject, "{}")

    @property
    def fact(self) -> str:
        """Return the new fact as a text."""
        return f"{self.prompt} {self.new}."
