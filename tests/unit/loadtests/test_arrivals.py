"""Schedules of intended starts."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.arrivals import DueCount, Pace, Schedule, constant, schedule_of
from metrics.arrivals import POISSON, Arrivals, ArrivalsError

Points = list[tuple[float, float]]
_PATIENT = settings(deadline=None, max_examples=50)  # a busy machine is no mistake


@st.composite
def rates(draw: st.DrawFn) -> Points:
    """A rate that steps, rises, falls, pauses and ends at some rate above 0."""
    lengths = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5, 7.0]), max_size=6))
    some = st.sampled_from([0.0, 0.3, 1.0, 17.0, 250.0])
    times = itertools.accumulate(lengths, initial=0.0)
    points = [(at_s, draw(some)) for at_s in times]
    return [*points, (points[-1][0] + 1.0, draw(some.filter(bool)))]


def until(schedule: Schedule, end_s: float) -> list[float]:
    """The arrivals before `end_s`."""
    return list(itertools.takewhile(lambda at_s: at_s < end_s, schedule()))


def test_a_constant_rate_never_drifts() -> None:
    """The millionth arrival at 300/s is due at exactly n / rate: the spacing is not added up."""
    offsets = itertools.islice(constant(300)(), 1_000_001)
    assert next(itertools.islice(offsets, 1_000_000, None)) == 1_000_000 / 300


def test_a_schedule_begins_at_zero_and_can_be_run_through_again() -> None:
    """Two passes over one schedule give the same offsets, so one may count what the other hands out."""
    schedule = constant(4)
    assert list(itertools.islice(schedule(), 4)) == [0.0, 0.25, 0.5, 0.75]
    assert list(itertools.islice(schedule(), 4)) == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, 1e9])
def test_a_rate_nobody_can_mean_is_refused(rate: float) -> None:
    """Zero, negative, no number, endless, absurd."""
    with pytest.raises(ValueError, match="rate must be above 0"):
        constant(rate)


@_PATIENT
@given(points=rates(), from_s=st.floats(0, 30), length_s=st.floats(0, 10))
def test_in_any_interval_as_many_arrive_as_the_rate_adds_up_to(points: Points, from_s: float, length_s: float) -> None:
    """Counts between any two times differ from the integral of the rate, taken in small steps here, by at most one."""
    arrived = [at_s for at_s in until(schedule_of(Arrivals(points=tuple(points)), seed=""), 41) if at_s >= from_s]
    counted = sum(at_s < from_s + length_s for at_s in arrived)
    cuts = np.unique([from_s, from_s + length_s, *(at_s for at_s, _ in points)])
    cuts = cuts[(cuts >= from_s) & (cuts <= from_s + length_s)]
    # Between two cuts the rate is a straight line, so its middle times the length is exact.
    area = math.fsum(_rate_at(points, (low + high) / 2) * (high - low) for low, high in itertools.pairwise(cuts))
    assert abs(counted - area) <= 1 + 1e-6


def _rate_at(points: Points, at_s: float) -> float:
    """The rate, looked up without the code under test; `at_s` is no edge."""
    for (low_s, low), (high_s, high) in itertools.pairwise(points):
        if low_s < at_s < high_s:
            return low + (high - low) * (at_s - low_s) / (high_s - low_s)
    return points[-1][1]


@_PATIENT
@given(points=rates(), spacing=st.sampled_from(["even", "poisson"]), seed=st.text(max_size=5))
def test_no_schedule_goes_backwards_and_the_same_seed_gives_the_same(points: Points, spacing: str, seed: str) -> None:
    """5,000 arrivals of each."""
    schedule = schedule_of(Arrivals(points=tuple(points), spacing=spacing), seed=seed)
    first, again = (list(itertools.islice(schedule(), 5_000)) for _ in range(2))
    assert first == again
    assert all(before <= after for before, after in itertools.pairwise(first))
    assert first[0] >= 0


@_PATIENT
@given(points=rates(), at_s=st.floats(0.5, 20), spacing=st.sampled_from(["even", "poisson"]))
def test_a_step_changes_nothing_before_it(points: Points, at_s: float, spacing: str) -> None:
    """The same rate, and the same with a step to 200/s at some time: equal until then."""
    before = [point for point in points if point[0] < at_s]
    here = _rate_at([*before, (at_s, before[-1][1])], at_s - 1e-9)
    plain = [*before, (at_s, here)]
    stepped = [*plain, (at_s, 200.0)]
    one, other = (
        until(schedule_of(Arrivals(points=tuple(each), spacing=spacing), seed="x"), at_s - 1e-6)
        for each in ([*plain, (at_s + 1, 5.0)], [*stepped, (at_s + 1, 5.0)])
    )
    assert one == pytest.approx(other, abs=1e-9)


def test_by_chance_as_many_arrive_on_average_and_as_unevenly_as_chance_has_it() -> None:
    """200,000 s at 3/s, by seconds: mean and variance 3, each within five of its standard errors; gaps as random.

    The standard error of the mean is sqrt(3 / n), that of the variance sqrt((3 + 2 * 9) / n); of exponential gaps the
    standard deviation equals the mean.
    """
    seconds = 200_000
    schedule = schedule_of(Arrivals(points=((0.0, 3.0),), spacing=POISSON), seed="42/1")
    arrived = np.array(until(schedule, seconds))
    counts = np.bincount(arrived.astype(int), minlength=seconds)
    assert abs(counts.mean() - 3) < 5 * math.sqrt(3 / seconds)
    assert abs(counts.var() - 3) < 5 * math.sqrt(21 / seconds)
    gaps = np.diff(arrived)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.01)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 5 / math.sqrt(len(gaps))


def test_other_seeds_give_other_times() -> None:
    """Chance is decided by the seed alone."""
    arrivals = Arrivals(points=((0.0, 3.0),), spacing=POISSON)
    assert len({next(schedule_of(arrivals, seed=str(seed))()) for seed in range(20)}) == 20


def test_a_rate_that_stays_at_zero_ends_the_schedule() -> None:
    """Ten a second for 2 s are twenty arrivals, however long one asks."""
    schedule = schedule_of(Arrivals(points=((0.0, 10.0), (2.0, 10.0), (2.0, 0.0))), seed="")
    assert list(schedule()) == pytest.approx([number / 10 for number in range(20)])


def test_the_integral_and_its_inverse_belong_together() -> None:
    """0 to 100/s in 10 s are 500 arrivals; half of them come in the last 2.93 s."""
    pace = Pace([(0.0, 0.0), (10.0, 100.0)])
    assert pace.expected(np.array([5.0, 10.0, 11.0])).tolist() == [125.0, 500.0, 600.0]
    assert pace.reached(np.array([0.0, 125.0, 250.0, 600.0])).tolist() == pytest.approx([0, 5, math.sqrt(50), 11])


def write(folder: Path, text: str) -> str:
    """A function called `rate` in a file, as arrivals name it."""
    path = folder / "shapes.py"
    path.write_text(text)
    return f"{path}:rate"


def test_a_function_of_time_is_followed(tmp_path: Path) -> None:
    """A sine between 0 and 200/s with a period of 10 s: the integral of each half period, within one arrival."""
    place = write(tmp_path, "import math\ndef rate(t):\n    return 100 + 100 * math.sin(math.tau * t / 10)\n")
    arrived = np.array(until(schedule_of(Arrivals(function=place), seed=""), 100))
    halves = np.bincount((arrived // 5).astype(int))
    # Straight lines each 50 ms lie below a sine's hills and above its valleys, by 0.01 % here.
    expected = [500 + sign * 1_000 / math.pi for sign in (1, -1) * 10]
    assert halves.tolist() == pytest.approx(expected, abs=1.1)
    by_chance = until(schedule_of(Arrivals(function=place, spacing=POISSON), seed=""), 100)
    assert abs(len(by_chance) - 10_000) < 5 * 100


def test_a_function_that_has_nothing_more_to_say_ends_the_schedule(tmp_path: Path) -> None:
    """An hour at 0/s is the end; before that a pause is one."""
    place = write(tmp_path, "def rate(t):\n    return 10 if t < 1 or 1000 <= t < 1001 else 0\n")
    arrived = list(schedule_of(Arrivals(function=place), seed="")())
    assert len(arrived) in (20, 21)  # the rate falls within 50 ms: half an arrival more in all
    assert arrived[11] > 999


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def rate(t): return -1\n", "gave -1 at 0 s; expected 0 to 100,000"),
        ("def rate(t): return 'fast'\n", "gave 'fast' at 0 s; expected arrivals a second as a number"),
        ("def rate(t): return float('nan')\n", "gave nan at 0 s"),
        ("def rate(t): return 1 / t\n", "raised at 0 s: ZeroDivisionError"),
        ("def rates(t): return 1\n", "no function called 'rate' in it"),
        ("import nowhere_to_be_found\n", "does not import: ModuleNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_used_is_told_before_the_load_begins(tmp_path: Path, text: str, told: str) -> None:
    """Asked for time 0 when it is loaded."""
    with pytest.raises(ArrivalsError, match=told):
        schedule_of(Arrivals(function=write(tmp_path, text)), seed="")


def test_a_recorded_trace_is_repeated(tmp_path: Path) -> None:
    """The intervals of the file, from its first time on."""
    path = tmp_path / "times.txt"
    path.write_text("# recorded at noon\n1700000000.0\n1700000000.25\n\n1700000000.25\n1700000002\n")
    assert list(schedule_of(Arrivals(trace=path), seed="")()) == [0.0, 0.25, 0.25, 2.0]


def test_due_counts_what_should_have_started_by_then() -> None:
    """Four a second: one at 0, the fifth exactly at 1 s."""
    due = DueCount(constant(4))
    assert [due.by(s) for s in (0.0, 0.2, 0.99, 1.0, 10.0)] == [1, 1, 4, 5, 41]


def test_due_ends_with_a_schedule_that_ends() -> None:
    """Three arrivals are three, however late one asks."""
    three: Schedule = lambda: iter([0.0, 0.1, 0.2])  # noqa: E731  # the shape of every schedule
    due = DueCount(three)
    assert due.by(0.15) == 2
    assert due.by(1e9) == 3
