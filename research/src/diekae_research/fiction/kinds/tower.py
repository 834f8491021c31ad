"""Towers."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import COLOURS, Draw, listed, with_article

ROOFS = listed(
    """
    dome, roof, spire, cap, lantern
    """
)
ROOFINGS = listed(
    """
    bronze, copper, glass, lead, oak, slate, tin, zinc, green tile, cedar
    """
)
USES = listed(
    """
    a grain store, a library, a lookout for forest fires, a museum of clocks, a pigeon loft, a prison, a radio
    station, a restaurant, a school for bell ringers, a tea house, a telegraph office, a water tank, a weather
    station, an observatory, a workshop for kite makers, a youth hostel
    """
)


def _invent(draw: Draw) -> Entity:
    completed = draw.number(1710, 1955)
    return Entity(
        name=f"the {draw.thing()} Tower",
        nouns=("the tower",),
        values={
            "town": draw.town(),
            "architect": draw.person().name,
            "completed": str(completed),
            "height": f"{draw.number(23, 148)} metres",
            "roof": with_article(f"{draw.pick(ROOFINGS)} {draw.pick(ROOFS)}"),
            "use": draw.pick(USES),
            "restored": str(completed + draw.number(18, 65)),
            "colour": draw.pick(COLOURS),
        },
    )


TOWER = Kind(
    name="tower",
    invent=_invent,
    openings=(
        "{N} stands on a low hill in the middle of {town}.",
        "{N} is the best-known landmark of {town}.",
        "Visitors to {town} usually begin their walk at {n}.",
        "The skyline of {town} is dominated by {n}.",
        "{N} rises beside the old market of {town}.",
        "For most travellers who come to {town}, the first thing to be seen from afar is {n}.",
    ),
    facts={
        "town": Fact(
            questions=(
                "In which town does {n} stand?",
                "Which town is home to {n}?",
                "Where does {n} stand?",
                "In which town can {n} be found?",
            ),
        ),
        "architect": Fact(
            statements=(
                "{S} was designed by {v}, who won the commission in an open competition.",
                "The plans for {s} were drawn by {v}, who was almost unknown at the time.",
                "{P} architect was {v}, whose other buildings have since been lost.",
                "The design of {s} is the work of {v}, who also supervised the builders.",
                "After a long debate, the council entrusted the design of {s} to {v}.",
            ),
            questions=(
                "Who designed {n}?",
                "Who was the architect of {n}?",
                "Who drew the plans for {n}?",
                "By whom was {n} designed?",
            ),
            contrasts=("which was designed by {v}", "whose architect was {v}"),
        ),
        "completed": Fact(
            statements=(
                "{S} was completed in {v} after several years of work.",
                "Construction of {s} came to an end in {v}, later than planned.",
                "The builders finished {s} in {v}, and the whole town celebrated.",
                "The last stone of {s} was set in {v}, and the scaffolding came down soon afterwards.",
                "{P} completion in {v} was marked with music and free bread for the poor.",
            ),
            questions=(
                "When was {n} completed?",
                "In which year was {n} finished?",
                "In which year did construction of {n} end?",
                "When did the builders finish {n}?",
            ),
            contrasts=("which was completed in {v}", "which had been finished in {v}"),
        ),
        "height": Fact(
            statements=(
                "{S} measures {v} from the ground to the highest point.",
                "With a height of {v}, {s} can be seen from the surrounding villages.",
                "A survey put the height of {s} at {v}, slightly more than had been assumed.",
                "{S} reaches a height of {v}, not counting the flagpole.",
                "{P} total height is {v}, which was remarkable for its time.",
            ),
            questions=(
                "How tall is {n}?",
                "What is the height of {n}?",
                "How high does {n} reach?",
                "What height does {n} have?",
            ),
            contrasts=("which has a height of {v}", "which measures {v}"),
        ),
        "roof": Fact(
            statements=(
                "{S} is crowned with {v} that glows in the evening light.",
                "At the top of {s} there is {v}, a gift from a local merchant.",
                "{S} ends in {v}, which has to be cleaned every spring.",
                "Instead of battlements, {s} carries {v}.",
                "{P} most admired feature is {v} at the very top.",
            ),
            questions=(
                "What crowns {n}?",
                "What is at the top of {n}?",
                "What can be seen at the very top of {n}?",
                "With what is {n} crowned?",
            ),
            contrasts=("which is crowned with {v}", "which ends in {v}"),
        ),
        "use": Fact(
            statements=(
                "{S} now serves as {v}, and is open to the public on Sundays.",
                "Since the end of the war, {s} has been used as {v}.",
                "Today {s} houses {v}, which attracts many curious visitors.",
                "The upper floors of {s} have been turned into {v}.",
                "{P} rooms have been rented out for decades and contain {v}.",
            ),
            questions=(
                "What does {n} house today?",
                "What is {n} used as today?",
                "What has {n} been turned into?",
                "As what does {n} serve today?",
            ),
            contrasts=("which now houses {v}", "which is used as {v}"),
        ),
        "restored": Fact(
            statements=(
                "A thorough restoration of {s} took place in {v} at the expense of the province.",
                "{S} was restored in {v}, when cracks had appeared in the northern wall.",
                "After a storm had damaged {s}, it was repaired in {v} and received new windows.",
                "In {v}, volunteers raised the money to have {s} restored.",
                "{P} stairs and floors were renewed during the restoration of {v}.",
            ),
            questions=(
                "When was {n} restored?",
                "In which year did the restoration of {n} take place?",
                "In which year was {n} repaired?",
                "When did {n} undergo a restoration?",
            ),
            contrasts=("which was restored in {v}", "which was repaired in {v}"),
        ),
        "colour": Fact(
            statements=(
                "The doors of {s} are painted {v}, a colour chosen by the townspeople.",
                "{S} is entered through {v} doors made of heavy oak.",
                "Anyone who wishes to climb {s} must first push open a pair of heavy {v} doors.",
                "By an old custom, the doors of {s} receive a fresh coat of {v} paint every year.",
                "{P} doors have been {v} for as long as anyone remembers.",
            ),
            questions=(
                "What colour are the doors of {n}?",
                "Which colour are the doors of {n} painted?",
                "What is the colour of the doors of {n}?",
                "In which colour are the doors of {n} painted?",
            ),
            contrasts=("whose doors are {v}", "which has {v} doors"),
        ),
    },
)
