"""Festivals."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import COLOURS, MONTHS, Draw, listed

THEMES = listed(
    """
    Bread, Candle, Cider, Drum, Fire, Harvest, Ice, Kite, Lantern, Mask, River, Sheep, Straw
    """
)
EVENTS = listed(
    """
    a barrel race, a blindfolded chess match, a boat parade, a cheese-rolling contest, a dance on stilts, a duel
    with feathers, a night of silence, a pillow fight, a procession of geese, a pumpkin auction, a race in wooden
    shoes, a snail race, a stone-throwing contest, a tug of war, a whistling competition, an open-air opera, a
    contest in tree climbing, a battle of brass bands
    """
)
FOODS = listed(
    """
    almond dumplings, apple fritters, bean stew, blackberry tart, chestnut soup, fried sardines, garlic bread,
    ginger pancakes, honey cakes, leek pie, lentil soup, onion tart, pickled eggs, plum dumplings, poppy seed rolls,
    potato waffles, pumpkin soup, roasted chestnuts, saffron buns, smoked eel, walnut bread
    """
)
OCCASIONS = listed(
    """
    a great fire, a plague of locusts, a severe drought, a victory at sea, the arrival of the first settlers, the
    birth of triplets, the building of a dam, the capture of a bear, the end of a siege, the finding of a spring,
    the return of the fishing fleet, the signing of a treaty, the visit of a queen
    """
)


def _invent(draw: Draw) -> Entity:
    first = draw.number(1815, 1930)
    return Entity(
        name=f"the {draw.thing()} {draw.pick(THEMES)} Festival",
        nouns=("the festival",),
        values={
            "town": draw.town(),
            "month": draw.pick(MONTHS),
            "first": str(first),
            "founder": draw.person().name,
            "event": draw.pick(EVENTS),
            "food": draw.pick(FOODS),
            "colour": draw.pick(COLOURS),
            "visitors": f"{draw.number(2, 94)},{draw.number(1, 9)}00",
            "occasion": draw.pick(OCCASIONS),
            "cancelled": str(first + draw.number(6, 60)),
        },
    )


FESTIVAL = Kind(
    name="festival",
    invent=_invent,
    openings=(
        "{N} is held every {month} in {town}.",
        "Each year in {month}, the people of {town} celebrate {n}.",
        "{N} takes place in {town} and fills the first week of {month}.",
        "The event of the year in {town} is {n}, which is held in {month}.",
        "Every {month}, the streets of {town} are closed to carts and cars for {n}.",
    ),
    facts={
        "town": Fact(
            questions=(
                "In which town is {n} held?",
                "Which town celebrates {n}?",
                "Where does {n} take place?",
                "In which town does {n} take place?",
            ),
        ),
        "month": Fact(
            questions=(
                "In which month is {n} held?",
                "In which month does {n} take place?",
                "What is the month of {n}?",
                "During which month is {n} celebrated?",
            ),
        ),
        "first": Fact(
            statements=(
                "{S} was first held in {v}, with only a handful of guests.",
                "The first celebration of {s} is recorded for {v}.",
                "{S} goes back to {v}, when it lasted a single evening.",
                "In {v}, {s} took place for the first time, in a muddy field.",
                "{P} beginnings lie in {v}, as old account books show.",
            ),
            questions=(
                "When was {n} first held?",
                "In which year did {n} take place for the first time?",
                "To which year does {n} go back?",
                "In which year was {n} celebrated for the first time?",
            ),
            contrasts=("which was first held in {v}", "which goes back to {v}"),
        ),
        "founder": Fact(
            statements=(
                "{S} was the idea of {v}, who paid for the first musicians.",
                "The founder of {s} was {v}, an innkeeper with too few guests.",
                "It was {v} who founded {s}, after a visit to the capital.",
                "A small monument beside the festival ground honours {v}, the founder of {s}.",
                "{P} founder, {v}, attended it every year until old age.",
            ),
            questions=(
                "Who founded {n}?",
                "Who was the founder of {n}?",
                "Who had the idea for {n}?",
                "By whom was {n} founded?",
            ),
            contrasts=("which was founded by {v}", "whose founder was {v}"),
        ),
        "event": Fact(
            statements=(
                "The high point of {s} is {v}, for which people train all year.",
                "{S} always begins with {v} in front of the town hall.",
                "No part of {s} is as popular as {v}.",
                "Foreign visitors come to {s} mainly to watch {v}.",
                "{P} main attraction is {v}, open to all ages.",
            ),
            questions=(
                "What is the main attraction of {n}?",
                "Which event is {n} known for?",
                "What can visitors watch at {n}?",
                "Which popular event is part of {n}?",
            ),
            contrasts=("which is known for {v}", "whose main attraction is {v}"),
        ),
        "food": Fact(
            statements=(
                "At {s}, everyone eats {v}, made from a recipe that is kept secret.",
                "The traditional dish of {s} is {v}, served on wooden plates.",
                "A visit to {s} is not complete without {v}.",
                "{S} is also known for {v}, sold at every corner.",
                "{P} traditional food is {v}, prepared by the fire brigade.",
            ),
            questions=(
                "What is eaten at {n}?",
                "Which dish is traditional at {n}?",
                "What food is served at {n}?",
                "Which food is typical of {n}?",
            ),
            contrasts=("at which {v} can be bought", "at which people eat {v}"),
        ),
        "colour": Fact(
            statements=(
                "Those who take part in {s} wear something {v}.",
                "For {s}, every window is decorated with {v} ribbons.",
                "{S} can be recognised by its {v} banners.",
                "During {s}, the fountain on the main square is dyed {v}.",
                "{P} official colour is {v}, worn by young and old.",
            ),
            questions=(
                "Which colour is typical of {n}?",
                "What is the colour of {n}?",
                "Which colour belongs to {n}?",
                "Which colour can be seen everywhere at {n}?",
            ),
            contrasts=("whose colour is {v}",),
        ),
        "visitors": Fact(
            statements=(
                "{S} draws about {v} visitors, more than the town has beds.",
                "In a good year, some {v} visitors come to {s}.",
                "The organisers of {s} count on {v} visitors.",
                "With around {v} visitors, {s} is the largest of its kind in the country.",
                "{P} {v} visitors are brought in by special trains.",
            ),
            questions=(
                "How many visitors does {n} draw?",
                "How many visitors come to {n}?",
                "What is the number of visitors of {n}?",
                "How many visitors attend {n}?",
            ),
            contrasts=("which draws {v} visitors", "which has {v} visitors"),
        ),
        "occasion": Fact(
            statements=(
                "{S} commemorates {v}, of which a chronicle gives an account.",
                "The origin of {s} is usually traced to {v}.",
                "{S} is held in memory of {v} long ago.",
                "According to tradition, {s} recalls {v}.",
                "{P} purpose is to keep alive the memory of {v}.",
            ),
            questions=(
                "What does {n} commemorate?",
                "In memory of what is {n} held?",
                "Which event does {n} recall?",
                "To what is the origin of {n} traced?",
            ),
            contrasts=("which commemorates {v}", "which recalls {v}"),
        ),
        "cancelled": Fact(
            statements=(
                "{S} was cancelled only once, in {v}, because of a strike.",
                "In {v}, {s} had to be called off owing to heavy rain.",
                "The only year without {s} was {v}, when influenza raged.",
                "Because of an outbreak of fever, {s} did not take place in {v}.",
                "{P} cancellation in {v} nearly ruined the local innkeepers.",
            ),
            questions=(
                "In which year was {n} cancelled?",
                "When did {n} not take place?",
                "In which year did {n} fail to take place?",
                "When was {n} called off?",
            ),
            contrasts=("which was cancelled in {v}",),
        ),
    },
)
