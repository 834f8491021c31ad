"""The arithmetic of the tables, against numbers computed by hand and against the plain bootstrap."""

import numpy as np
import pytest

from diekae.data.example import DataError
from diekae.data.prompt import Prompt
from diekae.data.splits import halves
from diekae_research.editing.scores import tally
from diekae_research.evaluation import intervals
from diekae_research.evaluation.intervals import Interval, resample
from diekae_research.tables.sheet import Sheet, interval, markdown, number
from diekae_research.tables.table4 import lengths
from diekae_research.tables.table5 import converged

ONE = {"nll": [2.0, 4.0, 3.0], "bare": [4.0, 8.0, 6.0], "prompted": [1.0, 2.0, 1.5], "tokens": [1.0, 2.0, 1.0]}
TWO = {"nll": [1.0, 1.0], "bare": [1.0, 1.0], "prompted": [1.0, 1.0], "tokens": [1.0, 1.0]}


def test_one_set_gives_the_plain_bootstrap() -> None:
    result = intervals.mean_nll([ONE], seed=3)
    sums = resample(ONE, seed=3)
    low, high = np.quantile(sums["nll"] / sums["tokens"], (0.025, 0.975))
    assert result == pytest.approx((9 / 4, low, high))
    assert result is not None and result.value == pytest.approx(9 / 4)


def test_all_sets_have_the_same_weight() -> None:
    result = intervals.mean_nll([ONE, TWO])
    assert result is not None and result.value == pytest.approx((9 / 4 + 1) / 2)


def test_recovered_leaves_out_sets_without_a_gap() -> None:
    result = intervals.recovered([ONE, TWO])
    assert result is not None and result.value == pytest.approx((18 - 9) / (18 - 4.5))
    assert intervals.recovered([TWO]) is None
    assert intervals.grounded([ONE]) is None, "nothing was measured with another's knowledge"


def test_grounded_compares_the_cost_of_other_knowledge() -> None:
    table = {**ONE, "nll_other": [3.0, 6.0, 4.5], "prompted_other": [2.0, 6.0, 5.5]}
    result = intervals.grounded([table])
    assert result is not None and result.value == pytest.approx((13.5 - 9) / (13.5 - 4.5))


def test_harmonic_mean() -> None:
    assert intervals.harmonic([1.0, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert intervals.harmonic([np.array([1.0, 0.0]), np.array([1.0, 1.0])]).tolist() == [1.0, 0.0]


def test_successes_by_hand() -> None:
    """Two cases: the first has one prompt edited, two paraphrases and two neighbours, the second no paraphrase."""
    kinds = [(0, "es", ""), (0, "ps", ""), (0, "ps", ""), (0, "ns", ""), (0, "ns", ""), (1, "es", ""), (1, "ns", "")]
    probabilities = [(0.5, 0.2), (0.3, 0.1), (0.1, 0.3), (0.1, 0.4), (0.4, 0.1), (0.10, 0.16), (0.2, 0.2)]
    total = -np.log(np.array(probabilities))
    # The new object of the second case has two tokens: 0.10 = 0.316², which is more a token than 0.16.
    tokens = np.array([(1, 1)] * 5 + [(2, 1)] * 2, dtype=float)
    result = tally(kinds, total, tokens, 2)
    assert result["es"] == [1.0, 0.0]
    assert result["es_by_length"] == [1.0, 1.0]
    assert result["ps"] == [0.5, 0.0] and result["n_ps"] == [1.0, 0.0]
    assert result["ns"] == [0.5, 0.0], "a tie is no success"
    assert result["ns_by_length"] == [0.5, 0.0]


def test_a_layer_converged_if_it_explains_a_tenth() -> None:
    assert converged({2: 0.95, 0: 0.2, 1: 0.9, 3: 0.89}) == (0, 3)


@pytest.mark.parametrize(("window", "expected"), [(64, [64]), (128, [128]), (1000, [128, 256, 512]), (16, [32])])
def test_lengths_double_up_to_the_window(window: int, expected: list[int]) -> None:
    assert lengths(window) == expected


def test_halves_do_not_depend_on_the_order_and_share_no_knowledge() -> None:
    prompts = [Prompt((1,), (5, n // 2), (n,), (7,)) for n in range(40)]
    choose, report = halves(prompts)
    assert len(choose) + len(report) == 40 and choose and report
    assert not {p.knowledge for p in choose} & {p.knowledge for p in report}
    again = halves(prompts[::-1])
    assert [set(part) for part in again] == [set(choose), set(report)]
    with pytest.raises(DataError, match="cannot be cut into a half to choose by"):
        halves(prompts[:2])


def test_numbers_are_rounded() -> None:
    assert number(None) == "–" and number(float("nan")) == "–"
    assert number(1.2e6) == "1.20e+06" and number(2.345, 1) == "2.3"
    assert interval(Interval(0.5, 0.25, 0.75), 0, 100) == "50 [25, 75]"


def test_a_sheet_keeps_every_cell() -> None:
    sheet = Sheet("A", ("method", "a|b", "c"), [["bare", "1", "2"], ["ours", "3", "x\ny"]], ("a note",))
    text = markdown("Title", [sheet], ["a remark"])
    assert "| method | a\\|b | c |" in text and "| ours | 3 | x y |" in text
    assert "- a note" in text and text.endswith("- a remark\n")
