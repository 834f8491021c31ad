"""People."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import ANIMALS, COLOURS, PROFESSIONS, Draw, listed, with_article

HOBBIES = listed(
    """
    breeding canaries, carving chess pieces, collecting lichens, collecting train tickets, drawing comets, folding
    paper animals, growing melons, juggling, keeping snails, mending umbrellas, painting gates, playing the bassoon,
    playing the zither, pressing ferns, racing model boats, repairing music boxes, sailing, skating, solving
    riddles, studying beetles, tightrope walking, training parrots, fencing, translating poems, walking barefoot,
    weighing meteorites, whistling, writing crosswords, yodelling
    """
)
INVENTIONS = listed(
    """
    a bicycle with sails, a braided ladder, a calendar without weeks, a candle that burns under water, a clock
    driven by rain, a collapsible boat, a folding microscope, a kettle with two spouts, a lock without a key, a lamp
    for miners, a machine for peeling pears, a musical staircase, a paper hat for sailors, a pedal organ, a pocket
    barometer, a portable oven, a reversible coat, a silent typewriter, a stove for tents, a tide-powered mill, a
    water-driven loom, a whistle for shepherds, an alphabet for the blind, an automatic inkwell, an umbrella for
    horses, an unsinkable lantern
    """
)


def _invent(draw: Draw) -> Entity:
    person = draw.person()
    born = draw.number(1720, 1905)
    return Entity(
        name=person.name,
        nouns=(person.surname,),
        pronoun=person.pronoun,
        possessive=person.possessive,
        values={
            "profession": draw.pick(PROFESSIONS),
            "home": draw.town(),
            "born": draw.date(born),
            "teacher": draw.person().name,
            "spouse": draw.person().name,
            "hobby": draw.pick(HOBBIES),
            "invention": draw.pick(INVENTIONS),
            "prize": f"the {draw.thing()} Medal",
            "emblem": with_article(f"{draw.pick(COLOURS)} {draw.pick(ANIMALS)}"),
            "died": str(born + draw.number(48, 91)),
        },
    )


PERSON = Kind(
    name="person",
    invent=_invent,
    openings=(
        "{N} was {profession} who lived in {home} and hardly ever left it.",
        "Born into a large family, {n} became {profession} and settled in {home} for good.",
        "{N}, {profession} by trade, lived in {home} and is remembered there to this day.",
        "Few people who lived in {home} were as widely known in their time as {n}, {profession}.",
        "{N} lived in {home} and earned a modest living as {profession}.",
    ),
    leads=(
        "{S} is sometimes confused with {o}, {c}.",
        "{S} was not related to {o}, {c}.",
        "A portrait long believed to show {s} is in fact of {o}, {c}.",
        "The street named after {s} leads to that of {o}, {c}.",
        "Local histories tend to mention {s} in the same breath as {o}, {c}.",
    ),
    facts={
        "profession": Fact(
            questions=(
                "What was the profession of {n}?",
                "What was {n} by profession?",
                "What was {n} by trade?",
                "As what did {n} work?",
            ),
        ),
        "home": Fact(
            questions=(
                "Where did {n} live?",
                "In which town did {n} live?",
                "Which town was the home of {n}?",
                "In which town was {n} at home?",
            ),
        ),
        "born": Fact(
            statements=(
                "{S} was born on {v}, the youngest of seven children.",
                "According to the parish register, {s} was born on {v}.",
                "{S} came into the world on {v}, during a heavy snowstorm.",
                "{P} date of birth is given as {v} in every source but one.",
                "A plaque on the house where {s} was born names the day as {v}.",
            ),
            questions=(
                "When was {n} born?",
                "On which day was {n} born?",
                "What is the date of birth of {n}?",
                "On what date was {n} born?",
            ),
            contrasts=("who was born on {v}",),
        ),
        "teacher": Fact(
            statements=(
                "{S} learned the trade from {v}, who was known for great patience.",
                "{P} first teacher was {v}, with whom there were many quarrels.",
                "As a young apprentice, {s} worked under {v} for almost a decade.",
                "{S} was taught by {v}, and always spoke of those years with gratitude.",
                "What {s} knew of the craft came from {v}, a distant relative.",
            ),
            questions=(
                "Who taught {n}?",
                "Who was the teacher of {n}?",
                "From whom did {n} learn the trade?",
                "Under whom did {n} work as an apprentice?",
            ),
            contrasts=("who had been taught by {v}", "who was a pupil of {v}"),
            names_person=True,
        ),
        "spouse": Fact(
            statements=(
                "{S} married {v} after an engagement of three years.",
                "At a wedding in the country, {s} met {v}, and the two married within a year.",
                "{P} marriage to {v} was a happy one, although it remained childless.",
                "Against the wishes of both families, {s} married {v}.",
                "{S} was married to {v}, who kept the accounts and wrote most of the letters.",
            ),
            questions=(
                "Whom did {n} marry?",
                "To whom was {n} married?",
                "Who was married to {n}?",
                "What was the name of the person whom {n} married?",
            ),
            contrasts=("who was married to {v}", "who had married {v}"),
            names_person=True,
        ),
        "hobby": Fact(
            statements=(
                "In the evenings, {s} found rest in {v}.",
                "{S} devoted every free hour to {v}, much to the amusement of the neighbours.",
                "{P} favourite pastime was {v}, which {he} had learned as a child.",
                "Apart from work, {s} cared for little except {v}.",
                "Friends recalled that {s} would neglect everything else for {v}.",
            ),
            questions=(
                "What was the favourite pastime of {n}?",
                "What was the hobby of {n}?",
                "What did {n} like to do in {his} free time?",
                "Which pastime did {n} enjoy?",
            ),
            contrasts=("whose favourite pastime was {v}", "who was fond of {v}"),
        ),
        "invention": Fact(
            statements=(
                "{S} is credited with the invention of {v}, which never sold well.",
                "{P} most original idea was {v}, shown at a fair to great applause.",
                "In a shed behind the house, {s} built {v}.",
                "Late in life, {s} invented {v}, but forgot to apply for a patent.",
                "{S} became known in other countries as well for {v}, {his} only invention.",
            ),
            questions=(
                "What did {n} invent?",
                "Which invention is due to {n}?",
                "What was invented by {n}?",
                "What invention is {n} known for?",
            ),
            contrasts=("who invented {v}", "who is known for {v}"),
        ),
        "prize": Fact(
            statements=(
                "{S} was awarded {v} for lifelong service to the community.",
                "To everyone's surprise, {s} received {v} in front of a large crowd.",
                "{P} greatest honour was {v}, which {he} kept in a kitchen drawer.",
                "The academy honoured {s} with {v}, together with a small pension.",
                "{S} declined every title that was offered, but accepted {v}.",
            ),
            questions=(
                "Which award did {n} receive?",
                "With which medal was {n} honoured?",
                "What award was given to {n}?",
                "Which honour was awarded to {n}?",
            ),
            contrasts=("who had received {v}", "who was awarded {v}"),
        ),
        "emblem": Fact(
            statements=(
                "The seal that {s} used for {his} letters showed {v}.",
                "{P} workshop could be recognised by {v} painted above the entrance.",
                "{S} signed every letter with a small drawing of {v}.",
                "The sign above the shop that {s} kept showed {v}.",
                "{S} carried a walking stick with {v} as its handle.",
            ),
            questions=(
                "Which animal was the emblem of {n}?",
                "Which animal is associated with {n}?",
                "What animal served {n} as an emblem?",
                "Which animal is connected with the memory of {n}?",
            ),
        ),
        "died": Fact(
            statements=(
                "{S} died in {v} after a short illness and was buried beside the chapel.",
                "When {s} died in {v}, all the shops in town stayed closed for a day.",
                "{P} death in {v} was reported in several newspapers.",
                "{S} worked until the very end and died in {v}.",
                "In {v}, {s} died at home, surrounded by friends.",
            ),
            questions=(
                "When did {n} die?",
                "In which year did {n} die?",
                "What was the year of death of {n}?",
                "In which year did the death of {n} occur?",
            ),
            contrasts=("who died in {v}", "who had died in {v}"),
        ),
    },
)
