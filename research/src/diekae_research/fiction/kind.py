"""Kinds of documents, read from `kinds/*.toml`.

To add a kind, copy a file, change it, and append its name to `kinds` in `shared.toml`. A short example:

    nouns = ["the tower"]                        # what a sentence may call the subject besides its name
    openings = ["{Name} stands in {town}."]      # first sentences: they state the facts without statements

    [values]                                     # drawn in this order; each may use the values before it
    completed = "<1710 to 1955>"
    name = "the <thing> Tower"                   # every kind has a name
    town = "<town>"
    roof = "a(n) <roofings> dome"
    restored = "<18 to 65 after completed>"

    [words]                                      # the lists of this kind; `shared.toml` has more
    roofings = ["copper", "oak"]

    [facts.town]                                 # one section a fact; the value has the same key
    questions = ["Where is {name}?"]

    [facts.roof]
    statements = ["{Subject's} pride is {value}."]
    questions = ["What is at the top of {name}?"]
    clauses = ["which ends in {value}"]          # for a second tower: "Less is known about {other}, {clause}."

A document may then begin "The Ondrel Tower stands in Reborpe. Its pride is an oak dome." A real file needs at least
five openings and five facts with statements; `research/tests/data/test_facts.py` checks files.

Placeholders <...> draw something new. They stand in `values`, and in the entries of `words`:

    <person> <town> <thing>           an invented name; <lowercase thing> for animals
    <roofings>                        an entry of that list
    <18 to 65>                        a whole number, both ends included
    <18 to 65 after completed>        the value `completed` plus such a number
    <later of completed and 1915>     the value `completed`, or 1915 if that is later
    <day in year>                     a date in the year that the value `year` holds: "14 March 1932"
    <surname of name>                 the last word of the value `name`
    <pronoun of name>                 "she" or "he", by the first name; <possessive of name>: "her" or "his"

Placeholders {...} insert something that exists:

    {town}                      the value `town`, in other values, nouns and openings
    {name} {Name}               the full name, in openings and questions; {Name} opens a sentence
    {subject} {Subject}         the name or a noun, in statements and comparisons; {Subject} opens a sentence and may
                                become a pronoun
    {Subject's}                 "Its" or "The tower's"; opens a sentence
    {he} {his}                  the pronouns: "it" and "its", unless the kind has values of these names
    {value}                     the value of the fact, in statements and clauses
    {other} {clause}            a second entity and a clause about it, in `comparisons`

Anywhere, "a(n) " becomes "a " or "an ", by the next letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diekae_research.fiction.names import NameMaker
from diekae_research.fiction.shared import SHARED, read_toml
from diekae_research.fiction.template import draw_values, fill


@dataclass(frozen=True, slots=True)
class Fact:
    """The ways to state one fact and to ask for it."""

    questions: Sequence[str]
    """Questions with {name}, answered by the value alone."""
    statements: Sequence[str] = ()
    """Sentences with {value} and one of {Subject}, {subject}, {Subject's}; none if the opening states the fact."""
    clauses: Sequence[str] = ()
    """Relative clauses with {value}, about a second entity; none if the fact makes no good clause."""
    names_person: bool = False
    """Whether the value is a person, so that "she" in the next sentence would be read as that person."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing or person that a document is about."""

    name: str
    """The full name in the middle of a sentence: "the Ondrel Tower"."""
    nouns: Sequence[str]
    """What else it is called: "the tower"."""
    values: Mapping[str, str]
    """Everything that {...} may insert: the kind's values, and `Name`, `he` and `his`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document: one file in `kinds/`, whose keys are the fields."""

    name: str
    nouns: Sequence[str]
    openings: Sequence[str]
    values: Mapping[str, str]
    facts: Mapping[str, Fact]
    words: Mapping[str, Sequence[str]]
    """The lists of `shared.toml` too."""
    comparisons: Sequence[str]
    """Sentences about a second entity; those of `shared.toml` if the file has none."""

    @property
    def opening_facts(self) -> list[str]:
        """The keys of the facts that the opening sentence states."""
        return [key for key, fact in self.facts.items() if not fact.statements]

    @property
    def stated_facts(self) -> list[str]:
        """The keys of the facts that have sentences of their own."""
        return [key for key, fact in self.facts.items() if fact.statements]

    def draw_entity(self, names: NameMaker) -> Entity:
        """Draw a new entity with all its values."""
        values = {"he": "it", "his": "its"} | draw_values(self.values, self.words, names)
        values["Name"] = capitalised(values["name"])
        return Entity(values["name"], [fill(noun, values) for noun in self.nouns], values)


def capitalised(text: str) -> str:
    """Return `text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def _read_kind(name: str) -> Kind:
    table = {"comparisons": SHARED["comparisons"]} | read_toml(f"kinds/{name}.toml")
    table["facts"] = {key: Fact(**fact) for key, fact in table["facts"].items()}
    table["words"] = SHARED["words"] | table.get("words", {})
    return Kind(name=name, **table)


KINDS: dict[str, Kind] = {name: _read_kind(name) for name in SHARED["kinds"]}
