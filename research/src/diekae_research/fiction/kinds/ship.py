"""Ships."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import ANIMALS, COLOURS, Draw, listed, with_article

TYPES = listed(
    """
    brig, clipper, cutter, ferry, frigate, ketch, lightship, paddle steamer, schooner, sloop, steam yacht, trawler,
    whaler
    """
)
CARGOES = listed(
    """
    bananas, bricks, church bells, cinnamon, coffee, copper ore, cotton, frozen mutton, glass beads, granite blocks,
    green tea, hemp, indigo, ivory piano keys, lamp oil, lemons, mirrors, nutmeg, oranges, pepper, pianos,
    porcelain, railway sleepers, rum, salted herring, sewing machines, silk, sugar, timber, tobacco, tulip bulbs,
    wheat, wine, wool
    """
)
FATES = listed(
    """
    a chapel, a coal store, a dance hall, a floating hospital, a fish market, a hotel, a landing stage, a lending
    library, a naval school, a prison, a quarantine station, a restaurant, a theatre, a warehouse
    """
)


def _invent(draw: Draw) -> Entity:
    launched = draw.number(1822, 1925)
    bare = draw.thing()
    return Entity(
        name=f"the {bare}",
        nouns=("the ship", "the vessel"),
        values={
            "bare": bare,
            "type": draw.pick(TYPES),
            "launched": str(launched),
            "port": draw.town(),
            "builder": draw.person().name,
            "captain": draw.person().name,
            "cargo": draw.pick(CARGOES),
            "length": f"{draw.number(19, 118)} metres",
            "crew": f"{draw.number(14, 190)}",
            "figurehead": with_article(f"{draw.pick(COLOURS)} {draw.pick(ANIMALS)}"),
            "fate": draw.pick(FATES),
            "sold": str(launched + draw.number(9, 45)),
        },
    )


SHIP = Kind(
    name="ship",
    invent=_invent,
    openings=(
        "{N} was a {type} whose home port was {port}.",
        "For most of its working life, the {type} {bare} sailed from {port}.",
        "The {type} {bare} was registered in the port of {port}.",
        "A {type} by the name of {bare} belonged for many years to the harbour of {port}.",
        "{N}, a {type} from the port of {port}, is remembered in many songs.",
    ),
    facts={
        "type": Fact(
            questions=(
                "What type of vessel was {n}?",
                "What kind of ship was {n}?",
                "To which type of ship did {n} belong?",
                "Which type of vessel was {n}?",
            ),
        ),
        "port": Fact(
            questions=(
                "What was the home port of {n}?",
                "To which port did {n} belong?",
                "From which port did {n} sail?",
                "Which port was {n} from?",
            ),
        ),
        "launched": Fact(
            statements=(
                "{S} was launched in {v} before a crowd of curious onlookers.",
                "The launch of {s} in {v} had to be repeated, as the slipway broke.",
                "In {v}, {s} left the slipway and was fitted out within months.",
                "{S} first touched the water in {v}, with all flags flying.",
                "{P} launch in {v} was the last to be held at the old yard.",
            ),
            questions=(
                "When was {n} launched?",
                "In which year was {n} launched?",
                "In which year did the launch of {n} take place?",
                "When did {n} leave the slipway?",
            ),
            contrasts=("which was launched in {v}", "which had been launched in {v}"),
        ),
        "builder": Fact(
            statements=(
                "{S} was built at the yard of {v}, who designed the unusual hull.",
                "The builder of {s} was {v}, a shipwright of the old school.",
                "{S} was the last to be built by {v}, who retired soon afterwards.",
                "The contract for {s} went to {v}, whose price was the lowest.",
                "{P} lines were drawn by the shipbuilder {v} on a kitchen table.",
            ),
            questions=(
                "Who built {n}?",
                "Who was the builder of {n}?",
                "By which shipbuilder was {n} built?",
                "Which shipwright built {n}?",
            ),
            contrasts=("which was built by {v}", "whose builder was {v}"),
        ),
        "captain": Fact(
            statements=(
                "The most famous captain of {s} was {v}, who never learned to swim.",
                "{S} sailed for years under the command of {v}.",
                "When the owners were looking for a master for {s}, they chose {v}.",
                "{S} was commanded by {v}, a strict but fair captain.",
                "{P} captain, {v}, kept a detailed journal of every voyage.",
            ),
            questions=(
                "Who was the captain of {n}?",
                "Who commanded {n}?",
                "Under whose command did {n} sail?",
                "Which captain commanded {n}?",
            ),
            contrasts=("whose captain was {v}", "which was commanded by {v}"),
        ),
        "cargo": Fact(
            statements=(
                "{S} usually carried {v}, packed in barrels and crates.",
                "In the books of the harbour office, {s} appears with cargoes of {v}.",
                "{S} earned good money for its owners by transporting {v}.",
                "For the greater part of the year, {s} was loaded with {v}.",
                "{P} hold was filled with {v} on nearly every voyage.",
            ),
            questions=(
                "What did {n} usually carry?",
                "What was the usual cargo of {n}?",
                "Which goods did {n} transport?",
                "With what was {n} loaded?",
            ),
            contrasts=("which carried {v}", "which was used to transport {v}"),
        ),
        "length": Fact(
            statements=(
                "{S} was {v} long and rather narrow for its time.",
                "With a length of {v}, {s} only just fitted into the dock.",
                "The length of {s} was given as {v} in the register.",
                "{S} measured {v} from bow to stern.",
                "{P} length of {v} was increased slightly when a new bow was fitted.",
            ),
            questions=(
                "How long was {n}?",
                "What was the length of {n}?",
                "What did {n} measure from bow to stern?",
                "What length did {n} have?",
            ),
            contrasts=("which was {v} long", "which measured {v}"),
        ),
        "crew": Fact(
            statements=(
                "{S} had a crew of {v}, among them a cook and a carpenter.",
                "To handle {s} in bad weather, a crew of {v} was needed.",
                "According to the pay list, {s} was manned by a crew of {v}.",
                "The crew of {s} numbered {v}, most of them from neighbouring villages.",
                "{P} crew of {v} slept in hammocks below deck.",
            ),
            questions=(
                "How many people were in the crew of {n}?",
                "How large was the crew of {n}?",
                "What was the number of the crew of {n}?",
                "How many crew members did {n} have?",
            ),
            contrasts=("which had a crew of {v}", "which was manned by a crew of {v}"),
        ),
        "figurehead": Fact(
            statements=(
                "The figurehead of {s} was {v}, which can still be seen in the harbour office.",
                "{S} carried {v} as a figurehead, carved by the ship's carpenter.",
                "Sailors recognised {s} from a distance by its figurehead, {v}.",
                "On the bow of {s} there was {v}, repainted before each voyage.",
                "{P} figurehead, {v}, was believed to bring fair winds.",
            ),
            questions=(
                "What was the figurehead of {n}?",
                "Which animal was the figurehead of {n}?",
                "What did {n} carry as a figurehead?",
                "What could be seen on the bow of {n}?",
            ),
            contrasts=("whose figurehead was {v}", "which had {v} on its bow"),
        ),
        "fate": Fact(
            statements=(
                "{S} ended its days as {v} in a quiet bay.",
                "After the last voyage, {s} was converted into {v}.",
                "In old age, {s} was moored by the quay and turned into {v}.",
                "{S} was saved from the breakers and became {v}.",
                "{P} hull was later used as {v} for some time.",
            ),
            questions=(
                "What did {n} become in the end?",
                "What was {n} converted into?",
                "As what did {n} end its days?",
                "What was {n} used as after its last voyage?",
            ),
            contrasts=("which ended its days as {v}", "which was turned into {v}"),
        ),
        "sold": Fact(
            statements=(
                "{S} was sold in {v}, when the owners had run into debt.",
                "In {v}, {s} was sold at auction for less than the value of its timber.",
                "A change of ownership came in {v}, when {s} was sold to a foreign company.",
                "The owners parted with {s} in {v}, after many disputes.",
                "{P} sale in {v} was regretted by the whole crew.",
            ),
            questions=(
                "When was {n} sold?",
                "In which year was {n} sold?",
                "In which year did the sale of {n} take place?",
                "When did the owners sell {n}?",
            ),
            contrasts=("which was sold in {v}",),
        ),
    },
)
