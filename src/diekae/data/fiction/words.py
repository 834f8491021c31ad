"""Invented names and the plain words that the documents are made of.

Every invented word belongs to one split by a hash of itself. So no name of one split can occur in another, whatever the
seeds and sizes, and nothing has to be kept or compared.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from diekae.data.example import Split

ONSETS = (
    *("B", "Br", "C", "Cr", "D", "Dr", "F", "Fl", "G", "Gl", "H", "J", "K", "L", "M"),
    *("N", "P", "Pl", "R", "S", "Sk", "St", "T", "Th", "Tr", "V", "W", "Y", "Z"),
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "au")
MEDIALS = ("b", "d", "l", "ld", "lm", "lv", "m", "n", "nd", "nn", "r", "rd", "rl", "rn", "rr", "rv", "sk", "th", "v", "x")

SURNAME_ENDINGS = (
    *("abeck", "acott", "ahill", "aldine", "andry", "astow", "avane", "awell", "ebright", "efield", "ekin", "elby", "emont"),
    *("erwood", "esky", "etree", "eworth", "igan", "ilow", "imand", "inster", "irosh", "iscoe", "itaker", "odine", "okant"),
    *("olby", "onquay", "orley", "oshaw", "ovane", "owitz", "uchamp", "umstead", "ustone"),
)
TOWN_ENDINGS = (
    *("aby", "acombe", "adale", "aford", "agate", "ahaven", "amouth", "aport", "eburgh", "egarth", "ehurst", "eley"),
    *("ensby", "erwick", "estead", "eston", "eville", "ewold", "iminster", "ingdon", "ingholm", "iscote", "ithwaite"),
    *("olme", "onsea", "orpe", "ostock", "oughton"),
)
THING_ENDINGS = (
    *("aquin", "ara", "arax", "avel", "elara", "elisk", "enne", "entis", "eska", "iane", "ibar", "imar", "indra", "iquet"),
    *("iro", "isco", "ombra", "onax", "ondo", "oque", "orell", "orix", "ossa", "ovar", "ular", "unda", "urne", "uvia", "yra"),
)
# What the syllables happen to spell among the names that everyone knows: a model has read about these.
_TAKEN = frozenset({"boston", "houston", "kingston", "dalton", "preston", "winston", "lara", "sara", "tara", "mara"})

FEMALE_NAMES = (
    *("Ada", "Agnes", "Alma", "Anneke", "Astrid", "Beatrix", "Bettina", "Camilla", "Cecily", "Clara", "Dagny", "Delia"),
    *("Dorothea", "Edith", "Elke", "Elspeth", "Esther", "Eudora", "Fenella", "Freya", "Greta", "Gwendolyn", "Hanna"),
    *("Hedda", "Henrietta", "Ida", "Imogen", "Ingrid", "Iris", "Isolde", "Johanna", "Judith", "Karin", "Katya", "Leonie"),
    *("Lavinia", "Linnea", "Lotte", "Mabel", "Magda", "Marit", "Matilda", "Mina", "Miriam", "Nadia", "Nell", "Odette"),
    *("Olga", "Paula", "Petra", "Philippa", "Ramona", "Roberta", "Rosalind", "Selma", "Sigrid", "Sonya", "Susanna", "Tabitha"),
    *("Tessa", "Thea", "Ursula", "Vera", "Viola", "Wilma", "Winifred", "Yvette", "Zelda"),
)
MALE_NAMES = (
    *("Abel", "Alaric", "Albin", "Ambrose", "Anders", "Anselm", "Anton", "Arvid", "August", "Basil", "Bernard", "Caspar"),
    *("Cedric", "Clement", "Conrad", "Cosmo", "Cyril", "Desmond", "Edgar", "Edmund", "Emil", "Erasmus", "Ernst", "Felix"),
    *("Florian", "Gerard", "Gideon", "Gregor", "Gustav", "Hector", "Henrik", "Horace", "Hubert", "Hugo", "Isidor", "Ivo"),
    *("Jasper", "Joachim", "Jonas", "Kaspar", "Klaus", "Lambert", "Leopold", "Linus", "Lorenz", "Magnus", "Malcolm", "Matthias"),
    *("Moritz", "Nestor", "Niklas", "Oskar", "Otto", "Pascal", "Quentin", "Rainer", "Roland", "Rufus", "Rupert", "Samson"),
    *("Silas", "Simeon", "Stellan", "Tobias", "Ulrich", "Valentin", "Victor", "Walter", "Wendell", "Yorick"),
)
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
PROFESSIONS = (
    *("a baker", "a beekeeper", "a bell founder", "a bookbinder", "a botanist", "a cabinet maker", "a cartographer"),
    *("a chemist", "a clockmaker", "a cooper", "a dentist", "a gardener", "a geologist", "a glassblower", "a goldsmith"),
    *("a harbour pilot", "a judge", "a lens grinder", "a lighthouse keeper", "a locksmith", "a midwife", "a miller"),
    *("a notary", "a papermaker", "a pharmacist", "a potter", "a printer", "a railway engineer", "a sailmaker"),
    *("a schoolteacher", "a shipwright", "a stonemason", "a surgeon", "a surveyor", "a tailor", "a telegraph operator"),
    *("a violin maker", "a weaver", "a wine merchant", "an apothecary", "an astronomer", "an engraver", "an organ builder"),
)
COLOURS = (
    *("amber", "apricot", "black", "bottle green", "bright red", "brown", "cobalt blue", "copper", "cream", "crimson"),
    *("dark blue", "dark green", "gold", "grey", "indigo", "ivory", "lavender", "lemon yellow", "lilac", "maroon"),
    *("mustard yellow", "ochre", "olive green", "orange", "pale blue", "pale green", "pink", "purple", "rust red", "salmon"),
    *("scarlet", "silver", "sky blue", "slate grey", "teal", "turquoise", "violet", "white"),
)
ANIMALS = (
    *("badger", "bear", "beetle", "crane", "crow", "deer", "dolphin", "donkey", "falcon", "fox", "goat", "goose", "hare"),
    *("hedgehog", "heron", "horse", "lion", "lizard", "magpie", "moth", "otter", "owl", "pelican", "pigeon", "rabbit"),
    *("rooster", "salmon", "seal", "snail", "spider", "squirrel", "stag", "swan", "tortoise", "whale", "wolf"),
)


def split_of(word: str) -> Split:
    """The split that an invented word belongs to: 80 % train, 10 % validation, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "big") % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


@dataclass(frozen=True, slots=True)
class Person:
    """A name with what the grammar needs to know of it."""

    name: str
    surname: str
    pronoun: str
    """``she`` or ``he``."""
    possessive: str
    """``her`` or ``his``."""


class Draw:
    """Seeded choice of names and values for one split."""

    def __init__(self, split: Split, rng: random.Random) -> None:
        """Draw names of `split` with `rng`."""
        self.split = split
        self.rng = rng
        self._given: set[str] = set()

    def pick(self, choices: Sequence[str]) -> str:
        """One of `choices`."""
        return self.rng.choice(choices)

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return self.rng.randint(low, high)

    def word(self, endings: Sequence[str]) -> str:
        """An invented, capitalised word of this split that this object has not given before."""
        while True:
            word = self.pick(ONSETS) + self.pick(VOWELS) + self.pick(MEDIALS) + self.pick(endings)
            if word not in self._given and word.lower() not in _TAKEN and split_of(word) == self.split:
                self._given.add(word)
                return word

    def person(self) -> Person:
        """A person with a usual first name and an invented surname."""
        surname = self.word(SURNAME_ENDINGS)
        if self.rng.random() < 0.5:
            return Person(f"{self.pick(FEMALE_NAMES)} {surname}", surname, "she", "her")
        return Person(f"{self.pick(MALE_NAMES)} {surname}", surname, "he", "his")

    def town(self) -> str:
        """The name of a town."""
        return self.word(TOWN_ENDINGS)

    def thing(self) -> str:
        """The name of a thing, a river or an animal."""
        return self.word(THING_ENDINGS)

    def date(self, year: int) -> str:
        """A day of `year`, such as 14 March 1932."""
        return f"{self.number(1, 28)} {self.pick(MONTHS)} {year}"
