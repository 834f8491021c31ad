"""The same question in other words, derived from the cases themselves, for training a gate and an adapter.

A prompt is a template filled with a subject. Two templates belong to one relation if a case shares them with its
paraphrases or, in CounterFact, with its neighbourhood prompts. A subject can then be asked about by another template,
behind an unrelated sentence, misspelt or shortened. The hardest negatives are other subjects in the same template, and
the same subject in templates of other relations.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from diekae_research.data.case import Case

VOTES, SHARE = 3, 0.08
"""Least number of neighbourhood prompts that join two templates (one paraphrase is enough), and their least share of
the first template's prompts."""


@dataclass
class Phrasings:
    """Templates by relation, and sentences that can precede a prompt."""

    relations: dict[str, str] = field(default_factory=dict)
    """The relation of each template, named by one of its templates."""
    templates: dict[str, list[str]] = field(default_factory=dict)
    """The templates of each relation."""
    partners: dict[str, list[str]] = field(default_factory=dict)
    """Other relations of the subjects of each relation."""
    prefixes: list[str] = field(default_factory=list)
    """Sentences that preceded paraphrases."""

    @classmethod
    def find(cls, cases: Sequence[Case]) -> Phrasings:
        """Find relations, their partners and prefixes in cases that are not reported."""
        names = {case.template for case in cases}
        names |= {
            text.replace(case.subject, "{}") for case in cases if case.format == "qa" for text in case.paraphrases
        }
        by_neighbour, by_paraphrase, prefixes = _votes(cases, sorted(names, key=lambda text: (-len(text), text)))
        relations = _join(names, [(by_neighbour, VOTES), (by_paraphrase, 1)])
        templates: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            templates[relations[name]].append(name)
        of_subject: dict[str, set[str]] = defaultdict(set)
        for case in cases:
            of_subject[case.subject].add(relations[case.template])
        partners: dict[str, set[str]] = defaultdict(set)
        for shared in of_subject.values():
            for relation in shared:
                partners[relation] |= shared - {relation}
        return cls(relations, dict(templates), {k: sorted(v) for k, v in partners.items()}, prefixes)

    def reworded(self, case: Case, draw: random.Random) -> str:
        """Return the case's question by another template of its relation, if there is one."""
        template = case.template
        others = [name for name in self.templates.get(self.relations.get(template, ""), []) if name != template]
        return (draw.choice(others) if others else template).replace("{}", case.subject)

    def elsewhere(self, case: Case, draw: random.Random) -> str | None:
        """Return another question about the case's subject: of a partner relation, if there is one."""
        partners = self.partners.get(self.relations.get(case.template, ""), [])
        return draw.choice(self.templates[draw.choice(partners)]).replace("{}", case.subject) if partners else None

    def behind(self, prompt: str, draw: random.Random) -> str:
        """Return a prompt behind a sentence."""
        return f"{draw.choice(self.prefixes)} {prompt}" if self.prefixes else prompt


Votes = dict[str, Counter[str]]
"""For each template, how often another one was seen with it."""


def _votes(cases: Sequence[Case], ordered: Sequence[str]) -> tuple[Votes, Votes, list[str]]:
    """Return which templates neighbours and paraphrases share, and the sentences before paraphrases.

    Args:
        cases: Their prompts are compared.
        ordered: All templates, the longest first.
    """
    by_neighbour: Votes = defaultdict(Counter)
    by_paraphrase: Votes = defaultdict(Counter)
    prefixes: list[str] = []
    for case in cases:
        template = case.template
        if case.format == "plain":
            by_neighbour[template].update([name for n in case.neighbours[:1] for name in ordered if fits(name, n)][:1])
        for text in case.paraphrases:
            other, before = split_off(case, text, ordered)
            by_paraphrase[template].update([other] if other else [])
            prefixes += [before] if before else []
    return by_neighbour, by_paraphrase, prefixes


def _join(names: set[str], votes: Sequence[tuple[Votes, int]]) -> dict[str, str]:
    """Join templates into relations by votes, each with its least number; return the relation of each template."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for counts, least in votes:
        for first, counter in counts.items():
            for second, count in counter.items():
                if count >= least and count >= SHARE * counter.total():
                    parent[root(first)] = root(second)
    return {name: root(name) for name in names}


def fits(pattern: str, prompt: str) -> bool:
    """Return whether a prompt is the template with some subject."""
    before, _, after = pattern.partition("{}")
    return len(prompt) > len(before) + len(after) and prompt.startswith(before) and prompt.endswith(after)


def split_off(case: Case, paraphrase: str, ordered: Sequence[str]) -> tuple[str | None, str]:
    """Return the template that a paraphrase ends with (None if unknown), and the text before it.

    Args:
        case: The case.
        paraphrase: A template with the subject, mostly behind a sentence.
        ordered: All templates, the longest first.
    """
    for name in ordered:
        filled = name.replace("{}", case.subject)
        if paraphrase == filled or paraphrase.endswith(f" {filled}"):
            return name, paraphrase.removesuffix(filled).strip()
    return None, ""


def misspelt(name: str, draw: random.Random) -> str:
    """Change one letter of a name: swap it with the next, leave it out, double it or replace it; the first stays."""
    places = [n for n in range(1, len(name) - 1) if name[n].isalpha() and name[n + 1].isalpha()]
    if not places:
        return name + name[-1]
    at = draw.choice(places)
    variants = [
        name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        name[:at] + name[at + 1 :],
        name[: at + 1] + name[at:],
        name[:at] + draw.choice("aeiourstnl") + name[at + 1 :],
    ]
    return draw.choice([text for text in variants if text != name])


def shortened(name: str, draw: random.Random) -> str | None:
    """Leave out a word of a name; None if it has only one, or only short ones would be left."""
    words = name.split()
    variants = [" ".join(words[:n] + words[n + 1 :]) for n in range(len(words))]
    variants = [text for text in variants if max(map(len, text.split()), default=0) >= 4]
    return draw.choice(variants) if len(words) > 1 and variants else None
