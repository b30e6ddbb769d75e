"""A node calls itself degraded when a sign keeps rising, not for a hiccup, and takes it back when it stays well."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system_under_test.services.portal.vitals import SIGNS, THRESHOLDS, Hysteresis, Reading, Sign, Threshold, Vitals

WELL = Reading(lag_s=0.002, database_s=0.003, answers=2, errors=0)
ILL: Mapping[Sign, Reading] = {
    "event_loop_lag": replace(WELL, lag_s=0.3),
    "database_latency": replace(WELL, database_s=0.35),
    "errors": replace(WELL, errors=1),
}
BEAT_S = 0.025


def feed(vitals: Vitals, reading: Reading, start_s: float, seconds: float, *, each_s: float = BEAT_S) -> float:
    """The same reading again and again for that long; gives the time of the last one."""
    now_s = start_s
    for number in range(1, round(seconds / each_s) + 1):
        now_s = start_s + number * each_s
        vitals.note(reading, now_s)
    return now_s


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_alone_makes_a_node_degraded_and_is_taken_back(sign: Sign) -> None:
    """Well for 5 s, ill for 3 s, well again: exactly this sign is raised, within 1.5 s, and lowered within 15 s."""
    vitals = Vitals(now_s=0.0)
    now_s = feed(vitals, WELL, 0.0, 5.0)
    raised = [vitals.raised]
    now_s = feed(vitals, ILL[sign], now_s, 1.5)
    raised.append(vitals.raised)
    now_s = feed(vitals, ILL[sign], now_s, 1.5)
    now_s = feed(vitals, WELL, now_s, 1.5)
    raised.append(vitals.raised)
    feed(vitals, WELL, now_s, 13.5)
    raised.append(vitals.raised)
    assert raised == [(), (sign,), (sign,), ()], "after 1.5 s of being well again it is not yet believed"


@pytest.mark.parametrize("frozen_s", [0.1, 0.2, 0.4])
def test_one_short_freeze_raises_nothing(frozen_s: float) -> None:
    """One beat that comes late, and a database that seemed to take as long."""
    vitals = Vitals(now_s=0.0)
    now_s = feed(vitals, WELL, 0.0, 2.0) + BEAT_S + frozen_s
    vitals.note(Reading(lag_s=frozen_s, database_s=0.003, answers=2, errors=0), now_s)
    for number in range(100):
        vitals.note(WELL, now_s + number * BEAT_S)
        assert vitals.raised == ()


def test_a_process_that_gets_a_fifth_of_its_time_is_degraded() -> None:
    """Stopped for 160 ms of each 200 ms: one beat in each, and that one late; raised within 1.5 s."""
    vitals = Vitals(now_s=0.0)
    feed(vitals, replace(WELL, lag_s=0.16), 0.0, 1.5, each_s=0.2)
    assert vitals.raised == ("event_loop_lag",)


def test_a_long_stop_is_forgiven_soon() -> None:
    """A stop of a minute counts as one of a second: 6 s later it is forgotten."""
    vitals = Vitals(now_s=0.0)
    vitals.note(replace(WELL, lag_s=60.0), 60.0)
    feed(vitals, WELL, 60.0, 6.0)
    assert vitals.raised == ()
    assert vitals.values["event_loop_lag"] < THRESHOLDS["event_loop_lag"].leave


def test_few_answers_say_nothing_about_errors() -> None:
    """Every answer fails, but there is one in two seconds."""
    vitals = Vitals(now_s=0.0)
    now_s = 0.0
    for _ in range(10):
        now_s = feed(vitals, replace(WELL, answers=0), now_s, 2.0)
        vitals.note(replace(WELL, answers=1, errors=1), now_s)
        assert vitals.raised == ()


@pytest.mark.parametrize("given", [{"enter": 0.1, "leave": 0.1}, {"enter": 0.1, "leave": 0.0}])
def test_a_threshold_without_a_gap_is_refused(given: dict[str, Any]) -> None:
    """A value that hovers there would raise and lower it all the time."""
    with pytest.raises(ValueError, match="leave < enter"):
        Threshold(**given)


@given(values=st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_a_change_takes_as_long_as_the_threshold_says(values: list[float]) -> None:
    """Whatever the values, ten a second: between two changes lies at least the time that the later one needs."""
    threshold = Threshold(enter=1.0, leave=0.5, enter_after_s=0.3, leave_after_s=0.6)
    state, changes = Hysteresis(threshold), [(0.0, False)]
    for number, value in enumerate(values):
        now_s = number / 10
        if state.update(value, now_s) != changes[-1][1]:
            changes.append((now_s, state.raised))
    for (before_s, _), (now_s, raised) in itertools.pairwise(changes):
        assert now_s - before_s >= (0.3 if raised else 0.6) - 1e-9
        wanted = values[round(now_s * 10) - (3 if raised else 6) : round(now_s * 10) + 1]
        assert all((value >= 1.0) if raised else (value < 0.5) for value in wanted)


@given(
    lags=st.lists(st.floats(0, 100), max_size=50),
    steps=st.lists(st.floats(0, 10), max_size=50),
    errors=st.lists(st.integers(0, 50), max_size=50),
)
def test_values_stay_within_what_was_measured(lags: list[float], steps: list[float], errors: list[int]) -> None:
    """Any readings at any times: no smoothed value is above the largest reading, and the errors are a share."""
    vitals, now_s = Vitals(now_s=0.0), 0.0
    for lag_s, step_s, failed in zip(lags, steps, errors, strict=False):
        now_s += step_s
        vitals.note(Reading(lag_s=lag_s, database_s=lag_s, answers=50, errors=failed), now_s)
        values = vitals.values
        assert 0 <= values["event_loop_lag"] <= 1.0 + 1e-9
        assert 0 <= values["database_latency"] <= max(lags) + 1e-9
        assert 0 <= values["errors"] <= 1 + 1e-9
