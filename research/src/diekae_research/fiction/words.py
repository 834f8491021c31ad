"""Invented names and the plain words that the documents are made of.

Every invented word belongs to one split by a hash of itself. So no name of one split can occur in another, whatever the
seeds and sizes, and nothing has to be kept or compared.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from diekae.data.example import Split


def listed(text: str) -> tuple[str, ...]:
    """The comma-separated entries of `text`, so that long lists stay short on the page."""
    return tuple(" ".join(entry.split()) for entry in text.split(","))


ONSETS = listed(
    """
    B, Br, C, Cr, D, Dr, F, Fl, G, Gl, H, J, K, L, M, N, P, Pl, R, S, Sk, St, T, Th, Tr, V, W, Y, Z
    """
)
# Twice the plain ones: too many diphthongs make every name look alike.
VOWELS = listed("a, e, i, o, u, a, e, i, o, u, ai, au")
MEDIALS = listed(
    """
    b, d, l, ld, lm, lv, m, n, nd, nn, r, rd, rl, rn, rr, rv, sk, th, v, lt
    """
)

SURNAME_ENDINGS = listed(
    """
    abeck, acott, ahill, aldine, andry, astow, avane, awell, ebright, efield, ekin, elby, emont, erwood, esky,
    etree, eworth, ogan, ilow, imand, inster, irosh, iscoe, itaker, odine, okant, olby, onquay, orley, oshaw, ovane,
    owitz, uchamp, umstead, ustone
    """
)
TOWN_ENDINGS = listed(
    """
    aby, acombe, adale, aford, agate, ahaven, amouth, aport, eburgh, egarth, ehurst, eley, ensby, erwick, estead,
    eston, eville, ewold, iminster, ingdon, ingholm, iscote, ithwaite, olme, onsea, orpe, ostock, oughton
    """
)
THING_ENDINGS = listed(
    """
    aquin, ara, arax, avel, elara, elisk, enne, entis, eska, iane, ibar, imar, indra, iquet, iro, isco, ombra, onax,
    ondo, oque, orell, orix, ossa, ovar, ular, unda, urne, uvia, yra
    """
)
# Names that the syllables happen to spell although the world has them already, and what no name should hold.
_TAKEN = frozenset(
    listed(
        """
        badara, badiane, balibar, barefield, barindra, barnaby, baroque, belmondo, bonneville, bovingdon, cadogan,
        canara, carrara, daleville, ferrara, galveston, gemara, geraldine, homestead, horowitz, jabara, jalisco,
        lorimar, manara, mandara, mandeville, manindra, melara, modular, navara, polara, raimondo, rubisco, samara,
        solara, steveston, tabular, tamara, tubular, valemont, vaudeville, verossa, viviane, warenne, warrilow,
        wolowitz, zurara
        """
    )
)
_UNFIT = re.compile("anal|anus|bum|homo|penis|porn|semen|stalin|turd")

FEMALE_NAMES = listed(
    """
    Ada, Agnes, Alma, Anneke, Astrid, Beatrix, Bettina, Camilla, Cecily, Clara, Dagny, Delia, Dorothea, Edith, Elke,
    Elspeth, Esther, Eudora, Fenella, Freya, Greta, Gwendolyn, Hanna, Hedda, Henrietta, Ida, Imogen, Ingrid, Iris,
    Isolde, Johanna, Judith, Karin, Katya, Leonie, Lavinia, Linnea, Lotte, Mabel, Magda, Marit, Matilda, Mina,
    Miriam, Nadia, Nell, Odette, Olga, Paula, Petra, Philippa, Ramona, Roberta, Rosalind, Selma, Sigrid, Sonya,
    Susanna, Tabitha, Tessa, Thea, Ursula, Vera, Viola, Wilma, Winifred, Yvette, Zelda
    """
)
MALE_NAMES = listed(
    """
    Abel, Alaric, Albin, Ambrose, Anders, Anselm, Anton, Arvid, August, Basil, Bernard, Caspar, Cedric, Clement,
    Conrad, Cosmo, Cyril, Desmond, Edgar, Edmund, Emil, Erasmus, Ernst, Felix, Florian, Gerard, Gideon, Gregor,
    Gustav, Hector, Henrik, Horace, Hubert, Hugo, Isidor, Ivo, Jasper, Joachim, Jonas, Kaspar, Klaus, Lambert,
    Leopold, Linus, Lorenz, Magnus, Malcolm, Matthias, Moritz, Nestor, Niklas, Oskar, Otto, Pascal, Quentin, Rainer,
    Roland, Rufus, Rupert, Samson, Silas, Simeon, Stellan, Tobias, Ulrich, Valentin, Victor, Walter, Wendell, Yorick
    """
)
MONTHS = listed(
    """
    January, February, March, April, May, June, July, August, September, October, November, December
    """
)
PROFESSIONS = listed(
    """
    a baker, a beekeeper, a bell founder, a bookbinder, a botanist, a cabinet maker, a cartographer, a chemist, a
    clockmaker, a cooper, a dentist, a gardener, a geologist, a glassblower, a goldsmith, a harbour pilot, a lens
    grinder, a lighthouse keeper, a locksmith, a miller, a notary, a papermaker, a pharmacist, a potter,
    a printer, a railway engineer, a sailmaker, a schoolteacher, a shipwright, a stonemason, a surgeon, a surveyor,
    a tailor, a telegraph operator, a violin maker, a weaver, a wine merchant, an apothecary, an astronomer, an
    engraver, an organ builder
    """
)
COLOURS = listed(
    """
    amber, apricot, black, bottle green, bright red, brown, cobalt blue, cream, crimson, dark blue, dark
    green, gold, grey, indigo, ivory, lavender, lemon yellow, lilac, maroon, mustard yellow, ochre, olive green,
    orange, pale blue, pale green, pink, purple, rust red, scarlet, silver, sky blue, slate grey, teal,
    turquoise, violet, white
    """
)
ANIMALS = listed(
    """
    badger, bear, beetle, crane, crow, deer, dolphin, donkey, falcon, fox, goat, goose, hare, hedgehog, heron,
    horse, lion, lizard, magpie, moth, otter, owl, pelican, pigeon, rabbit, rooster, seal, snail, spider,
    squirrel, stag, swan, tortoise, whale, wolf
    """
)


def split_of(word: str) -> Split:
    """The split that an invented word belongs to: 80 % train, 10 % validation, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "big") % 10
    return "train" if bucket < 8 else "validation" if bucket == 8 else "test"


def _is_fit(word: str) -> bool:
    return word not in _TAKEN and not _UNFIT.search(word)


def article(text: str) -> str:
    """The indefinite article before `text`; right for the words of this package, not for all of English."""
    return "an" if text[:1].lower() in "aeiou" else "a"


def with_article(text: str) -> str:
    """`text` after its indefinite article."""
    return f"{article(text)} {text}"


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
        """An invented, capitalised word of this split, which this object has not given before."""
        while True:
            word = self.pick(ONSETS) + self.pick(VOWELS) + self.pick(MEDIALS) + self.pick(endings)
            if word not in self._given and split_of(word) == self.split and _is_fit(word.lower()):
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
