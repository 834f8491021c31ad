"""Calls are timed in turn, after a warm-up, without their preparation."""

import pytest

from diekae.run import timing
from diekae.run.timing import Times, time_in_turn


def test_calls_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls, seen = [0.0], list[str](), list[tuple[int, int]]()
    monkeypatch.setattr(timing, "clock", lambda: now[0])

    def way(name: str, seconds: float) -> None:
        calls.append(name)
        now[0] += seconds if len(calls) > 3 else 100.0

    def prepare() -> str:
        way("prepare", 50.0)
        return "ready"

    ways = {"a": lambda: way("a", 1.0), "b": (prepare, lambda ready: way(f"b {ready}", 2.0))}
    found = time_in_turn(ways, 3, lambda *step: seen.append(step))
    assert calls == ["a", "prepare", "b ready"] * 4
    assert found == {"a": 1.0, "b": 2.0} and found.taken == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_ratio_compares_calls_of_the_same_round() -> None:
    found = Times({"a": [2.0, 20.0, 4.0], "b": [1.0, 10.0, 1.0]})
    assert found == {"a": 4.0, "b": 1.0}
    assert found.ratio("a", "b") == 2.0
