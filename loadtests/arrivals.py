"""When requests are meant to start: schedules of offsets in seconds, counted from the moment the load begins.

    Schedule() -> 0.0, 0.0033, 0.0067, ...        never decreasing; endless, or ends when the load is over

    rate over time --integral--> arrivals so far --inverse at 0, 1, 2, ...--> even spacing
                                                 --inverse at sums of exponential gaps--> a Poisson process

A schedule is a function that gives the same offsets each time it is called, so that one pass can hand arrivals out
while another counts how many are due.
"""

import importlib
import importlib.util
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate, count, repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from metrics.arrivals import POISSON, RATE_MAX_PER_S, Arrivals, ArrivalsError, Problem, read_trace

Schedule = Callable[[], Iterator[float]]
Floats = npt.NDArray[np.float64]

FUNCTION_EVERY_S: Final = 0.05
"""A function of time is asked this often; between two answers the rate changes evenly."""
SILENCE_MAX_S: Final = 3_600.0
"""After so long without an arrival a function of time has none to come."""
_CHUNK: Final = 1_024
_BLOCK: Final = 20
"""Answers of a function that are looked at together: a second's."""


class Pace:
    """A rate that changes evenly between points, and stays after the last: how many have arrived by when.

    `points` are (seconds, arrivals a second), from 0 s on in order of time; two of one time are a step.
    """

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        times, rates = np.array(points, dtype=np.float64).T
        lengths = np.append(np.diff(times), np.inf)
        kept = lengths > 0
        self._starts_s = times[kept]
        self._lengths_s = lengths[kept]
        self._rates = rates[kept]
        changes = np.append(np.diff(rates), 0.0)[kept]
        self._slopes = np.where(np.isinf(self._lengths_s), 0.0, changes / self._lengths_s)
        areas = (self._rates + changes / 2)[:-1] * self._lengths_s[:-1]
        self._before = np.append(0.0, np.cumsum(areas))

    def expected(self, times_s: Floats) -> Floats:
        """The arrivals so far at each time: the integral of the rate."""
        place = np.searchsorted(self._starts_s, times_s, side="right") - 1
        inside_s = times_s - self._starts_s[place]
        result: Floats = self._before[place] + inside_s * (self._rates[place] + self._slopes[place] * inside_s / 2)
        return result

    def reached(self, amounts: Floats) -> Floats:
        """The time from which on more than each of these (ascending) have arrived; endless where that never comes."""
        place = np.searchsorted(self._before, amounts, side="right") - 1
        missing = amounts - self._before[place]
        rate, slope = self._rates[place], self._slopes[place]
        # The root of slope / 2 * x^2 + rate * x = missing in the form that also holds for a slope of 0.
        ending = np.sqrt(np.maximum(rate * rate + 2 * slope * missing, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            inside_s = np.where(slope == 0, missing / rate, 2 * missing / (rate + ending))
        inside_s = np.where((missing == 0) & (slope != 0), 0.0, inside_s)
        inside_s = np.where((rate == 0) & (slope == 0), np.inf, inside_s)
        result: Floats = np.maximum.accumulate(self._starts_s[place] + np.minimum(inside_s, self._lengths_s[place]))
        return result


Amounts = Callable[[], Iterator[Floats]]
"""How many have arrived at each arrival, in chunks; the same each time it is called."""


def _evenly() -> Iterator[Floats]:
    for first in count(0, _CHUNK):
        yield np.arange(first, first + _CHUNK, dtype=np.float64)


def _by_chance(seed: str) -> Amounts:
    """The arrival times of a Poisson process of rate 1."""

    def amounts() -> Iterator[Floats]:
        rng = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
        sums = accumulate(-math.log(1.0 - rng.random()) for _ in repeat(None))
        while True:
            yield np.fromiter(sums, dtype=np.float64, count=_CHUNK)

    return amounts


def constant(rate_per_s: float) -> Schedule:
    """`rate_per_s` arrivals a second, evenly spaced, for ever; the n-th is due at n / rate, so no error adds up.

    Raises:
        ValueError: a rate that is not above 0 and at most `RATE_MAX_PER_S`.
    """
    if not (math.isfinite(rate_per_s) and 0 < rate_per_s <= RATE_MAX_PER_S):
        raise ValueError(f"rate must be above 0 and at most {RATE_MAX_PER_S:,.0f} arrivals a second, got {rate_per_s}")
    return by_points([(0.0, rate_per_s)], _evenly)


def by_points(points: Sequence[tuple[float, float]], amounts: Amounts) -> Schedule:
    """Arrivals at a rate as of `Pace`; ends where the rate stays at 0."""
    pace = Pace(points)

    def schedule() -> Iterator[float]:
        for chunk in amounts():
            times_s = pace.reached(chunk)
            yield from times_s[np.isfinite(times_s)].tolist()
            if not np.isfinite(times_s[-1]):
                return

    return schedule


def by_function(function: Callable[[float], float], amounts: Amounts, *, name: str) -> Schedule:
    """Arrivals at the rate that `function` gives for each time in seconds; `name` is for complaints.

    It is asked once for each time, whoever passes through the schedule. A pass raises `ArrivalsError` at the first
    answer that is no rate.
    """

    @cache
    def rate_at(number: int) -> float:
        return _asked(function, number * FUNCTION_EVERY_S, name)

    def schedule() -> Iterator[float]:
        chunks = amounts()
        waiting = next(chunks)
        so_far, silent_s = 0.0, 0.0
        for first in count(0, _BLOCK):
            numbers = range(first, first + _BLOCK + 1)
            begun_s = first * FUNCTION_EVERY_S
            pace = Pace([((number - first) * FUNCTION_EVERY_S, rate_at(number)) for number in numbers])
            arrived = so_far + float(pace.expected(np.array([_BLOCK * FUNCTION_EVERY_S]))[0])
            while waiting[-1] < arrived:
                waiting = np.append(waiting, next(chunks))
            due = int(np.searchsorted(waiting, arrived, side="left"))
            if due:
                inside_s = np.minimum(pace.reached(waiting[:due] - so_far), _BLOCK * FUNCTION_EVERY_S)
                yield from (begun_s + inside_s).tolist()
            silent_s = 0.0 if arrived > so_far else silent_s + _BLOCK * FUNCTION_EVERY_S
            if silent_s >= SILENCE_MAX_S:
                return
            waiting, so_far = waiting[due:], arrived

    return schedule


def by_trace(times_s: Sequence[float]) -> Schedule:
    """Arrivals at recorded times."""
    return lambda: iter(times_s)


def schedule_of(arrivals: Arrivals, *, seed: str) -> Schedule:
    """The schedule that is meant; `seed` decides the spacing where chance does.

    Raises:
        ArrivalsError: a trace or function that cannot be used.
    """
    if arrivals.trace is not None:
        return by_trace(read_trace(arrivals.trace))
    amounts = _by_chance(f"{seed}/arrivals") if arrivals.spacing == POISSON else _evenly
    if arrivals.function is None:
        return by_points(arrivals.points, amounts)
    function = _load_function(arrivals.function)
    _asked(function, 0.0, arrivals.function)
    return by_function(function, amounts, name=arrivals.function)


class DueCount:
    """How many arrivals of a schedule are due by a time that only moves forward."""

    def __init__(self, schedule: Schedule) -> None:
        self._offsets = schedule()
        self._next_s = next(self._offsets, math.inf)
        self.count = 0
        """As of the last time that was asked for."""

    def by(self, elapsed_s: float) -> int:
        """The number of arrivals whose offset is at most `elapsed_s`."""
        while self._next_s <= elapsed_s:
            self.count += 1
            self._next_s = next(self._offsets, math.inf)
        return self.count


def _asked(function: Callable[[float], Any], at_s: float, name: str) -> float:
    """The rate that a user's function gives for a time.

    Raises:
        ArrivalsError: it raised, or gave something else.
    """
    try:
        rate_per_s = function(at_s)
    except Exception as error:
        raise _of_function(f"{name} raised at {at_s:g} s: {type(error).__name__}: {error}") from error
    if isinstance(rate_per_s, bool) or not isinstance(rate_per_s, int | float | np.number):
        raise _of_function(f"{name} gave {rate_per_s!r} at {at_s:g} s; expected arrivals a second as a number")
    if not 0 <= rate_per_s <= RATE_MAX_PER_S:
        wanted = f"expected 0 to {RATE_MAX_PER_S:,.0f} arrivals a second"
        raise _of_function(f"{name} gave {float(rate_per_s):g} at {at_s:g} s; {wanted}")
    return float(rate_per_s)


def _load_function(place: str) -> Callable[[float], Any]:
    """The function `file.py:name` or `module:name`.

    Raises:
        ArrivalsError: it is not there, or what holds it does not import.
    """
    where, _, name = place.rpartition(":")
    try:
        module = _import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except (Exception, SystemExit) as error:  # whatever a user's file raises is a reason it cannot be used
        raise _of_function(f"{where}: does not import: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise _of_function(f"{where}: no function called {name!r} in it")
    loaded: Callable[[float], Any] = function
    return loaded


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"arrivals_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look themselves up there
    spec.loader.exec_module(module)
    return module


def _of_function(text: str) -> ArrivalsError:
    return ArrivalsError([Problem(("function",), text)])
