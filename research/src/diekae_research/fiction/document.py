"""From a kind to a document with questions."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from diekae.data.example import DataError, Split
from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import Draw, article

QUESTIONS = 3
"""Questions a document."""
_SECOND_ENTITY = 0.5
"""Share of the documents that mention a second entity of their kind."""
_ASK_SECOND_ENTITY = 0.5
"""Share of those in which one question is about it."""
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
    """The entities: the subject, then the second one if there is one."""
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
        The documents. No two are about, or mention as second entity, one of the same name.

    Raises:
        DataError: If a kind has no name left.
    """
    # A text as seed is hashed by the generator itself, so it means the same in every process.
    rng = random.Random(f"{seed} {split}")
    used: set[str] = set()
    return [_write(kinds[index % len(kinds)], Draw(split, rng), used) for index in range(count)]


def _write(kind: Kind, draw: Draw, used: set[str]) -> Document:
    rng = draw.rng
    subject = _invent(kind, draw, used)
    stated = rng.sample([key for key, fact in kind.facts.items() if fact.statements], rng.choice((4, 5)))
    asked = rng.sample((*kind.opening_keys, *stated), QUESTIONS)
    other, shared = None, ""
    comparable = [key for key in asked if kind.facts[key].contrasts]
    if comparable and rng.random() < _SECOND_ENTITY:
        shared = rng.choice(comparable)
        other = _invent(kind, draw, used, shared, set(subject.values.values()))
    text = _Writer(kind, subject, rng).text(stated, other, shared)
    questions = [_ask(kind, subject, key, rng) for key in asked]
    if other and rng.random() < _ASK_SECOND_ENTITY:
        # The question about the fact that both share stays: only the names tell the two answers apart.
        spare = [index for index, key in enumerate(asked) if key != shared]
        questions[rng.choice(spare)] = _ask(kind, other, shared, rng)
    names = (subject.name,) if other is None else (subject.name, other.name)
    return Document(kind.name, names, text, tuple(questions))


def _invent(kind: Kind, draw: Draw, used: set[str], key: str = "", taken: Collection[str] = ()) -> Entity:
    """An entity with a new name, whose value of `key` is none of those that are `taken`."""
    for _ in range(_ATTEMPTS):
        entity = kind.invent(draw)
        if entity.name not in used and (not key or entity.values[key] not in taken):
            used.add(entity.name)
            return entity
    raise DataError(f"no name is left for another {kind.name} in split {draw.split!r} after {len(used)}; ask for fewer")


def _ask(kind: Kind, entity: Entity, key: str, rng: random.Random) -> Question:
    template = rng.choice(kind.facts[key].questions)
    return Question(template.format(n=entity.name, his=entity.possessive), entity.values[key])


class _Writer:
    """Writes the sentences of one document and keeps it clear whom a pronoun means."""

    def __init__(self, kind: Kind, subject: Entity, rng: random.Random) -> None:
        self.kind = kind
        self.subject = subject
        self.rng = rng
        self.clear = True

    def text(self, stated: Sequence[str], other: Entity | None, shared: str) -> str:
        """The opening sentence, then one a stated fact and one for the other entity, in any order."""
        subject = self.subject
        opening = self.rng.choice(self.kind.openings)
        sentences = [
            opening.format(N=_capitalised(subject.name), n=subject.name, his=subject.possessive, **subject.values)
        ]
        keys: list[str | None] = [*stated]
        if other is not None:
            keys.append(None)
        self.rng.shuffle(keys)
        for key in keys:
            if key is not None:
                sentences.append(self._statement(self.kind.facts[key], subject.values[key]))
            elif other is not None:
                sentences.append(self._comparison(other, shared))
        return " ".join(sentences)

    def _statement(self, fact: Fact, value: str) -> str:
        templates = fact.statements
        if not self.clear:
            templates = tuple(template for template in templates if "{P}" not in template)
        sentence = self._filled(self.rng.choice(templates), value)
        self.clear = not (fact.names_person and self.subject.pronoun != "it")
        return sentence

    def _comparison(self, other: Entity, key: str) -> str:
        value = other.values[key]
        clause = self.rng.choice(self.kind.facts[key].contrasts).format(v=value, a=article(value))
        sentence = self._filled(self.rng.choice(self.kind.leads), "", o=other.name, c=clause)
        self.clear = False
        return sentence

    def _filled(self, template: str, value: str, **further: str) -> str:
        subject, choose = self.subject, self.rng.choice
        noun = choose(subject.nouns)
        middle = choose((noun, noun, subject.name)) if self.clear else subject.name
        start = choose((noun, subject.pronoun, subject.pronoun, subject.name)) if self.clear else subject.name
        possessive = choose((f"{noun}'s", subject.possessive))
        return template.format(
            S=_capitalised(start),
            s=middle,
            P=_capitalised(possessive),
            he=subject.pronoun,
            his=subject.possessive,
            v=value,
            a=article(value),
            A=_capitalised(article(value)),
            **further,
        )


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
