"""The line that shows what a run is doing."""

import time

from chaos.engine.progress import RATE_OVER_S, Progress


def take_until_a_rate_shows(progress: Progress, said: dict[str, int], within_s: float = 30.0) -> float:
    """Says the same again and again; the first rate that comes of it, in operations a second."""
    deadline_s = time.monotonic() + within_s
    while progress.rate_per_s is None:
        assert time.monotonic() < deadline_s, "no rate was ever shown"
        progress.take("load", said)
    return progress.rate_per_s


def test_counts_that_are_heard_late_make_no_rate_of_millions() -> None:
    """Two seconds' counts are read at once, microseconds apart: no rate is made of them, nor of any shorter time.

    What was said between counts once enough time has passed: 300 operations in at least `RATE_OVER_S`.
    """
    progress = Progress()
    progress.take("load", {"completed": 300})
    progress.take("load", {"completed": 600})
    assert progress.rate_per_s is None
    rate_per_s = take_until_a_rate_shows(progress, {"completed": 600})
    assert 0 < rate_per_s <= 300 / RATE_OVER_S


def test_a_slow_probe_does_not_speak_for_the_load() -> None:
    """Once the load's rate is known, the prober's own never takes its place."""
    progress = Progress()
    progress.take("prober", {"completed": 0})
    progress.take("load", {"completed": 0})
    rate_per_s = take_until_a_rate_shows(progress, {"completed": 1_000_000})
    progress.take("prober", {"completed": 1})
    assert progress.rate_per_s == rate_per_s
