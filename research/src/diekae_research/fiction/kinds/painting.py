"""Paintings."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import ANIMALS, COLOURS, PROFESSIONS, Draw, listed, with_article

TITLES = listed(
    """
    A Wedding in {}, Boats near {}, Evening at {}, Fog over {}, Harvest at {}, Market Day in {}, Morning in {},
    Skaters at {}, Storm over {}, The Bakers of {}, The Ferry at {}, The Harbour of {}, The Mill at {}, The Old
    Bridge at {}, The Quarry at {}, The Rooftops of {}, View of {}, Washing Day in {}
    """
)
GROUNDS = listed(
    """
    a barn door, a barrel lid, a copper plate, a panel of poplar wood, a piece of sailcloth, a sheet of slate, a
    tabletop, a wooden tray, an oak panel, a linen canvas, a piece of silk, a flour sack, a pane of glass
    """
)
OWNERS = listed(
    """
    a bank, a brewery, a cathedral, a fire station, a grand hotel, a hospital, a law court, a monastery, a music
    school, a private collector, a railway museum, a retired diplomat, a savings bank, a town library, a shipping
    company, a university
    """
)
HIDING_PLACES = listed(
    """
    a bakery oven, a bathing hut, a bell tower, a brewery cellar, a dovecote, a garden shed, a hay loft, a laundry
    basket, a luggage locker, a piano case, a railway carriage, a wardrobe, a wine cellar, an attic
    """
)


def _invent(draw: Draw) -> Entity:
    painted = draw.number(1590, 1910)
    return Entity(
        name=f'"{draw.pick(TITLES).format(draw.town())}"',
        nouns=("the painting", "the picture"),
        values={
            "painter": draw.person().name,
            "painted": str(painted),
            "ground": draw.pick(GROUNDS),
            "width": f"{draw.number(31, 340)} centimetres",
            "detail": with_article(f"{draw.pick(COLOURS)} {draw.pick(ANIMALS)}"),
            "model": draw.pick(PROFESSIONS),
            "owner": draw.pick(OWNERS),
            "price": f"{draw.number(2, 960)},{draw.number(1, 9)}00 crowns",
            "stolen": str(painted + draw.number(24, 110)),
            "found": draw.pick(HIDING_PLACES),
            "restorer": draw.person().name,
        },
    )


PAINTING = Kind(
    name="painting",
    invent=_invent,
    openings=(
        "{N} is a painting by {painter}.",
        "{N} is the largest surviving work of the painter {painter}.",
        "The painter {painter} left only a few works, of which {n} is the best known.",
        "{N}, a work of the painter {painter}, hangs in a room of its own.",
        "Of all the pictures by {painter}, none has been copied as often as {n}.",
    ),
    facts={
        "painter": Fact(
            questions=(
                "Who painted {n}?",
                "By whom was {n} painted?",
                "Which painter created {n}?",
                "Who is the painter of {n}?",
            ),
            contrasts=("which was painted by {v}", "which is a work of {v}"),
        ),
        "painted": Fact(
            statements=(
                "{S} was painted in {v}, as a note on the back confirms.",
                "The artist finished {s} in {v} and never signed it.",
                "In {v}, {s} was completed in great haste for an exhibition.",
                "{S} dates from {v}, a year of war and bad harvests.",
                "{P} year of origin, {v}, was discovered when the frame was removed.",
            ),
            questions=(
                "When was {n} painted?",
                "In which year was {n} completed?",
                "From which year does {n} date?",
                "In which year did the artist finish {n}?",
            ),
            contrasts=("which was painted in {v}", "which dates from {v}"),
        ),
        "ground": Fact(
            statements=(
                "{S} was painted on {v}, since canvas was too expensive.",
                "As a support for {s}, the artist used {v}.",
                "{S} is unusual in that it was executed on {v}.",
                "An examination showed that {s} had been painted on {v}.",
                "{P} colours were laid directly on {v} without any primer.",
            ),
            questions=(
                "On what was {n} painted?",
                "What did the artist use as a support for {n}?",
                "On what kind of support was {n} painted?",
                "What serves as the support of {n}?",
            ),
            contrasts=("which was painted on {v}",),
        ),
        "width": Fact(
            statements=(
                "{S} is {v} wide and somewhat less in height.",
                "With a width of {v}, {s} fills the whole wall.",
                "The width of {s} is {v}, although a strip was cut off at the left.",
                "{S} measures {v} in width, frame not included.",
                "{P} width of {v} made it difficult to transport.",
            ),
            questions=(
                "How wide is {n}?",
                "What is the width of {n}?",
                "What does {n} measure in width?",
                "What width does {n} have?",
            ),
            contrasts=("which is {v} wide", "which has a width of {v}"),
        ),
        "detail": Fact(
            statements=(
                "In the lower left corner of {s}, {v} can be made out.",
                "A puzzling detail of {s} is {v}, half hidden behind a wall.",
                "{S} shows {v} in the foreground, which scholars explain in various ways.",
                "Children who look at {s} always notice {v} first.",
                "{P} foreground contains {v}, added at the request of the buyer.",
            ),
            questions=(
                "Which animal appears in {n}?",
                "What animal can be seen in {n}?",
                "Which animal is shown in {n}?",
                "What animal is a detail of {n}?",
            ),
            contrasts=("which shows {v}", "in which {v} can be seen"),
        ),
        "model": Fact(
            statements=(
                "The model for the central figure of {s} was {v} from the neighbourhood.",
                "For the main figure of {s}, {v} sat as a model for two weeks.",
                "{S} shows as its central figure {v} whom the artist had met at an inn.",
                "The person in the middle of {s} has been identified as {v}.",
                "{P} central figure is {v}, dressed for a feast.",
            ),
            questions=(
                "Who is the central figure of {n}?",
                "Who is the person in the middle of {n}?",
                "What was the profession of the model for {n}?",
                "Whom does the central figure of {n} represent?",
            ),
            contrasts=("whose central figure is {v}",),
        ),
        "owner": Fact(
            statements=(
                "{S} now belongs to {v} and is rarely lent to exhibitions.",
                "The present owner of {s} is {v}, and visits are by appointment only.",
                "Through a legacy, {s} came into the possession of {v}.",
                "{S} was bought by {v} when the estate was divided.",
                "{P} current owner, {v}, has refused every offer.",
            ),
            questions=(
                "Who owns {n}?",
                "To whom does {n} belong?",
                "Who is the owner of {n}?",
                "In whose possession is {n}?",
            ),
            contrasts=("which belongs to {v}", "which is owned by {v}"),
        ),
        "price": Fact(
            statements=(
                "{S} was sold at auction for {v}, a record for the region.",
                "At its last sale, {s} fetched {v}.",
                "The price paid for {s} was {v}, which was thought excessive.",
                "When the family needed money, {s} was sold for {v}.",
                "{P} price of {v} was paid in small banknotes.",
            ),
            questions=(
                "What was the price of {n}?",
                "For how much was {n} sold?",
                "What price was paid for {n}?",
                "How much did {n} fetch?",
            ),
            contrasts=("which was sold for {v}", "which fetched {v}"),
        ),
        "stolen": Fact(
            statements=(
                "{S} was stolen in {v}, cut from its frame with a kitchen knife.",
                "Thieves made off with {s} in {v} during a concert.",
                "In {v}, {s} disappeared overnight, and a guard was suspected.",
                "The theft of {s} in {v} filled the newspapers for months.",
                "{P} theft in {v} was noticed only after a week.",
            ),
            questions=(
                "When was {n} stolen?",
                "In which year was {n} stolen?",
                "In which year did the theft of {n} take place?",
                "When did {n} disappear?",
            ),
            contrasts=("which was stolen in {v}",),
        ),
        "found": Fact(
            statements=(
                "After many years, {s} was found in {v} by children at play.",
                "{S} was rediscovered in {v}, wrapped in a carpet.",
                "It was in {v} that {s} was finally found, covered with dust.",
                "A young teacher found {s} in {v} and took it for a copy.",
                "{P} rediscovery in {v} was pure chance.",
            ),
            questions=(
                "Where was {n} found?",
                "In what place was {n} rediscovered?",
                "In what place did {n} come to light again?",
                "Where did {n} turn up again?",
            ),
            contrasts=("which was found in {v}",),
        ),
        "restorer": Fact(
            statements=(
                "{S} was cleaned and restored by {v}, who removed three layers of varnish.",
                "The restoration of {s} was entrusted to {v}.",
                "It was {v} who restored {s} and revealed the original sky.",
                "The bright colours of {s} reappeared when {v} restored it.",
                "{P} restorer, {v}, worked with nothing but saliva and cotton.",
            ),
            questions=(
                "Who restored {n}?",
                "By whom was {n} restored?",
                "Who was the restorer of {n}?",
                "To whom was the restoration of {n} entrusted?",
            ),
            contrasts=("which was restored by {v}", "whose restorer was {v}"),
        ),
    },
)
