"""How arrivals are written, and what that comes to: one schedule for the runner, the load process and the judge.

    300/s                                                                a constant rate
    {rate: 300/s, spacing: poisson}                                      the same on average, by chance
    {rate: 50/s, ramp: {to: 300/s, at: baseline, over: 20s}}             evenly up or down, then on like that
    {rate: 50/s, steps: [{to: 2x, at: baseline}, {to: 0/s, at: 90s}]}    at once
    {rate: 50/s, surge: {to: 10x, at: faults+5s, rise: 1s, for: 60s}}    up, and back to what it would have been
    {trace: times.txt}                                                   at recorded times, a number of seconds a line
    {function: shapes.py:daily}                                          daily(seconds) -> arrivals a second

    text or mapping --pydantic--> Written --resolve(phases)--> Arrivals: numbers, as they stand in plan.json

A moment (`at`) is a time since the load began, or a phase of the experiment and a time after its planned start.
"""

import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, WithJsonSchema

from metrics.units import PositiveSeconds, Seconds, format_duration, parse_duration, parse_rate

RATE_MAX_PER_S: Final = 100_000.0
"""More than one machine can start by far; a rate above it is a slip of the pen."""
PHASES: Final = ("warmup", "baseline", "faults", "recovery")
"""The phases of an experiment in which clients ask."""
EVEN: Final = "even"
POISSON: Final = "poisson"

_MULTIPLE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*x")
_STANDSTILL = re.compile(r"0+(\.0+)?\s*/\s*(s|m|h)")
_MOMENT = re.compile(r"(?P<phase>[a-z]+)(?:\s*\+\s*(?P<after>.+))?")
_FUNCTION = re.compile(r"(?P<where>[^:]+):(?P<name>[A-Za-z_]\w*)")
_RATE_PATTERN: Final = r"\s*\d+(\.\d+)?\s*/\s*(s|m|h)\s*"


class Problem(NamedTuple):
    """What is wrong with arrivals as they are written, and where in them: the keys that lead there."""

    path: tuple[str | int, ...]
    message: str


class ArrivalsError(ValueError):
    """Arrivals that cannot be; carries every problem found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        told = ((".".join(map(str, path)), message) for path, message in self.problems)
        super().__init__("; ".join(f"{where}: {message}" if where else message for where, message in told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A rate to change to: so many a second, or a multiple of what `rate` says."""

    per_s: float | None = None
    times: float | None = None

    def of(self, rate_per_s: float) -> float:
        """Arrivals a second, where `rate` is `rate_per_s`."""
        return self.per_s if self.per_s is not None else rate_per_s * (self.times or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time: `after_s` seconds after the load began, or after the planned start of a phase."""

    phase: str | None = None
    after_s: float = 0.0


def parse_arrival_rate(value: object) -> float:
    """Arrivals a second in `300/s`; `0/s` is none.

    Raises:
        ValueError: another spelling, or more than anything here could start.
    """
    if isinstance(value, str) and _STANDSTILL.fullmatch(value.strip()):
        return 0.0
    rate_per_s = parse_rate(value)
    if rate_per_s > RATE_MAX_PER_S:
        raise ValueError(_too_many(f"{value}", rate_per_s))
    return rate_per_s


def parse_level(value: object) -> Level:
    """A rate such as `300/s`, or a multiple such as `10x`.

    Raises:
        ValueError: another spelling, or too much.
    """
    if isinstance(value, str) and (match := _MULTIPLE.fullmatch(value.strip())):
        return Level(times=float(match["number"]))
    try:
        return Level(per_s=parse_arrival_rate(value))
    except ValueError as error:
        if isinstance(value, str) and "/" in value:
            raise
        raise ValueError(f"expected a rate such as 300/s, or a multiple such as 10x, got {value!r}") from error


def parse_moment(value: object) -> Moment:
    """A time since the load began, such as `20s`, or a phase and a time after its start: `faults`, `faults+5s`.

    Raises:
        ValueError: another spelling, or no phase in which clients ask.
    """
    match = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return Moment(after_s=parse_duration(value))
    if match["phase"] not in PHASES:
        raise ValueError(f"expected one of the phases {', '.join(PHASES)}, or a time such as 20s, got {value!r}")
    return Moment(phase=match["phase"], after_s=parse_duration(match["after"] or 0))


ArrivalRate = Annotated[
    float,
    BeforeValidator(parse_arrival_rate),
    WithJsonSchema({"type": "string", "pattern": f"^{_RATE_PATTERN}$", "description": "a rate: 300/s, 90/m"}),
]
_Level = Annotated[
    Level,
    PlainValidator(parse_level),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^({_RATE_PATTERN}|\s*\d+(\.\d+)?\s*x\s*)$",
            "description": "a rate, or a multiple of `rate`: 1500/s, 10x",
        }
    ),
]
_Moment = Annotated[
    Moment,
    PlainValidator(parse_moment),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": rf"^\s*({'|'.join(PHASES)})(\s*\+.*)?\s*$"},
                {"type": "string", "pattern": r"^(0|(\s*\d+(\.\d+)?\s*(us|ms|s|m|h|d))+)$"},
                {"const": 0},
            ],
            "description": "a time since the load began, or after a phase's start: 20s, faults, faults+5s",
        }
    ),
]


class _Strict(BaseModel):
    """A key nobody knows is a mistake of its author, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Strict):
    """At once to another rate."""

    to: _Level
    at: _Moment


class Ramp(_Strict):
    """Evenly to another rate, within `over`."""

    to: _Level
    at: _Moment = Moment()
    over: PositiveSeconds


class Surge(_Strict):
    """Within `rise` to another rate, and at once back when `for` has passed since `at`."""

    to: _Level
    at: _Moment
    rise: Seconds = 0.0
    lasts: Annotated[PositiveSeconds, Field(alias="for")]


class Shape(_Strict):
    """Arrivals by more than a rate: exactly one of rate, trace and function; the changes need a rate to begin with."""

    rate: ArrivalRate | None = None
    spacing: Literal["even", "poisson"] | None = None
    """even where nothing is said"""
    steps: Annotated[list[Step], Field(min_length=1)] | None = None
    ramp: Ramp | None = None
    surge: Surge | None = None
    trace: Annotated[str, Field(min_length=1, description="a file: a number of seconds a line")] | None = None
    function: Annotated[str, Field(pattern=_FUNCTION.pattern, description="file.py:name or module:name")] | None = None


def _kind(value: Any) -> str:
    return "shape" if isinstance(value, Mapping | Shape) else "rate"


Written = Annotated[
    Annotated[ArrivalRate, Tag("rate")] | Annotated[Shape, Tag("shape")],
    Discriminator(_kind),
]
"""Arrivals as a file has them: a rate, or a mapping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """A schedule as plain data: the rate by `points` (seconds, arrivals a second), a `trace`, or a `function`.

    Between two points the rate changes evenly, at two of the same time at once; after the last it stays. `function` is
    `place:name`, the place a module or the absolute path of a file.
    """

    points: tuple[tuple[float, float], ...] = ()
    trace: Path | None = None
    function: str | None = None
    spacing: str = EVEN

    def to_json(self) -> dict[str, Any]:
        """As `load.arrivals` of plan.json."""
        if self.trace is not None:
            return {"trace": str(self.trace)}
        if self.function is not None:
            return {"function": self.function, "spacing": self.spacing}
        return {"points": [list(point) for point in self.points], "spacing": self.spacing}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Arrivals":
        """What `to_json` wrote.

        Raises:
            ArrivalsError: it cannot have written that.
        """
        if "trace" in data:
            return cls(trace=Path(data["trace"]))
        spacing, points = data.get("spacing", EVEN), data.get("points")
        if "function" in data:
            return cls(function=data["function"], spacing=spacing)
        if not isinstance(points, list) or spacing not in (EVEN, POISSON) or not set(data) <= {"points", "spacing"}:
            raise ArrivalsError([Problem((), "expected points, a list of [seconds, arrivals a second], and spacing")])
        if not points or not all(_is_point(point) for point in points) or points[0][0] != 0:
            text = f"expected [seconds, arrivals a second] from 0 s on, each rate 0 to {RATE_MAX_PER_S:,.0f}"
            raise ArrivalsError([Problem(("points",), text)])
        if any(after[0] < before[0] for before, after in pairwise(points)):
            raise ArrivalsError([Problem(("points",), "the times go backwards")])
        return cls(points=tuple((float(at_s), float(per_s)) for at_s, per_s in points), spacing=spacing)

    def __str__(self) -> str:
        """For people: `50/s, 20 s to 21 s: to 500/s, at 80 s: to 50/s, spaced as by chance (Poisson)`."""
        if self.trace is not None:
            return f"as recorded in {self.trace}"
        parts = [f"by {self.function}"] if self.function is not None else list(_told(self.points))
        return ", ".join(parts + (["spaced as by chance (Poisson)"] if self.spacing == POISSON else []))


def resolve(written: "float | Shape", *, folder: Path, phases: Mapping[str, float] | None = None) -> Arrivals:
    """The schedule that is meant; files are looked up from `folder`.

    `phases` has the planned seconds of each phase of an experiment, in order; without it no moment can name one.

    Raises:
        ArrivalsError: with every contradiction found.
    """
    shape = written if isinstance(written, Shape) else Shape.model_construct(rate=written)
    problems = list(_contradictions(shape))
    if problems:
        raise ArrivalsError(problems)
    spacing = shape.spacing or EVEN
    if shape.trace is not None:
        path = (folder / shape.trace).resolve()
        read_trace(path)
        return Arrivals(trace=path)
    if shape.function is not None:
        return Arrivals(function=_placed(shape.function, folder), spacing=spacing)
    return Arrivals(points=_points(shape, _Clock.of(phases)), spacing=spacing)


def read_trace(path: Path) -> Sequence[float]:
    """The intended times in a file, a number of seconds a line, counted from the first of them.

    Empty lines and those that begin with `#` mean nothing.

    Raises:
        ArrivalsError: it cannot be read, has no times, goes backwards, or has more in a second than can be.
    """
    times_s = array("d")
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if (text := line.strip()) and not text.startswith("#"):
                    times_s.append(_time_of(text, f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise _of_trace(f"{path}: cannot be read: {error}") from error
    if not times_s:
        raise _of_trace(f"{path}: no times in it; write one number of seconds a line")
    crowd = int(RATE_MAX_PER_S)
    for place, time_s in enumerate(times_s):
        if place and time_s < times_s[place - 1]:
            raise _of_trace(f"{path}: goes back from {times_s[place - 1]:g} s to {time_s:g} s; sort it")
        if place >= crowd and time_s - times_s[place - crowd] < 1:
            raise _of_trace(f"{path}: more than {RATE_MAX_PER_S:,.0f} arrivals in the second before {time_s:g} s")
    return array("d", (time_s - times_s[0] for time_s in times_s))


class _Clock(NamedTuple):
    """When phases begin and the load ends, in seconds since it began."""

    starts_s: Mapping[str, float]
    ends_s: float

    @classmethod
    def of(cls, phases: Mapping[str, float] | None) -> "_Clock":
        if phases is None:
            return cls({}, math.inf)
        lengths = [phases[name] for name in PHASES]
        return cls({name: math.fsum(lengths[:place]) for place, name in enumerate(PHASES)}, math.fsum(lengths))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A change of the rate, from `from_s` to `until_s`; the rate is `per_s` at its end."""

    place: tuple[str | int, ...]
    from_s: float
    until_s: float
    per_s: float


def _points(shape: Shape, clock: _Clock) -> tuple[tuple[float, float], ...]:
    rate = shape.rate
    if rate is None:
        raise AssertionError("the contradictions have been told")
    found: list[Problem] = []
    steps = [
        _change(("steps", place), step.at, 0.0, step.to.of(rate), clock, found)
        for place, step in enumerate(shape.steps or ())
    ]
    ramps = (
        []
        if shape.ramp is None
        else [_change(("ramp",), shape.ramp.at, shape.ramp.over, shape.ramp.to.of(rate), clock, found)]
    )
    changes = sorted((*steps, *ramps), key=lambda one: (one.from_s, one.until_s))
    for before, after in pairwise(changes):
        if after.from_s < before.until_s or after.from_s == before.from_s:
            found.append(Problem(after.place, f"begins at {format_duration(after.from_s)}, within another change"))
    base = [(0.0, rate)]
    for one in changes:
        base += [(one.from_s, base[-1][1]), (one.until_s, one.per_s)]
    points = base if shape.surge is None else _with_surge(base, shape.surge, rate, clock, found)
    if not any(per_s for _, per_s in points):
        found.append(Problem((), "nothing would ever arrive"))
    if found:
        raise ArrivalsError(found)
    return tuple(_without_repeats(points))


def _with_surge(
    base: list[tuple[float, float]], surge: Surge, rate: float, clock: _Clock, found: list[Problem]
) -> list[tuple[float, float]]:
    """The points of `base`, overruled while the surge lasts."""
    whole = _change(("surge",), surge.at, surge.lasts, surge.to.of(rate), clock, found)
    if surge.rise > surge.lasts:
        found.append(Problem(("surge", "rise"), f"takes longer than the surge lasts ({format_duration(surge.lasts)})"))
    return [
        *(point for point in base if point[0] < whole.from_s),
        (whole.from_s, _rate_at(base, whole.from_s)),
        (whole.from_s + surge.rise, whole.per_s),
        (whole.until_s, whole.per_s),
        (whole.until_s, _rate_at(base, whole.until_s)),
        *(point for point in base if point[0] > whole.until_s),
    ]


def _change(
    place: tuple[str | int, ...], at: Moment, lasts_s: float, per_s: float, clock: _Clock, found: list[Problem]
) -> _Change:
    if per_s > RATE_MAX_PER_S:
        found.append(Problem((*place, "to"), _too_many("the multiple of the rate", per_s)))
    if at.phase is not None and at.phase not in clock.starts_s:
        text = "there are no phases outside an experiment; give a time since the load began, such as 20s"
        found.append(Problem((*place, "at"), text))
    from_s = clock.starts_s.get(at.phase or "", 0.0) + at.after_s
    if from_s + lasts_s > clock.ends_s or from_s == clock.ends_s:
        text = f"lasts until {format_duration(from_s + lasts_s)}" if lasts_s else f"is at {format_duration(from_s)}"
        found.append(Problem(place, f"{text}, but the load ends after {format_duration(clock.ends_s)}"))
    return _Change(place=place, from_s=from_s, until_s=from_s + lasts_s, per_s=per_s)


def _rate_at(points: Sequence[tuple[float, float]], at_s: float) -> float:
    """The rate just after `at_s`."""
    for (from_s, from_per_s), (until_s, until_per_s) in pairwise(points):
        if from_s <= at_s < until_s:
            return from_per_s + (until_per_s - from_per_s) * (at_s - from_s) / (until_s - from_s)
    return points[-1][1]


def _without_repeats(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The points without those that say nothing new: the same again, or the middle of three at one time."""
    for place, point in enumerate(points):
        before, after = points[max(0, place - 1)], points[min(place + 1, len(points) - 1)]
        if (place and point == before) or (place and before[0] == point[0] == after[0] and place + 1 < len(points)):
            continue
        yield point


def _contradictions(shape: Shape) -> Iterator[Problem]:
    given = [name for name in ("rate", "trace", "function") if getattr(shape, name) is not None]
    if len(given) != 1:
        yield Problem((), f"name exactly one of rate, trace and function; this has {' and '.join(given) or 'none'}")
    for name in ("steps", "ramp", "surge"):
        if getattr(shape, name) is not None and given and "rate" not in given:
            yield Problem((name,), "needs rate: what the arrivals begin with")
    if shape.trace is not None and shape.spacing is not None:
        yield Problem(("spacing",), "a trace has its own spacing")


def _placed(function: str, folder: Path) -> str:
    """The function with the absolute path of its file, where it is in a file.

    Raises:
        ArrivalsError: no such file.
    """
    where, _, name = function.rpartition(":")
    if not where.endswith(".py"):
        return function
    path = (folder / where).resolve()
    if not path.is_file():
        raise ArrivalsError([Problem(("function",), f"no such file: {path}")])
    return f"{path}:{name}"


def _told(points: Sequence[tuple[float, float]]) -> Iterator[str]:
    yield f"{points[0][1]:g}/s"
    for (from_s, from_per_s), (until_s, until_per_s) in pairwise(points):
        if from_per_s != until_per_s:
            when = f"{format_duration(from_s)} to {format_duration(until_s)}"
            yield f"{when if until_s > from_s else f'at {format_duration(from_s)}'}: to {until_per_s:g}/s"


def _is_point(point: Any) -> bool:
    if not isinstance(point, list) or len(point) != 2:
        return False
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in point)
    return numbers and point[0] >= 0 and 0 <= point[1] <= RATE_MAX_PER_S


def _time_of(text: str, where: str) -> float:
    try:
        time_s = float(text)
    except ValueError:
        time_s = math.nan
    if not math.isfinite(time_s):
        raise _of_trace(f"{where}: expected a number of seconds, got {text[:40]!r}")
    return time_s


def _of_trace(text: str) -> ArrivalsError:
    return ArrivalsError([Problem(("trace",), text)])


def _too_many(what: str, rate_per_s: float) -> str:
    return f"{what} is {rate_per_s:,.0f} arrivals a second; more than {RATE_MAX_PER_S:,.0f} cannot be meant"
