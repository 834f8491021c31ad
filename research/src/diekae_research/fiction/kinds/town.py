"""Towns."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import ANIMALS, COLOURS, Draw, listed, with_article

GOODS = listed(
    """
    barometers, bells, blue pottery, brass buttons, candied pears, carpets, cider, combs, cork, felt hats, fishing
    nets, fountain pens, gingerbread, globes, gloves, goat cheese, harps, honey cakes, kites, lace, lanterns,
    marbles, mustard, pewter spoons, pickled plums, plum brandy, roof tiles, rope, rowing boats, saddles, sealing
    wax, smoked trout, soap, straw baskets, umbrellas, wooden toys
    """
)
REMAINS = listed(
    """
    a brick kiln, a circular chapel, a drowned forest, a granary on stilts, a hanging garden, a leaning mill, a maze
    of hedges, a mosaic of shells, a petrified oak, a ruined abbey, a salt well, a stone theatre, a sundial of
    slate, a wall of blue glass, an empty fortress, an ice cellar, an underground canal, a covered market, a wooden
    synagogue, an avenue of lime trees
    """
)


def _invent(draw: Draw) -> Entity:
    founded = draw.number(1105, 1590)
    return Entity(
        name=draw.town(),
        nouns=("the town",),
        values={
            "river": f"the River {draw.thing()}",
            "founded": str(founded),
            "founder": draw.person().name,
            "population": f"{draw.number(2, 58)},{draw.number(103, 998)}",
            "goods": draw.pick(GOODS),
            "sight": draw.pick(REMAINS),
            "arms": with_article(f"{draw.pick(COLOURS)} {draw.pick(ANIMALS)}"),
            "mayor": draw.person().name,
            "railway": str(draw.number(1839, 1911)),
        },
    )


TOWN = Kind(
    name="town",
    invent=_invent,
    openings=(
        "{N} is a town on {river}, surrounded by orchards and gentle hills.",
        "{N} lies on the left bank of {river}, at the foot of a wooded ridge.",
        "The town of {n} lies in a bend of {river}.",
        "Travellers who follow {river} towards the sea come through {n}, a quiet market town.",
        "{N} is a small town that owes its existence to a ford across {river}.",
    ),
    leads=(
        "{S} should not be confused with {o}, {c}.",
        "{S} has long competed with {o}, {c}.",
        "{S} is twinned with {o}, {c}.",
        "The nearest town of similar size is {o}, {c}.",
        "A few hours to the east lies {o}, {c}.",
    ),
    facts={
        "river": Fact(
            questions=(
                "On which river does {n} lie?",
                "Which river flows through {n}?",
                "What river is {n} situated on?",
                "By which river is {n} located?",
            ),
        ),
        "founded": Fact(
            statements=(
                "{S} was founded in {v}, as an inscription on the town hall records.",
                "The foundation of {s} dates from {v}, when a fair was first held there.",
                "In {v}, {s} was founded on land that nobody else had wanted.",
                "Most historians agree that {s} was founded in {v}.",
                "{P} year of foundation, {v}, is carved above the northern gate.",
            ),
            questions=(
                "When was {n} founded?",
                "In which year was {n} founded?",
                "What is the year of foundation of {n}?",
                "From which year does the foundation of {n} date?",
            ),
            contrasts=("which was founded in {v}", "which had been founded in {v}"),
        ),
        "founder": Fact(
            statements=(
                "The founder of {s} is said to have been {v}, a wealthy landowner.",
                "{S} was laid out by {v}, who wished to attract weavers from abroad.",
                "According to the chronicle, {s} was established by {v}.",
                "{S} owes its foundation to {v}, whose tomb is in the main church.",
                "{P} founder, {v}, granted the first settlers ten years without taxes.",
            ),
            questions=(
                "Who founded {n}?",
                "Who was the founder of {n}?",
                "By whom was {n} established?",
                "To whom does {n} owe its foundation?",
            ),
            contrasts=("which was founded by {v}", "whose founder was {v}"),
        ),
        "population": Fact(
            statements=(
                "At the last census, {s} had {v} inhabitants.",
                "{S} has a population of {v}, slightly fewer than a decade ago.",
                "The number of inhabitants of {s} has been given as {v}.",
                "With {v} inhabitants, {s} is among the larger places of the valley.",
                "{P} population stood at {v} when it was last counted.",
            ),
            questions=(
                "How many inhabitants does {n} have?",
                "What is the population of {n}?",
                "How many people live in {n}?",
                "What is the number of inhabitants of {n}?",
            ),
            contrasts=("which has {v} inhabitants", "which has a population of {v}"),
        ),
        "goods": Fact(
            statements=(
                "{S} is known far and wide for its {v}, still made by hand today.",
                "For generations, the families of {s} have lived by making {v}.",
                "{S} grew rich through the trade in {v} with the towns of the coast.",
                "The largest workshop in {s} produces {v} for customers all over the country.",
                "{P} prosperity has always rested on the production of {v}.",
            ),
            questions=(
                "What is {n} known for producing?",
                "Which product is {n} known for?",
                "What is made in {n}?",
                "Which goods are produced in {n}?",
            ),
            contrasts=("which is known for its {v}", "which lives by making {v}"),
        ),
        "sight": Fact(
            statements=(
                "The most unusual sight in {s} is {v} near the old cemetery.",
                "{S} attracts visitors with {v}, which is mentioned in every guidebook.",
                "Behind the town hall of {s} there is {v}, protected as a monument.",
                "Few visitors leave {s} without having seen {v}.",
                "{P} pride is {v}, although its origin has never been explained.",
            ),
            questions=(
                "What is the most unusual sight in {n}?",
                "Which sight attracts visitors to {n}?",
                "What can visitors see in {n}?",
                "What sight is {n} proud of?",
            ),
            contrasts=("which is visited for {v}", "whose main sight is {v}"),
        ),
        "arms": Fact(
            statements=(
                "The coat of arms of {s} shows {v} beneath three stars.",
                "{S} bears {v} in its coat of arms, for reasons that are disputed.",
                "On the seal of {s}, {v} can be seen beside a key.",
                "Since the Middle Ages, {s} has had {v} in its coat of arms.",
                "{P} arms, renewed after a fire, display {v} on a plain field.",
            ),
            questions=(
                "What does the coat of arms of {n} show?",
                "What can be seen in the coat of arms of {n}?",
                "Which animal is in the coat of arms of {n}?",
                "What animal do the arms of {n} display?",
            ),
            contrasts=("whose coat of arms shows {v}", "which has {v} in its arms"),
        ),
        "mayor": Fact(
            statements=(
                "The first mayor of {s} to be elected by all citizens was {v}.",
                "{S} was governed for many years by its mayor {v}, who paved the streets.",
                "Under the mayor {v}, {s} received street lamps and a school.",
                "A bust in the park of {s} honours {v}, a popular mayor.",
                "{P} most respected mayor, {v}, refused to be paid for the office.",
            ),
            questions=(
                "Who was the mayor of {n}?",
                "Who served as mayor of {n}?",
                "What was the name of the mayor of {n}?",
                "Who held the office of mayor in {n}?",
            ),
            contrasts=("whose mayor was {v}", "which was governed by the mayor {v}"),
        ),
        "railway": Fact(
            statements=(
                "The railway reached {s} in {v}, and the first train was met by a brass band.",
                "{S} has been connected to the railway since {v}.",
                "In {v}, a railway station was opened in {s} at some distance from the centre.",
                "The line that linked {s} with the capital was finished in {v}.",
                "{P} isolation ended in {v}, when the railway arrived.",
            ),
            questions=(
                "When did the railway reach {n}?",
                "In which year was {n} connected to the railway?",
                "Since when has {n} had a railway?",
                "In which year did the railway arrive in {n}?",
            ),
            contrasts=("which the railway reached in {v}",),
        ),
    },
)
