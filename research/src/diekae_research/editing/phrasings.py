"""The same fact in other words, made from the cases themselves: what a gate learns to know again, and what to leave.

Prompts are templates with a subject in them. Templates of one relation are found by what cases share with their
paraphrases and, in CounterFact, with their neighbourhood prompts; a subject can then be asked for by another template,
behind a sentence that has nothing to do with it, misspelt or shortened; and the nearest wrong edits are other subjects
in the same template and the same subject in the templates of other relations.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from diekae_research.editing.cases import Case

VOTES, SHARE = 3, 0.08
"""Neighbourhood prompts that must join two templates: at least so many, and of the first one's at least this share.
Of paraphrases one is enough, if it is such a share of the first one's."""


@dataclass
class Phrasings:
    """Templates by relation, and sentences to stand before a prompt."""

    relations: dict[str, str] = field(default_factory=dict)
    """The relation, named by one of its templates, of each template."""
    templates: dict[str, list[str]] = field(default_factory=dict)
    """The templates of each relation."""
    partners: dict[str, list[str]] = field(default_factory=dict)
    """Other relations that subjects of each relation have."""
    prefixes: list[str] = field(default_factory=list)
    """Sentences that stood before paraphrases."""

    @classmethod
    def find(cls, cases: Sequence[Case]) -> Phrasings:
        """Find relations, their partners and prefixes in cases that are none of those reported."""
        asked = {template(case) for case in cases}
        asked |= {
            text.replace(case.subject, "{}") for case in cases if case.format == "qa" for text in case.paraphrases
        }
        ordered = sorted(asked, key=lambda text: (-len(text), text))
        near, told = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
        prefixes: list[str] = []
        for case in cases:
            own = template(case)
            if case.format == "plain":
                near[own].update([t for n in case.neighbours[:1] for t in ordered if fits(t, n)][:1])
            for text in case.paraphrases:
                other, before = split_off(case, text, ordered)
                told[own].update([other] if other else [])
                prefixes += [before] if before else []
        parent = {name: name for name in asked}

        def root(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        for votes, least in ((near, VOTES), (told, 1)):
            for first, counted in votes.items():
                for second, count in counted.items():
                    if count >= least and count >= SHARE * counted.total():
                        parent[root(first)] = root(second)
        relations = {name: root(name) for name in asked}
        templates: dict[str, list[str]] = defaultdict(list)
        for name in sorted(asked):
            templates[relations[name]].append(name)
        known: dict[str, set[str]] = defaultdict(set)
        for case in cases:
            known[case.subject].add(relations[template(case)])
        partners: dict[str, set[str]] = defaultdict(set)
        for shared in known.values():
            for one in shared:
                partners[one] |= shared - {one}
        return cls(relations, dict(templates), {k: sorted(v) for k, v in partners.items()}, prefixes)

    def reworded(self, case: Case, draw: random.Random) -> str:
        """Ask for the case's subject by another template of its relation, where there is one."""
        own = template(case)
        others = [name for name in self.templates.get(self.relations.get(own, ""), []) if name != own]
        return (draw.choice(others) if others else own).replace("{}", case.subject)

    def elsewhere(self, case: Case, draw: random.Random) -> str | None:
        """Ask something else of the case's subject: a relation that others of its kind have, if there is one."""
        partners = self.partners.get(self.relations.get(template(case), ""), [])
        return draw.choice(self.templates[draw.choice(partners)]).replace("{}", case.subject) if partners else None

    def behind(self, prompt: str, draw: random.Random) -> str:
        """Put a sentence before a prompt."""
        return f"{draw.choice(self.prefixes)} {prompt}" if self.prefixes else prompt


def template(case: Case) -> str:
    """Return a case's prompt without its subject."""
    return case.prompt.replace(case.subject, "{}")


def fits(pattern: str, prompt: str) -> bool:
    """Tell whether a prompt is the template with some subject in it."""
    before, _, after = pattern.partition("{}")
    return len(prompt) > len(before) + len(after) and prompt.startswith(before) and prompt.endswith(after)


def split_off(case: Case, paraphrase: str, ordered: Sequence[str]) -> tuple[str | None, str]:
    """Return the template that a paraphrase ends with, None where none is known, and what stands before it.

    Args:
        case: Whose paraphrase it is.
        paraphrase: A template with the subject, mostly behind a sentence.
        ordered: Templates, the longest first.
    """
    for name in ordered:
        filled = name.replace("{}", case.subject)
        if paraphrase == filled or paraphrase.endswith(f" {filled}"):
            return name, paraphrase.removesuffix(filled).strip()
    return None, ""


def misspelt(name: str, draw: random.Random) -> str:
    """Change one letter of a name: swapped with the next, left out, doubled or replaced; the first letters stay."""
    places = [n for n in range(1, len(name) - 1) if name[n].isalpha() and name[n + 1].isalpha()]
    if not places:
        return name + name[-1]
    at = draw.choice(places)
    made = {
        "swap": name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        "drop": name[:at] + name[at + 1 :],
        "double": name[: at + 1] + name[at:],
        "replace": name[:at] + draw.choice("aeiourstnl") + name[at + 1 :],
    }
    changed = [text for text in made.values() if text != name]
    return draw.choice(changed)


def shortened(name: str, draw: random.Random) -> str | None:
    """Leave a word of a name out; None where it has but one, or only short ones would be left."""
    words = name.split()
    kept = [" ".join(words[:n] + words[n + 1 :]) for n in range(len(words))]
    kept = [text for text in kept if max(map(len, text.split()), default=0) >= 4]
    return draw.choice(kept) if len(words) > 1 and kept else None
