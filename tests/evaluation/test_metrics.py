"""Measures, against values computed by hand."""

import math

import pytest

from diekae.evaluation.metrics import LEAST_GAP, Scores, mean_defined, perplexity


def test_recovered_is_the_share_of_the_gap() -> None:
    # D(x) 5 nats, D(K, x) 1 nat: a gap of 4, of which 3 are closed.
    assert Scores(bare=5.0, prompted=1.0, ours=2.0).recovered == 0.75
    assert Scores(bare=5.0, prompted=1.0, ours=5.0).recovered == 0.0
    assert Scores(bare=5.0, prompted=1.0, ours=1.0).recovered == 1.0
    assert Scores(bare=5.0, prompted=1.0, ours=7.0).recovered == -0.5, "worse than no knowledge"
    assert Scores(bare=5.0, prompted=1.0, ours=0.5).recovered == 1.125, "better than the prompt"


def test_grounded_is_the_share_of_the_cost_of_another_knowledge() -> None:
    # Another K costs D 6 - 1 = 5 nats, and ours 4 - 2 = 2.
    scores = Scores(bare=5.0, prompted=1.0, ours=2.0, prompted_other=6.0, ours_other=4.0)
    assert scores.grounded == pytest.approx(0.4)
    assert Scores(5.0, 1.0, 2.0, 6.0, 2.0).grounded == 0.0, "K has no effect"
    assert Scores(5.0, 1.0, 2.0).grounded is None
    assert Scores(5.0, 1.0, 2.0, prompted_other=6.0).grounded is None


def test_a_small_gap_is_not_divided_by() -> None:
    assert LEAST_GAP == 0.05
    assert Scores(bare=1.0, prompted=0.96, ours=0.5).recovered is None
    assert Scores(bare=1.0, prompted=1.5, ours=0.5).recovered is None, "K harms"
    assert Scores(bare=1.0625, prompted=1.0, ours=1.03125).recovered == 0.5
    assert Scores(5.0, 1.0, 2.0, prompted_other=1.04, ours_other=3.0).grounded is None


def test_perplexity_is_e_to_the_nll_and_stays_finite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert math.isfinite(perplexity(1e6))


def test_a_mean_leaves_out_undefined_values() -> None:
    assert mean_defined([0.5, None, 1.0]) == 0.75
    assert mean_defined([None, None]) is None
    assert mean_defined([]) is None
    assert mean_defined([0.0, None]) == 0.0
