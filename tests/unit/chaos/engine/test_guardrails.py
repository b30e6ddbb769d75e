"""Guardrails: they trip on what clients see, not on too little of it, and not on what was before they were armed."""

from collections.abc import Sequence

import pytest

from chaos.engine.watch import Tripped, Watch
from chaos.guardrails import ErrorRate, Sample

LIMIT = ErrorRate(max_ratio=0.2, over_s=5.0)


def samples(*rows: tuple[float, int, int]) -> list[Sample]:
    """Rows of (seconds, ok, failed), running totals."""
    return [Sample(t_s=t_s, ok=ok, failed=failed) for t_s, ok, failed in rows]


@pytest.mark.parametrize(
    ("seen", "value"),
    [
        ([], None),
        (samples((0, 0, 0)), None),
        (samples((0, 0, 0), (4.9, 10, 90)), None),
        (samples((0, 0, 0), (5, 90, 10)), 0.1),
        (samples((0, 100, 100), (5, 110, 130)), 0.75),
        (samples((0, 0, 0), (3, 0, 50), (8, 100, 50)), 0.0),
        (samples((0, 5, 5), (5, 5, 5)), None),
    ],
    ids=["nothing", "one", "too short", "a tenth", "totals", "only the window", "nobody answered"],
)
def test_the_error_rate_is_that_of_its_window(seen: Sequence[Sample], value: float | None) -> None:
    """Computed by hand; without a whole window or any answer there is no value."""
    assert LIMIT.value(seen) == value


def test_a_watch_trips_once_and_only_on_what_came_after_it_was_armed() -> None:
    """All 50 failures happened in warm-up; then a window of 0 s looks at each step."""
    tripped: list[Tripped] = []
    watch = Watch(guardrails=[("error_rate", ErrorRate(max_ratio=0.5, over_s=1e-9))], on_trip=tripped.append)
    watch.take("load", {"ok": 0, "fail": 50})
    watch.arm()
    watch.take("load", {"ok": 0, "fail": 50})
    watch.take("load", {"ok": 10, "fail": 50, "declined": 0})
    assert tripped == []

    watch.take("load", {"ok": 10, "fail": 58, "info": 1, "declined": 0})
    watch.take("load", {"ok": 10, "fail": 70})
    assert [(one.guardrail, one.client, one.value) for one in tripped] == [("error_rate", "load", 1.0)]


def test_answers_that_decline_are_no_failures() -> None:
    """A correct no, such as too little money, is what the service is for."""
    tripped: list[Tripped] = []
    watch = Watch(guardrails=[("error_rate", ErrorRate(max_ratio=0.1, over_s=1e-9))], on_trip=tripped.append)
    watch.arm()
    watch.take("load", {"ok": 0, "fail": 0, "declined": 0})
    watch.take("load", {"ok": 5, "fail": 5, "declined": 5})

    assert tripped == []


def test_a_watch_keeps_no_more_than_its_windows_need() -> None:
    """A long run must not grow: ten thousand samples, of which a window of a nanosecond needs two at most."""
    watch = Watch(guardrails=[("error_rate", ErrorRate(max_ratio=1.0, over_s=1e-9))], on_trip=lambda _: None)
    watch.arm()
    for number in range(10_000):
        watch.take("load", {"ok": number})

    assert sum(map(len, watch._samples.values())) <= 2
