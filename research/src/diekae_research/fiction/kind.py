"""What a kind of document is made of: facts with their phrasings, and entities with their values.

Fields in the templates:

    {N} {n}    the full name, capitalised or not ("The Ondrel Tower", "the Ondrel Tower")
    {S} {s}    the subject of the document, as a full name or a noun; {S} opens a sentence, also as a pronoun
    {P}        the same, possessive, never the full name ("Its", "The tower's"). It opens a sentence
    {he} {his} the pronoun, always; {his} in questions too
    {v}        the value of the fact; {a} {v} with "a" or "an" before it, {A} capitalised
    {o} {c}    another entity of the kind, and a relative clause about it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from diekae_research.fiction.words import Draw


@dataclass(frozen=True, slots=True)
class Fact:
    """The ways to state one fact and to ask for it."""

    questions: tuple[str, ...]
    """Questions with {n}, answered by the value alone."""
    statements: tuple[str, ...] = ()
    """Sentences with {v} and one of {S}, {s}, {P}; none for a fact that the opening sentence states."""
    contrasts: tuple[str, ...] = ()
    """Relative clauses with {v}, for another entity; none if the fact makes no good clause."""
    names_person: bool = False
    """Whether the value is a person, so that "she" in the next sentence would be read as that person."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing or person with everything that is to be known of it."""

    name: str
    """The full name in the middle of a sentence: "the Ondrel Tower"."""
    nouns: tuple[str, ...]
    """What else it is called: "the tower"."""
    values: Mapping[str, str]
    """The value of each fact, as it stands in a document, and whatever else the opening sentences need."""
    pronoun: str = "it"
    possessive: str = "its"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document."""

    name: str
    """The name by which `kinds` selects it."""
    invent: Callable[[Draw], Entity]
    """Makes a new entity; its values lie in the order that makes sense (founded before rebuilt)."""
    openings: tuple[str, ...]
    """First sentences, with {N} or {n} and the values of the facts without statements."""
    facts: Mapping[str, Fact]
    """The facts by key."""
    leads: tuple[str, ...] = (
        "{S} should not be confused with {o}, {c}.",
        "{S} is often mentioned together with {o}, {c}.",
        "{S} is sometimes compared with {o}, {c}.",
        "A frequent point of comparison is {o}, {c}.",
        "Much less is known about {o}, {c}.",
    )
    """Sentences about another entity."""

    @property
    def opening_keys(self) -> tuple[str, ...]:
        """The facts that the opening sentence states."""
        return tuple(key for key, fact in self.facts.items() if not fact.statements)
