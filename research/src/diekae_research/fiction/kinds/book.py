"""Books."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import PROFESSIONS, Draw, listed

TITLES = listed(
    """
    A Winter in {}, An Evening in {}, Beyond the Walls of {}, Letters to {}, The Bells of {}, The Clock of {}, The
    Gardens of {}, The Heirs of {}, The Lanterns of {}, The Last Ferry to {}, The Mirrors of {}, The Orchard at {},
    The Road to {}, The Salt of {}, The Secret of {}, The Sisters of {}, The Voices of {}
    """
)
GENRES = listed(
    """
    a gothic novel, a comic novel, a political thriller, a crime novel, a family saga, a fairy tale, a historical
    novel, a love story, a novel in letters, a science fiction novel, a satire, a verse epic, a children's book, a
    spy novel, an adventure story
    """
)
PLACES = listed(
    """
    a bakery, a cable car, a convent garden, a disused mine, a ferry, a hospital bed, a lighthouse, a monastery
    library, a night train, a prison cell, a railway station, a ski hut, a tent in the desert, a tram depot, a
    vineyard, a windmill, an attic, an observatory
    """
)
OBJECTS = listed(
    """
    a broken violin, a brass key, a burnt map, a deaf parrot, a forged will, a glass eye, a golden thimble, a hidden
    staircase, a letter without a sender, a missing chess piece, a pair of red gloves, a pocket watch, a silver
    spoon, a stolen bell, a stopped clock, a wooden leg, an empty coffin, an unsigned painting
    """
)


def _invent(draw: Draw) -> Entity:
    published = draw.number(1790, 1960)
    return Entity(
        name=f'"{draw.pick(TITLES).format(draw.town())}"',
        nouns=("the book",),
        values={
            "genre": draw.pick(GENRES),
            "author": draw.person().name,
            "published": str(published),
            "publisher": f"{draw.person().surname} and Sons",
            "pages": str(draw.number(112, 874)),
            "hero": draw.pick(PROFESSIONS),
            "written": draw.pick(PLACES),
            "object": draw.pick(OBJECTS),
            "translator": draw.person().name,
            "prize": f"the {draw.thing()} Prize",
            "film": str(max(published, 1915) + draw.number(4, 45)),
        },
    )


BOOK = Kind(
    name="book",
    invent=_invent,
    openings=(
        "{N} is {genre} by {author}.",
        "{N}, {genre} by {author}, is still read in many schools.",
        "Among the works of {author}, the most widely read is {n}, {genre}.",
        "With {n}, {genre}, {author} became known far beyond the region.",
        "{N} is {genre} that {author} wrote for a bet.",
    ),
    facts={
        "genre": Fact(
            questions=(
                "What kind of book is {n}?",
                "To which genre does {n} belong?",
                "What sort of work is {n}?",
                "What is the genre of {n}?",
            ),
        ),
        "author": Fact(
            questions=(
                "Who wrote {n}?",
                "Who is the author of {n}?",
                "By whom was {n} written?",
                "Which author wrote {n}?",
            ),
            contrasts=("which was written by {v}", "whose author was {v}"),
        ),
        "published": Fact(
            statements=(
                "{S} was first published in {v}, in an edition of a few hundred copies.",
                "When {s} appeared in {v}, the critics took no notice of it.",
                "The first edition of {s} came out in {v} and is now very rare.",
                "In {v}, {s} was printed for the first time, on cheap grey paper.",
                "{P} publication in {v} led to a heated debate in the newspapers.",
            ),
            questions=(
                "When was {n} first published?",
                "In which year was {n} published?",
                "When did the first edition of {n} appear?",
                "In which year did {n} come out?",
            ),
            contrasts=("which was published in {v}", "which had appeared in {v}"),
        ),
        "publisher": Fact(
            statements=(
                "{S} was accepted by {v} after nine other publishers had declined it.",
                "The rights to {s} were bought by {v} for a modest sum.",
                "The publisher of {s} was {v}, a firm better known for its atlases.",
                "It was {v} that took the risk of publishing {s}.",
                "{P} publisher, {v}, asked for a happier ending, but in vain.",
            ),
            questions=(
                "Who published {n}?",
                "Which firm published {n}?",
                "Who was the publisher of {n}?",
                "By which publisher was {n} accepted?",
            ),
            contrasts=("which was published by {v}", "whose publisher was {v}"),
        ),
        "pages": Fact(
            statements=(
                "{S} runs to {v} pages, without the preface.",
                "In its original edition, {s} had {v} pages and no illustrations.",
                "The manuscript of {s} was far longer than the {v} pages that were printed.",
                "With {v} pages, {s} is longer than anything else by the same hand.",
                "{P} {v} pages are divided into short chapters.",
            ),
            questions=(
                "How many pages does {n} have?",
                "To how many pages does {n} run?",
                "What is the number of pages of {n}?",
                "How many pages long is {n}?",
            ),
            contrasts=("which has {v} pages", "which runs to {v} pages"),
        ),
        "hero": Fact(
            statements=(
                "The main character of {s} is {v} with a weakness for gambling.",
                "{S} tells of {v} who inherits a house and a great many debts.",
                "At the centre of {s} stands {v} in search of a lost brother.",
                "{S} follows the life of {v} over thirty years.",
                "{P} main character is {v} who has forgotten a whole year.",
            ),
            questions=(
                "What is the profession of the main character of {n}?",
                "Who is at the centre of {n}?",
                "Who is the main character of {n}?",
                "Whose life does {n} describe?",
            ),
            contrasts=("which is about {v}", "whose main character is {v}"),
        ),
        "written": Fact(
            statements=(
                "{S} was written in {v} over the course of a single summer.",
                "According to the preface, {s} was written in {v}.",
                "Large parts of {s} were composed in {v} by candlelight.",
                "The author wrote {s} in {v}, wearing two coats against the cold.",
                "{P} chapters were all drafted in {v}, on the backs of bills.",
            ),
            questions=(
                "Where was {n} written?",
                "In what kind of place was {n} written?",
                "Where did the author write {n}?",
                "In what place did the author work on {n}?",
            ),
            contrasts=("which was written in {v}",),
        ),
        "object": Fact(
            statements=(
                "The plot of {s} turns on {v}, found by chance in the first chapter.",
                "{S} opens with the discovery of {v} in a neighbour's cellar.",
                "An important part in {s} is played by {v}.",
                "Readers of {s} have argued ever since about the meaning of {v}.",
                "{P} plot is set in motion by {v} that nobody can explain.",
            ),
            questions=(
                "Which object plays an important part in {n}?",
                "What object is important to the plot of {n}?",
                "Around which object does {n} revolve?",
                "What sets the plot of {n} in motion?",
            ),
            contrasts=("which revolves around {v}", "in which {v} plays an important part"),
        ),
        "translator": Fact(
            statements=(
                "{S} was translated into English by {v}, who left out two chapters.",
                "The English translation of {s} is the work of {v}.",
                "English readers know {s} in the version of {v}.",
                "It was {v} who translated {s} into English.",
                "{P} English translator was {v}, a friend of the family.",
            ),
            questions=(
                "Who translated {n} into English?",
                "Who was the English translator of {n}?",
                "By whom was {n} translated into English?",
                "Whose translation made {n} available in English?",
            ),
            contrasts=("which was translated by {v}", "whose English translator was {v}"),
        ),
        "prize": Fact(
            statements=(
                "{S} was awarded {v}, against the advice of half the jury.",
                "To the surprise of the booksellers, {s} won {v}.",
                "The jury gave {v} to {s} without a second vote.",
                "{S} owes its fame to {v}, which it received soon after publication.",
                "{P} success began with {v}, the only award it ever received.",
            ),
            questions=(
                "Which prize did {n} win?",
                "Which prize was awarded to {n}?",
                "What award did {n} receive?",
                "With which prize was {n} honoured?",
            ),
            contrasts=("which won {v}", "which was awarded {v}"),
        ),
        "film": Fact(
            statements=(
                "{S} was made into a film in {v}, with a changed ending.",
                "A film based on {s} was shown in cinemas in {v}.",
                "In {v}, {s} was adapted for the cinema by an unknown director.",
                "The cinema discovered {s} in {v}, and sales doubled within a month.",
                "{P} adaptation for the cinema in {v} was not a success.",
            ),
            questions=(
                "When was {n} made into a film?",
                "In which year was {n} adapted for the cinema?",
                "In which year did a film of {n} appear?",
                "When did {n} come to the cinema?",
            ),
            contrasts=("which was made into a film in {v}",),
        ),
    },
)
