"""Animals and birds."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import COLOURS, Draw, listed

LOOKS = listed(
    """
    banded, bearded, web-footed, collared, crested, dwarf, giant, slender, broad-backed, hooded, long-tailed, marsh,
    mottled, mountain, pygmy, long-eared, river, spotted, striped, flat-faced
    """
)
CLASSES = listed(
    """
    bird, frog, lizard, fish, rodent, bat, monkey, snake, beetle, crab, moth, toad
    """
)
HABITATS = listed(
    """
    abandoned quarries, alpine meadows, bamboo thickets, birch forests, brackish lagoons, cloud forests, coastal
    dunes, coral reefs, dry riverbeds, flooded grasslands, granite cliffs, limestone caves, mangrove swamps,
    moss-covered bogs, olive groves, reed beds, rocky islets, salt marshes, thorn scrub
    """
)
DIETS = listed(
    """
    ants, bark, berries, caterpillars, clover, dragonflies, earthworms, fallen figs, fungi, grass seeds, honeydew,
    lichen, mosquitoes, nectar, palm nuts, pollen, rotten wood, slugs, snails, spiders, termites, thistles, tree
    sap, water fleas, wild onions
    """
)
SOUNDS = listed(
    """
    a bouncing ball, a breaking plate, a cork being pulled, a creaking door, a distant foghorn, a dripping tap, a
    kettle on the boil, a rusty hinge, a sewing machine, a sneezing child, a squeaking wheel, a ticking clock, a
    tuning fork, a wooden rattle, an out-of-tune fiddle, marching feet, tearing paper, the striking of a match
    """
)
THREATS = listed(
    """
    artificial light, introduced goats, invasive weeds, lead shot, mining, new roads, oil spills, overfishing,
    poaching, stray cats, the cutting of reeds, the draining of wetlands, the pet trade, the use of pesticides, the
    building of dams, wildfires
    """
)


def _invent(draw: Draw) -> Entity:
    group = draw.pick(CLASSES)
    return Entity(
        name=f"the {draw.pick(LOOKS)} {draw.thing().lower()}",
        nouns=(f"the {group}", "the animal"),
        values={
            "group": group,
            "habitat": draw.pick(HABITATS),
            "discoverer": draw.person().name,
            "described": str(draw.number(1758, 1969)),
            "size": f"{draw.number(6, 54)} centimetres",
            "diet": draw.pick(DIETS),
            "marking": draw.pick(COLOURS),
            "sound": draw.pick(SOUNDS),
            "threat": draw.pick(THREATS),
            "lifespan": f"{draw.number(2, 49)} years",
            "place": f"the {draw.thing()} Islands",
        },
    )


SPECIES = Kind(
    name="species",
    invent=_invent,
    openings=(
        "{N} is a {group} found only on {place}.",
        "{N} is a shy {group} that is native to {place}.",
        "On {place} lives {n}, a {group} seldom seen by day.",
        "{N} is a little-known {group} that occurs nowhere but on {place}.",
        "Of the animals of {place}, none is as hard to observe as {n}, a nocturnal {group}.",
    ),
    leads=(
        "{S} should not be confused with {o}, {c}.",
        "{S} is often mistaken for {o}, {c}.",
        "The closest relative of {s} is {o}, {c}.",
        "{S} shares its range with {o}, {c}.",
        "Much rarer still is {o}, {c}.",
    ),
    facts={
        "group": Fact(
            questions=(
                "What kind of animal is {n}?",
                "Which sort of animal is {n}?",
                "To which kind of animals does {n} belong?",
                "What sort of creature is {n}?",
            ),
        ),
        "place": Fact(
            questions=(
                "Where does {n} live?",
                "On which islands is {n} found?",
                "To which islands is {n} native?",
                "On which islands does {n} occur?",
            ),
        ),
        "habitat": Fact(
            statements=(
                "{S} lives in {v} and avoids the neighbourhood of people.",
                "The preferred habitat of {s} consists of {v}.",
                "In its home, {s} is restricted to {v}.",
                "{S} breeds in {v}, where few enemies can reach it.",
                "{P} habitat consists of {v} and their immediate surroundings.",
            ),
            questions=(
                "What is the habitat of {n}?",
                "In what kind of habitat does {n} live?",
                "Which habitat does {n} prefer?",
                "What kind of habitat does {n} need?",
            ),
            contrasts=("which lives in {v}", "which is found in {v}"),
        ),
        "discoverer": Fact(
            statements=(
                "{S} was discovered by {v}, who had been looking for something else.",
                "The discovery of {s} was made by {v}, with nothing but a hat for a net.",
                "Credit for finding {s} belongs to {v}, who had a fever at the time.",
                "Science owes the discovery of {s} to {v}.",
                "{P} discoverer, {v}, kept it for a time in a bathtub.",
            ),
            questions=(
                "Who discovered {n}?",
                "By whom was {n} discovered?",
                "Who was the discoverer of {n}?",
                "To whom does science owe the discovery of {n}?",
            ),
            contrasts=("which was discovered by {v}", "whose discoverer was {v}"),
        ),
        "described": Fact(
            statements=(
                "{S} was first described in {v} from a single specimen.",
                "The first scientific description of {s} appeared in {v}.",
                "In {v}, {s} was recognised as a separate species.",
                "Until it was described in {v}, {s} was known only to fishermen.",
                "{P} scientific description dates from {v} and contains several errors.",
            ),
            questions=(
                "When was {n} first described?",
                "In which year was {n} described?",
                "From which year does the description of {n} date?",
                "When did {n} become known to science?",
            ),
            contrasts=("which was described in {v}", "which was first described in {v}"),
        ),
        "size": Fact(
            statements=(
                "{S} reaches a length of {v} when fully grown.",
                "On average, {s} measures {v} from end to end.",
                "The largest known specimen of {s} was {v} long.",
                "With a length of {v}, {s} is larger than its relatives on the mainland.",
                "{P} body length of {v} was long thought to be exaggerated.",
            ),
            questions=(
                "How long is {n}?",
                "What length does {n} reach?",
                "What is the length of {n}?",
                "How large does {n} become?",
            ),
            contrasts=("which reaches {v}", "which grows to {v}"),
        ),
        "diet": Fact(
            statements=(
                "{S} feeds almost exclusively on {v}.",
                "The diet of {s} consists of {v}, taken shortly before dawn.",
                "When food is plentiful, {s} eats nothing but {v}.",
                "In captivity, {s} refuses everything except {v}.",
                "{P} favourite food is {v}, found by smell.",
            ),
            questions=(
                "What does {n} feed on?",
                "What does {n} eat?",
                "What does the diet of {n} consist of?",
                "What is the food of {n}?",
            ),
            contrasts=("which feeds on {v}", "which eats {v}"),
        ),
        "marking": Fact(
            statements=(
                "{S} can be recognised by {a} {v} belly.",
                "{A} {v} belly distinguishes {s} from all its relatives.",
                "Adults of {s} have {a} {v} belly, which fades with age.",
                "In the breeding season, the belly of {s} turns {v}.",
                "{P} most striking feature is {a} {v} belly.",
            ),
            questions=(
                "What colour is the belly of {n}?",
                "Which colour is the belly of {n}?",
                "What is the colour of the belly of {n}?",
                "Of which colour is the belly of {n}?",
            ),
            contrasts=("which has {a} {v} belly", "which can be told by its {v} belly"),
        ),
        "sound": Fact(
            statements=(
                "{S} makes a sound like {v}, which carries for miles.",
                "At night, the voice of {s} resembles {v}.",
                "When it is disturbed, {s} utters a noise that recalls {v}.",
                "The call of {s} has been compared to {v}.",
                "{P} call is easily taken for {v}.",
            ),
            questions=(
                "What does the call of {n} sound like?",
                "What does the voice of {n} resemble?",
                "To what has the sound of {n} been compared?",
                "What is the sound made by {n} like?",
            ),
            contrasts=("whose call sounds like {v}", "whose voice resembles {v}"),
        ),
        "threat": Fact(
            statements=(
                "{S} is threatened above all by {v}.",
                "The numbers of {s} have fallen sharply because of {v}.",
                "Conservationists regard {v} as the main danger to {s}.",
                "Since the last survey, {s} has become rarer as a result of {v}.",
                "{P} survival is put at risk by {v}, in spite of strict laws.",
            ),
            questions=(
                "What threatens {n}?",
                "By what is {n} threatened?",
                "What is the main danger to {n}?",
                "What puts {n} at risk?",
            ),
            contrasts=("which is threatened by {v}", "which suffers from {v}"),
        ),
        "lifespan": Fact(
            statements=(
                "{S} may live for {v}, longer than most of its relatives.",
                "The oldest known specimen of {s} reached an age of {v}.",
                "In zoos, {s} has been known to live for {v}.",
                "An age of {v} has been recorded for {s}.",
                "{P} life span of {v} is a matter of wonder to zoologists.",
            ),
            questions=(
                "How old can {n} become?",
                "How long can {n} live?",
                "What age can {n} reach?",
                "What is the life span of {n}?",
            ),
            contrasts=("which may live for {v}", "which can reach an age of {v}"),
        ),
    },
)
