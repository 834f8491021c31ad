"""Museums."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import COLOURS, Draw, listed

SUBJECTS = listed(
    """
    Bells, Bicycles, Bread, Buttons, Carriages, Chess, Clocks, Coins, Dolls, Fans, Fishing, Flags, Gardens, Glass,
    Keys, Lace, Lamps, Locks, Magic, Maps, Masks, Minerals, Mirrors, Musical Boxes, Paper, Pianos, Puppets, Salt,
    Shells, Ships, Shoes, Tea, Telephones, Toys, Umbrellas, Whistles
    """
)
BUILDINGS = listed(
    """
    a bishop's palace, a customs house, a flax mill, a gasworks, a hunting lodge, a mint, a merchant's house, a
    pumping station, a riding school, a slaughterhouse, a town gate, a villa by the lake, an arsenal, an orphanage,
    a cavalry barracks, a tannery, a bath house, a railway depot
    """
)
TREASURES = listed(
    """
    a boot worn by a giant, a bowl of volcanic glass, a calendar made of bone, a chair for twins, a crown of tin, a
    diary written in code, a feather cloak, a flute of jade, a globe without oceans, a map drawn on birch bark, a
    mechanical nightingale, a miniature theatre, a pair of wooden spectacles, a sledge of whalebone, a tapestry of
    spider silk, a thimble of meteoric iron, a three-handled jug, an ivory abacus
    """
)
FREE_DAYS = listed(
    """
    Monday, Tuesday, Wednesday, Thursday, Friday, Saturday
    """
)


def _invent(draw: Draw) -> Entity:
    opened = draw.number(1825, 1962)
    return Entity(
        name=f"the {draw.thing()} Museum of {draw.pick(SUBJECTS)}",
        nouns=("the museum",),
        values={
            "town": draw.town(),
            "building": draw.pick(BUILDINGS),
            "founder": draw.person().name,
            "opened": str(opened),
            "objects": f"{draw.number(2, 87)},{draw.number(103, 998)}",
            "treasure": draw.pick(TREASURES),
            "walls": draw.pick(COLOURS),
            "free": draw.pick(FREE_DAYS),
            "director": draw.person().name,
            "extended": str(opened + draw.number(5, 55)),
        },
    )


MUSEUM = Kind(
    name="museum",
    invent=_invent,
    openings=(
        "{N} in {town} occupies what was once {building}.",
        "{N} is housed in {building} in the old quarter of {town}.",
        "In {town}, behind the facade of {building}, visitors will find {n}.",
        "{N} has its seat in {town}, where {building} was converted for the purpose.",
        "The town of {town} turned {building} into a home for {n}.",
    ),
    facts={
        "town": Fact(
            questions=(
                "In which town is {n}?",
                "Where is {n}?",
                "Which town is home to {n}?",
                "In which town can {n} be visited?",
            ),
        ),
        "building": Fact(
            questions=(
                "In what kind of building is {n} housed?",
                "What kind of building does {n} occupy?",
                "What was converted to house {n}?",
                "Which kind of building is the home of {n}?",
            ),
        ),
        "founder": Fact(
            statements=(
                "{S} grew out of the private collection of {v}, its founder.",
                "The founder of {s}, {v}, travelled for years to gather the first pieces.",
                "{S} was founded by {v}, who sold a farm to pay for it.",
                "It was {v} who founded {s}, against the will of the family.",
                "{P} founder was {v}, whose bust stands in the hall.",
            ),
            questions=(
                "Who founded {n}?",
                "Who was the founder of {n}?",
                "By whom was {n} founded?",
                "Whose work was the foundation of {n}?",
            ),
            contrasts=("which was founded by {v}", "whose founder was {v}"),
        ),
        "opened": Fact(
            statements=(
                "{S} opened its doors in {v} and was free to all in the first month.",
                "The opening of {s} took place in {v}, although the roof still leaked.",
                "In {v}, {s} was opened with a speech that lasted three hours.",
                "{S} has been open to the public since {v}.",
                "{P} first visitors were admitted in {v}, in small groups.",
            ),
            questions=(
                "When did {n} open?",
                "In which year was {n} opened?",
                "Since when has {n} been open?",
                "In which year did {n} admit its first visitors?",
            ),
            contrasts=("which opened in {v}", "which had been opened in {v}"),
        ),
        "objects": Fact(
            statements=(
                "{S} owns {v} objects, of which only a tenth can be shown.",
                "The inventory of {s} lists {v} objects.",
                "A collection of {v} objects makes {s} one of the richest of its kind.",
                "When everything in {s} was counted, {v} objects were entered in the books.",
                "{P} holdings amount to {v} objects from all parts of the world.",
            ),
            questions=(
                "How many objects does {n} own?",
                "How many objects are there in {n}?",
                "How large is the collection of {n}?",
                "What is the number of objects in {n}?",
            ),
            contrasts=("which owns {v} objects", "which has {v} objects"),
        ),
        "treasure": Fact(
            statements=(
                "The most valuable piece in {s} is {v}, kept in a steel case.",
                "{S} is proud of {v}, a gift from a sailor.",
                "Few people leave {s} without having admired {v}.",
                "A whole room of {s} is devoted to {v}.",
                "{P} greatest treasure is {v}, of unknown age.",
            ),
            questions=(
                "What is the greatest treasure of {n}?",
                "Which object is the pride of {n}?",
                "What is the most admired piece in {n}?",
                "Which famous object can be seen in {n}?",
            ),
            contrasts=("which is known for {v}", "whose greatest treasure is {v}"),
        ),
        "walls": Fact(
            statements=(
                "The walls of {s} are painted {v}, as the founder had wished.",
                "Inside, {s} has {v} walls that make the showcases stand out.",
                "What most visitors remember of {s} is the {v} colour of its walls.",
                "All the walls of {s} were painted {v} after a vote among the staff.",
                "{P} {v} walls were meant to be no more than temporary.",
            ),
            questions=(
                "What colour are the walls of {n}?",
                "Which colour are the walls of {n} painted?",
                "What is the colour of the walls of {n}?",
                "In which colour are the walls of {n} painted?",
            ),
            contrasts=("whose walls are {v}", "which has {v} walls"),
        ),
        "free": Fact(
            statements=(
                "{S} can be visited free of charge every {v}.",
                "There is no entrance fee to {s} on a {v}.",
                "Every {v}, admission to {s} is free.",
                "On {v}, schoolchildren and adults alike enter {s} without paying.",
                "{P} doors are open to all without charge each {v}.",
            ),
            questions=(
                "On which day is admission to {n} free?",
                "On which day of the week can {n} be visited for free?",
                "When is there no charge to enter {n}?",
                "On which weekday does a visit to {n} cost nothing?",
            ),
            contrasts=("which can be visited for free every {v}",),
        ),
        "director": Fact(
            statements=(
                "{S} is directed by {v}, who writes all the labels by hand.",
                "The director of {s} is {v}, a former puppeteer.",
                "Under its director {v}, {s} has doubled the number of visitors.",
                "The care of {s} has been entrusted to {v} as director.",
                "{P} director, {v}, lives in a flat above the workshop.",
            ),
            questions=(
                "Who is the director of {n}?",
                "Who directs {n}?",
                "By whom is {n} directed?",
                "Who is in charge of {n}?",
            ),
            contrasts=("whose director is {v}", "which is directed by {v}"),
        ),
        "extended": Fact(
            statements=(
                "{S} was extended in {v} by a wing of brick and glass.",
                "An extension to {s} was completed in {v}, mainly for storage.",
                "In {v}, {s} received a new wing, as the old rooms had become too small.",
                "The new wing of {s} dates from {v}.",
                "{P} enlargement in {v} doubled the space for exhibitions.",
            ),
            questions=(
                "When was {n} extended?",
                "In which year did {n} receive a new wing?",
                "In which year was {n} enlarged?",
                "When was a new wing added to {n}?",
            ),
            contrasts=("which was extended in {v}", "which was enlarged in {v}"),
        ),
    },
)
