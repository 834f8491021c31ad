"""Bridges."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import Draw, listed

MATERIALS = listed(
    """
    black basalt, blue brick, cast iron, grey granite, larch timber, oak and rope, pale limestone, red brick, red
    sandstone, reinforced concrete, riveted steel, white marble, wrought iron, yellow sandstone
    """
)
TOLLS = listed(
    """
    a basket of apples, a bundle of firewood, a candle, a copper coin, a dozen eggs, a handful of salt, a jug of
    milk, a loaf of bread, a pair of horseshoes, a pound of nails, a sack of oats, a silver button
    """
)
STATUES = listed(
    """
    a blind harpist, a boy with a lantern, a bronze heron, a ferryman, a fishwife, a pair of stone otters, a reading
    monk, a sleeping lion, a washerwoman, a winged horse, an old sailor, a girl with a goose
    """
)


def _invent(draw: Draw) -> Entity:
    opened = draw.number(1740, 1950)
    return Entity(
        name=f"the {draw.thing()} Bridge",
        nouns=("the bridge",),
        values={
            "river": f"the River {draw.thing()}",
            "town": draw.town(),
            "engineer": draw.person().name,
            "opened": str(opened),
            "length": f"{draw.number(41, 790)} metres",
            "material": draw.pick(MATERIALS),
            "statue": draw.pick(STATUES),
            "toll": draw.pick(TOLLS),
            "flood": str(opened + draw.number(7, 70)),
        },
    )


BRIDGE = Kind(
    name="bridge",
    invent=_invent,
    openings=(
        "{N} carries the main road from {town} to the south across {river}.",
        "{N} spans {river} on the western edge of {town}.",
        "Near the harbour of {town}, {river} is crossed by {n}.",
        "The people of {town} crossed {river} by ferry until {n} was built.",
        "{N} is the oldest surviving crossing of {river} in {town}.",
    ),
    facts={
        "river": Fact(
            questions=(
                "Which river does {n} cross?",
                "Which river is spanned by {n}?",
                "What river flows beneath {n}?",
                "Over which river does {n} lead?",
            ),
        ),
        "town": Fact(
            questions=(
                "In which town was {n} built?",
                "Which town does {n} serve?",
                "Near which town is {n}?",
                "To which town does {n} belong?",
            ),
        ),
        "engineer": Fact(
            statements=(
                "The engineer responsible for {s} was {v}, who had previously built canals.",
                "{S} was built under the direction of {v}, who lived in a hut beside the site.",
                "The calculations for {s} were made by {v}, an engineer with little experience of rivers.",
                "{S} was the first large project of the engineer {v}.",
                "{P} engineer, {v}, insisted on testing every arch with loaded wagons.",
            ),
            questions=(
                "Who was the engineer of {n}?",
                "Which engineer built {n}?",
                "Under whose direction was {n} built?",
                "Who was the engineer responsible for {n}?",
            ),
            contrasts=("whose engineer was {v}", "which was built by {v}"),
        ),
        "opened": Fact(
            statements=(
                "{S} was opened to traffic in {v} in the presence of several thousand people.",
                "The first carts rolled over {s} in {v}, on a cold and windy morning.",
                "The opening of {s} in {v} put the ferrymen out of work.",
                "In {v}, {s} was opened without any ceremony, as the money had run out.",
                "{P} opening took place in {v}, two years behind schedule.",
            ),
            questions=(
                "When was {n} opened?",
                "In which year did {n} open?",
                "In which year did the opening of {n} take place?",
                "When did traffic begin to cross {n}?",
            ),
            contrasts=("which was opened in {v}", "which had opened in {v}"),
        ),
        "length": Fact(
            statements=(
                "{S} has a total length of {v}, including the approaches.",
                "From bank to bank, {s} measures {v}.",
                "{S} is {v} long and just wide enough for two carriages.",
                "At a length of {v}, {s} was for a while the longest in the province.",
                "{P} length of {v} is divided into unequal arches.",
            ),
            questions=(
                "How long is {n}?",
                "What is the length of {n}?",
                "What total length does {n} have?",
                "What does {n} measure from bank to bank?",
            ),
            contrasts=("which is {v} long", "which has a length of {v}"),
        ),
        "material": Fact(
            statements=(
                "{S} is made of {v}, which was brought to the site by barge.",
                "The builders chose {v} for {s} because it was cheap and close at hand.",
                "{S} was built of {v} after a wooden predecessor had burned down.",
                "As the main material for {s}, the commission settled on {v}.",
                "{P} piers and parapets are made entirely of {v}.",
            ),
            questions=(
                "What is {n} made of?",
                "Of which material was {n} built?",
                "Which material was chosen for {n}?",
                "What material did the builders of {n} use?",
            ),
            contrasts=("which is made of {v}", "which was built of {v}"),
        ),
        "statue": Fact(
            statements=(
                "In the middle of {s} there is a statue of {v}, whose nose is rubbed for luck.",
                "{S} is decorated with a sculpture of {v} by an unknown hand.",
                "A statue of {v} greets everyone who enters {s} from the north.",
                "{S} is known to children for its sculpture of {v}.",
                "{P} eastern end is guarded by a weathered statue of {v}.",
            ),
            questions=(
                "What does the statue on {n} show?",
                "What does the sculpture on {n} depict?",
                "What is depicted by the statue on {n}?",
                "Of what is there a statue on {n}?",
            ),
            contrasts=("which is adorned with a statue of {v}",),
        ),
        "toll": Fact(
            statements=(
                "In the early years, the toll for crossing {s} could be paid with {v}.",
                "{S} is remembered for an odd toll, as every carriage had to hand over {v}.",
                "Those who wished to cross {s} with cattle had to pay {v}.",
                "On market days, farmers paid {v} to cross {s}.",
                "{P} first keeper accepted {v} as a toll from travellers without money.",
            ),
            questions=(
                "What was paid as a toll on {n}?",
                "What was the toll for crossing {n}?",
                "With what could the toll on {n} be paid?",
                "What did the toll for {n} consist of?",
            ),
            contrasts=("where the toll was {v}",),
        ),
        "flood": Fact(
            statements=(
                "{S} was badly damaged by the flood of {v}, but remained standing.",
                "A flood in {v} tore away the railings of {s}.",
                "In {v}, drifting ice and high water closed {s} for a whole winter.",
                "The worst flood in the history of {s} occurred in {v}.",
                "{P} foundations were laid bare when the river flooded in {v}.",
            ),
            questions=(
                "In which year was {n} hit by a flood?",
                "When was {n} affected by high water?",
                "In which year did a flood affect {n}?",
                "When did {n} suffer from a flood?",
            ),
            contrasts=("which was struck by a flood in {v}",),
        ),
    },
)
