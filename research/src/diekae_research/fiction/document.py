"""Writes documents with questions."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from diekae.data.example import DataError, Split
from diekae_research.fiction.kind import Entity, Kind, capitalised
from diekae_research.fiction.names import NameMaker
from diekae_research.fiction.template import fill

QUESTIONS = 3
"""Questions a document."""
_SECOND_ENTITY = 0.5
"""Share of the documents that mention a second entity of their kind, where a fact that is asked for has clauses."""
_ASK_SECOND_ENTITY = 0.5
"""Share of those documents in which one question is about the second entity."""
_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its only answer."""

    text: str
    answer: str
    """As it stands in the document."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text and questions that it answers."""

    kind: str
    names: tuple[str, ...]
    """The names of the subject and, if there is one, of the second entity."""
    text: str
    questions: tuple[Question, ...]


def write_documents(split: Split, count: int, seed: int, kinds: Sequence[Kind]) -> list[Document]:
    """Write documents of all kinds in turn; the first n of a longer list are the list of n.

    Args:
        split: Whose names they use.
        count: How many documents.
        seed: Decides everything else.
        kinds: At least one.

    Returns:
        The documents. No name of a subject or second entity occurs in two of them.

    Raises:
        DataError: If a kind has no name left.
    """
    # The generator hashes a text seed itself, so the seed means the same in every process.
    rng = random.Random(f"{seed} {split}")
    used_names: set[str] = set()
    return [_write(kinds[index % len(kinds)], NameMaker(split, rng), used_names) for index in range(count)]


def _write(kind: Kind, names: NameMaker, used_names: set[str]) -> Document:
    rng = names.rng
    subject = _draw_new(kind, names, used_names)
    stated = rng.sample(kind.stated_facts, rng.choice((4, 5)))
    asked = rng.sample((*kind.opening_facts, *stated), QUESTIONS)
    second, shared_fact = None, ""
    comparable = [key for key in asked if kind.facts[key].clauses]
    if comparable and rng.random() < _SECOND_ENTITY:
        shared_fact = rng.choice(comparable)
        second = _draw_new(kind, names, used_names, shared_fact, {subject.values[key] for key in kind.facts})
    text = _Writer(kind, subject, rng).text(stated, second, shared_fact)
    questions = [_ask(kind, subject, key, rng) for key in asked]
    if second and rng.random() < _ASK_SECOND_ENTITY:
        # The question about the shared fact of the subject stays: only the names tell the two answers apart.
        replaceable = [index for index, key in enumerate(asked) if key != shared_fact]
        questions[rng.choice(replaceable)] = _ask(kind, second, shared_fact, rng)
    return Document(kind.name, tuple(entity.name for entity in (subject, second) if entity), text, tuple(questions))


def _draw_new(
    kind: Kind, names: NameMaker, used_names: set[str], key: str = "", excluded: Collection[str] = ()
) -> Entity:
    """Draw an entity with a new name, whose value of `key` is not `excluded`."""
    for _ in range(_ATTEMPTS):
        entity = kind.draw_entity(names)
        if entity.name not in used_names and (not key or entity.values[key] not in excluded):
            used_names.add(entity.name)
            return entity
    raise DataError(
        f"no name is left for another {kind.name} in split {names.split!r} after {len(used_names)}; ask for fewer"
    )


def _ask(kind: Kind, entity: Entity, key: str, rng: random.Random) -> Question:
    return Question(fill(rng.choice(kind.facts[key].questions), entity.values), entity.values[key])


class _Writer:
    """Writes the sentences of one document, with pronouns only where they are clear."""

    def __init__(self, kind: Kind, subject: Entity, rng: random.Random) -> None:
        self.kind = kind
        self.subject = subject
        self.rng = rng
        self.pronoun_is_clear = True

    def text(self, stated: Sequence[str], second: Entity | None, shared_fact: str) -> str:
        """Return the opening sentence, then in any order one a stated fact and one about the second entity."""
        sentences = [fill(self.rng.choice(self.kind.openings), self.subject.values)]
        order: list[str | None] = [*stated, None] if second else [*stated]
        self.rng.shuffle(order)
        for key in order:
            if key is not None:
                sentences.append(self._statement(key))
            elif second is not None:
                sentences.append(self._comparison(second, shared_fact))
        return " ".join(sentences)

    def _statement(self, key: str) -> str:
        fact = self.kind.facts[key]
        templates = [text for text in fact.statements if self.pronoun_is_clear or "{Subject's}" not in text]
        sentence = self._fill(self.rng.choice(templates), value=self.subject.values[key])
        self.pronoun_is_clear = not fact.names_person or self.subject.values["he"] == "it"
        return sentence

    def _comparison(self, second: Entity, key: str) -> str:
        clause = fill(self.rng.choice(self.kind.facts[key].clauses), {"value": second.values[key]})
        sentence = self._fill(self.rng.choice(self.kind.comparisons), other=second.name, clause=clause)
        self.pronoun_is_clear = False
        return sentence

    def _fill(self, template: str, **values: str) -> str:
        """Fill in the subject too. Every call makes the same draws, whatever the template uses."""
        name, choose = self.subject.name, self.rng.choice
        he, his = self.subject.values["he"], self.subject.values["his"]
        noun = choose(self.subject.nouns)
        middle = choose((noun, noun, name)) if self.pronoun_is_clear else name
        start = choose((noun, he, he, name)) if self.pronoun_is_clear else name
        possessive = choose((f"{noun}'s", his))
        subject = {"subject": middle, "Subject": capitalised(start), "Subject's": capitalised(possessive)}
        return fill(template, {"he": he, "his": his, **subject, **values})
