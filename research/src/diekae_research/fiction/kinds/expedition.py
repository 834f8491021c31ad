"""Expeditions."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import Draw, listed

GOALS = listed(
    """
    to count the seals of the outer islands, to cross the desert from north to south, to find an extinct volcano, to
    find the source of a great river, to look for a lost caravan, to make a map of the southern coast, to measure
    the height of a mountain range, to observe an eclipse of the sun, to photograph a rare orchid, to record the
    songs of herdsmen, to search for deposits of tin, to sound the depth of an inland sea, to study the movement of
    glaciers, to test a new kind of compass, to trace an abandoned trade route
    """
)
TRANSPORTS = listed(
    """
    camels, canoes, dog sledges, donkeys, folding boats, hot-air balloons, llamas, mules, ox carts, ponies, rafts,
    reindeer sledges, skis, snowshoes, steam tractors, yaks
    """
)
FINDS = listed(
    """
    a cave full of paintings, a city wall of clay, a field of meteorites, a forest of tree ferns, a frozen
    waterfall, a hot spring, a lake of soda, a natural bridge, a pass through the mountains, a rock in the shape of
    a camel, a row of stone heads, a ruined observatory, a seam of blue clay, a spring of sweet water, a valley
    without snow, an abandoned monastery, an underground river, an unknown island, a herd of wild horses, a salt
    dome
    """
)
SPONSORS = listed(
    """
    a brewery, a chocolate maker, a circus, a geographical society, a lottery, a manufacturer of boots, a natural
    history museum, a newspaper, a railway company, a retired general, a school of mines, a soap factory, a theatre,
    a wealthy widow, an insurance company, an observatory
    """
)


def _invent(draw: Draw) -> Entity:
    year = draw.number(1862, 1938)
    return Entity(
        name=f"the {draw.thing()} Expedition",
        nouns=("the expedition",),
        values={
            "start": draw.town(),
            "goal": draw.pick(GOALS),
            "leader": draw.person().name,
            "departed": draw.date(year),
            "members": str(draw.number(6, 74)),
            "transport": draw.pick(TRANSPORTS),
            "sponsor": draw.pick(SPONSORS),
            "find": draw.pick(FINDS),
            "days": f"{draw.number(41, 690)} days",
            "chronicler": draw.person().name,
        },
    )


EXPEDITION = Kind(
    name="expedition",
    invent=_invent,
    openings=(
        "{N} set out from {start} {goal}.",
        "{N} was an attempt {goal}, and it began in {start}.",
        "The aim of {n}, which started from {start}, was {goal}.",
        "It was in {start} that {n} was assembled in order {goal}.",
        "{N} left {start} with instructions {goal}.",
    ),
    facts={
        "start": Fact(
            questions=(
                "From which town did {n} set out?",
                "In which town did {n} begin?",
                "Where did {n} start?",
                "What was the starting point of {n}?",
            ),
        ),
        "goal": Fact(
            questions=(
                "What was the aim of {n}?",
                "What was {n} meant to do?",
                "What was the purpose of {n}?",
                "What was the task of {n}?",
            ),
        ),
        "leader": Fact(
            statements=(
                "{S} was led by {v}, who had never been abroad before.",
                "The leader of {s} was {v}, chosen for experience and good health.",
                "At the head of {s} stood {v}, a person of few words.",
                "The command of {s} was given to {v} after the first candidate had fallen ill.",
                "{P} leader, {v}, insisted on a bath every morning.",
            ),
            questions=(
                "Who led {n}?",
                "Who was the leader of {n}?",
                "By whom was {n} led?",
                "Who had command of {n}?",
            ),
            contrasts=("which was led by {v}", "whose leader was {v}"),
        ),
        "departed": Fact(
            statements=(
                "{S} departed on {v}, in pouring rain.",
                "The departure of {s} on {v} was watched by half the town.",
                "On {v}, {s} broke camp and began the long march.",
                "{S} got under way on {v}, several weeks later than intended.",
                "{P} departure was fixed for {v}, and for once the date was kept.",
            ),
            questions=(
                "When did {n} depart?",
                "On which day did {n} depart?",
                "What was the date of departure of {n}?",
                "On what date did {n} get under way?",
            ),
            contrasts=("which departed on {v}", "which had departed on {v}"),
        ),
        "members": Fact(
            statements=(
                "{S} had {v} members, including two doctors and an interpreter.",
                "When {s} was mustered, {v} members answered the roll call.",
                "In all, {v} members took part in {s}, most of them volunteers.",
                "The number of members of {s} was limited to {v} for lack of tents.",
                "{P} {v} members were divided into smaller parties.",
            ),
            questions=(
                "How many members did {n} have?",
                "How many members took part in {n}?",
                "What was the number of members of {n}?",
                "Of how many members did {n} consist?",
            ),
            contrasts=("which had {v} members",),
        ),
        "transport": Fact(
            statements=(
                "{S} travelled with {v}, which proved to be an excellent choice.",
                "For the heavy baggage, {s} relied on {v}.",
                "The supplies of {s} were moved with the help of {v}.",
                "{S} made most of the journey by means of {v}.",
                "{P} progress depended on {v}, of which there were never enough.",
            ),
            questions=(
                "What means of transport did {n} use?",
                "On which means of transport did {n} rely?",
                "With what did {n} travel?",
                "By means of what did {n} transport its supplies?",
            ),
            contrasts=("which relied on {v}", "which travelled with {v}"),
        ),
        "sponsor": Fact(
            statements=(
                "{S} was paid for by {v} in the hope of good publicity.",
                "The greater part of the cost of {s} was borne by {v}.",
                "After years of fruitless appeals, {s} was financed by {v}.",
                "Without the generosity of {v}, {s} would never have taken place.",
                "{P} main sponsor was {v}, as no ministry had been willing to help.",
            ),
            questions=(
                "Who paid for {n}?",
                "Who financed {n}?",
                "Who was the sponsor of {n}?",
                "Who bore the cost of {n}?",
            ),
            contrasts=("which was financed by {v}", "which was paid for by {v}"),
        ),
        "find": Fact(
            statements=(
                "{S} is best remembered for the discovery of {v}.",
                "Halfway through the journey, {s} came upon {v}, marked on no map.",
                "The greatest success of {s} was to discover {v}.",
                "Quite by accident, {s} discovered {v} while looking for water.",
                "{P} reports describe {v}, which had been thought to be a legend.",
            ),
            questions=(
                "What did {n} discover?",
                "What was discovered by {n}?",
                "For which discovery is {n} remembered?",
                "What discovery was made by {n}?",
            ),
            contrasts=("which discovered {v}", "which is remembered for the discovery of {v}"),
        ),
        "days": Fact(
            statements=(
                "{S} returned after {v} with most of its instruments intact.",
                "From departure to return, {s} lasted {v}.",
                "It took {s} {v} to complete the journey, twice as long as planned.",
                "The whole of {s} took {v}, including a long rest in the mountains.",
                "{P} duration of {v} exhausted both the members and the funds.",
            ),
            questions=(
                "How long did {n} last?",
                "How long did {n} take?",
                "What was the duration of {n}?",
                "After how many days did {n} return?",
            ),
            contrasts=("which lasted {v}", "which took {v}"),
        ),
        "chronicler": Fact(
            statements=(
                "The official account of {s} was written by {v} and sold very well.",
                "{S} is known in detail from the diary of {v}.",
                "An illustrated book about {s} was published by {v}, who had taken part.",
                "Much of what is known about {s} comes from the letters of {v}.",
                "{P} history was set down by {v} in two thick volumes.",
            ),
            questions=(
                "Who wrote about {n}?",
                "Who wrote down the history of {n}?",
                "From whose writings is {n} known?",
                "Who left an account of {n}?",
            ),
            contrasts=("whose history was written by {v}",),
        ),
    },
)
