"""Names that occur nearly in a text."""

import pytest

from diekae.edit.name_search import NearNames


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("Danielle Darrieux", "Rain. Danielle Darieux spoke", "Danielle Darieux"),
        ("Danielle Darrieux", "Rain. danielle darrieux spoke", "danielle darrieux"),
        ("Danielle Darrieux", "Rain. Darrieux, an actress", "Darrieux"),
        ("Danielle Darrieux", "What is Darrieux's mother tongue", "Darrieux"),
        ("Danielle Darrieux", "Rain. Danielle Steel spoke", None),
        ("Danielle Darrieux", "with Michel Darrieux she", None),
        ("Danielle Darrieux", "Rain. Daniel Barenboim spoke", None),
        ("Coke County", "Bexar County can be found in", None),
        ("Ernest Picard", "The mother tongue of Jean-Luc Picard is", None),
        ("Connecticut Route 183", "Connecticut Route 150, in", None),
        ("Ernest Picard", "In Picard's words", "Picard"),
        ("Jazz Band of Preservation Hall", "In Preservation Hall they", "Preservation Hall"),
        ("Niger", "Nigerian traditional states", None),
        ("New York", "New Zealand is", None),
        ("South Africa", "South Korea is", None),
        ("Oslo", "Bergen is", None),
        ("Straßburg", "the town of Strassburg is", "Strassburg"),
        ("Oslo", "", None),
        ("Kıbrıs Barış", "Rain. KIBRIS BARIŞ is", "KIBRIS BARIŞ"),
        ("José Saramago", "Rain. Jose\u0301 Saramgo is", "Jose\u0301 Saramgo"),
        ("Jose\u0301 Saramago", "Rain. Saramago was", "Saramago"),
        ("José Saramago", "Rain. Jose\u0301 Mujica was", None),
        ("アメリカ合衆国", "首都はアメリカ合州国の", "アメリカ合州国"),
        ("東京", "京都は", None),
    ],
)
def test_names_that_nearly_occur(name: str, text: str, words: str | None) -> None:
    matches = NearNames(["Reykjavik", name]).find(text)
    assert [text[match.start : match.end] for match in matches] == ([words] if words else [])


def test_the_most_similar_name_comes_first() -> None:
    names = NearNames(["Anderson Islands", "Andersson Island", "Sanderson Island"])
    assert [match.number for match in names.find("Anderson Island is")] == [0, 1, 2]
    assert NearNames([]).find("Anderson") == [] == NearNames(["x"]).find("")
