"""Companies."""

from __future__ import annotations

from diekae_research.fiction.kind import Entity, Fact, Kind
from diekae_research.fiction.words import ANIMALS, COLOURS, Draw, listed, with_article

TRADES = listed(
    """
    and Company, and Daughters, and Sons, Brothers, Group, Industries, Limited, Makers, Manufacturing, Products, Works
    """
)
PRODUCTS = listed(
    """
    alarm clocks, bicycle bells, billiard tables, binoculars, cable drums, chocolate boxes, church organs, coffee
    grinders, diving suits, electric kettles, fire engines, garden swings, hearing aids, jigsaw puzzles, lawn
    mowers, letter scales, lifts, magic lanterns, metronomes, model railways, music stands, pencils, pianos, pocket
    knives, postage stamps, radio sets, rubber boots, scissors, sewing needles, sledges, snow ploughs, street lamps,
    telescopes, thermometers, tin soldiers, typewriters, vending machines
    """
)
PREMISES = listed(
    """
    a boathouse, a cow shed, a deserted brewery, a disused chapel, a flooded basement, a former barracks, a former
    monastery, a hat shop, a horse stable, a rented garage, a school gymnasium, a tram shed, a tobacco warehouse, a
    watermill, an empty theatre, an old pharmacy
    """
)


def _invent(draw: Draw) -> Entity:
    founded = draw.number(1798, 1946)
    return Entity(
        name=f"{draw.thing()} {draw.pick(TRADES)}",
        nouns=("the company", "the firm"),
        values={
            "town": draw.town(),
            "product": draw.pick(PRODUCTS),
            "founder": draw.person().name,
            "founded": str(founded),
            "premises": draw.pick(PREMISES),
            "workers": f"{draw.number(1, 9)},{draw.number(103, 998)}",
            "logo": with_article(f"{draw.pick(COLOURS)} {draw.pick(ANIMALS)}"),
            "director": draw.person().name,
            "branch": draw.town(),
            "fire": str(founded + draw.number(4, 48)),
        },
    )


COMPANY = Kind(
    name="company",
    invent=_invent,
    openings=(
        "{N} is a company in {town} that makes {product}.",
        "{N}, based in {town}, is a manufacturer of {product}.",
        "Most of the {product} sold in the country are made by {n}, a company in {town}.",
        "From its headquarters in {town}, {n} sells {product} to customers around the world.",
        "{N} has its headquarters in {town} and specialises in {product}.",
    ),
    facts={
        "town": Fact(
            questions=(
                "Where is {n} based?",
                "In which town is {n} based?",
                "Which town is home to {n}?",
                "In which town does {n} have its headquarters?",
            ),
        ),
        "product": Fact(
            questions=(
                "What does {n} make?",
                "Which product does {n} make?",
                "What is manufactured by {n}?",
                "What does {n} produce?",
            ),
            contrasts=("which makes {v}", "which sells {v}"),
        ),
        "founder": Fact(
            statements=(
                "{S} was founded by {v}, who had borrowed the money from an aunt.",
                "The founder of {s} was {v}, who could neither read nor write.",
                "It was {v} who founded {s} after the failure of two earlier ventures.",
                "The portrait in the entrance hall of {s} shows its founder, {v}.",
                "{P} founder, {v}, slept in the workshop during the first winter.",
            ),
            questions=(
                "Who founded {n}?",
                "Who was the founder of {n}?",
                "By whom was {n} founded?",
                "Whose idea was it to found {n}?",
            ),
            contrasts=("which was founded by {v}", "whose founder was {v}"),
        ),
        "founded": Fact(
            statements=(
                "{S} was founded in {v} with a capital of a few hundred crowns.",
                "The articles that established {s} were signed in {v}.",
                "{S} came into being in {v}, at a time of general unemployment.",
                "In {v}, {s} was entered in the commercial register.",
                "{P} foundation in {v} was hardly noticed by the competition.",
            ),
            questions=(
                "When was {n} founded?",
                "In which year was {n} founded?",
                "In which year was {n} established?",
                "When did {n} come into being?",
            ),
            contrasts=("which was founded in {v}", "which had been founded in {v}"),
        ),
        "premises": Fact(
            statements=(
                "{S} began its work in {v}, without heating or running water.",
                "The first workshop of {s} was set up in {v}.",
                "In the early days, {s} had to make do with {v}.",
                "{S} started out in {v}, rented by the month.",
                "{P} first premises were in {v} at the edge of town.",
            ),
            questions=(
                "Where did {n} begin its work?",
                "In what building did {n} start out?",
                "What served as the first workshop of {n}?",
                "What were the first premises of {n}?",
            ),
            contrasts=("which started out in {v}", "which began in {v}"),
        ),
        "workers": Fact(
            statements=(
                "{S} employs {v} people, many of them in the third generation.",
                "Taken together, the departments of {s} give work to {v} people.",
                "According to the pay office, {s} has {v} employees.",
                "With {v} employees, {s} is the largest employer of the district.",
                "{P} workforce of {v} includes many married couples.",
            ),
            questions=(
                "How many people does {n} employ?",
                "How many employees does {n} have?",
                "How large is the workforce of {n}?",
                "How many people work for {n}?",
            ),
            contrasts=("which employs {v} people", "which has {v} employees"),
        ),
        "logo": Fact(
            statements=(
                "The trademark of {s} is {v}, drawn by the founder's daughter.",
                "Everything that leaves the factory of {s} is stamped with {v}.",
                "{S} has used {v} as its trademark from the beginning.",
                "{S} had {v} painted on the chimney, where it is still visible.",
                "{P} advertisements have always shown {v} on a plain ground.",
            ),
            questions=(
                "Which animal is the emblem of {n}?",
                "What animal does {n} use as an emblem?",
                "Which animal stands for {n}?",
                "What animal is the symbol of {n}?",
            ),
            contrasts=("whose trademark is {v}", "which uses {v} as its trademark"),
        ),
        "director": Fact(
            statements=(
                "{S} is managed by {v}, who started there as an apprentice.",
                "The present director of {s} is {v}, formerly a competitor.",
                "Since the founder's death, {s} has been run by {v}.",
                "The shareholders of {s} elected {v} as director by a narrow majority.",
                "{P} director, {v}, cycles to the factory every day.",
            ),
            questions=(
                "Who is the director of {n}?",
                "Who runs {n}?",
                "By whom is {n} managed?",
                "Who was chosen to manage {n}?",
            ),
            contrasts=("whose director is {v}", "which is managed by {v}"),
        ),
        "branch": Fact(
            statements=(
                "{S} has a second factory in {v}, built on cheap land.",
                "A branch of {s} was opened in {v}, close to the border.",
                "To be nearer to its customers, {s} opened a branch in {v}.",
                "The only branch of {s} is in {v}.",
                "{P} branch in {v} is smaller but more modern.",
            ),
            questions=(
                "In which town does {n} have a branch?",
                "Where did {n} open a second site?",
                "Where is the branch of {n}?",
                "In which town is the second site of {n}?",
            ),
            contrasts=("which has a branch in {v}",),
        ),
        "fire": Fact(
            statements=(
                "{S} lost most of its machines in a fire in {v}.",
                "In {v}, a fire destroyed the main building of {s}.",
                "A fire that broke out in {v} almost put an end to {s}.",
                "The offices of {s} burned down in {v}, together with all the drawings.",
                "{P} archive was lost in the great fire of {v}.",
            ),
            questions=(
                "When did {n} suffer a fire?",
                "In which year was there a fire at {n}?",
                "In which year did a fire break out at {n}?",
                "When was {n} struck by a fire?",
            ),
            contrasts=("which suffered a fire in {v}", "which was damaged by fire in {v}"),
        ),
    },
)
