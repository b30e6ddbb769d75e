"""When every entry of an experiment plays, as a pure function of file and seed.

units (entries and groups) --seed--> Due, Due, ... in order of time; their victims are not chosen yet
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from chaos.experiment import Experiment, FaultEntry, Unit
from chaos.parameters import keys_of
from chaos.schedule import SCHEDULE_KEYS, Moment, When
from chaos.wording import Finding, suggest
from metrics.units import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Begins `delay_s` after a moment of other occurrences, by entry and number."""

    of: tuple[tuple[str, int], ...]
    moment: Moment
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Begins `delay_s` after a reading has come to its limit, waited for until `within_s` of the phase."""

    entry: str
    when: When
    within_s: float
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An occurrence whose victims are not chosen yet; it begins at `at_s` at the soonest and `latest_s` at the latest.

    Without a trigger these are the same.
    """

    entry: FaultEntry
    number: int
    at_s: float
    latest_s: float
    trigger: Follow | Reach | None = None

    @property
    def lasts_s(self) -> float:
        """As far as can be known beforehand."""
        return self.entry.fault.heal_after_s or 0.0

    def later(self, by_s: float) -> "Due":
        """The same, so much later."""
        trigger = None if self.trigger is None else replace(self.trigger, delay_s=self.trigger.delay_s + by_s)
        return replace(self, at_s=self.at_s + by_s, latest_s=self.latest_s + by_s, trigger=trigger)


def due_of(experiment: Experiment, seed: int, found: list[Finding]) -> list[Due]:
    """Every occurrence, in order of time; of those entries whose times are as their author wants them.

    Every entry has a generator of its own: a new entry moves no other. What does not fit goes to `found`.
    """
    if not experiment.written.whole(("phases", "faults")):
        return []
    scheduler = _Scheduler(experiment, seed, found)
    for unit in experiment.units:
        scheduler.add(unit)
    order = {entry.key: position for position, entry in enumerate(experiment.faults)}
    return sorted(scheduler.due, key=lambda one: (one.at_s, order[one.entry.key], one.number))


class _Scheduler:
    def __init__(self, experiment: Experiment, seed: int, found: list[Finding]) -> None:
        self._experiment = experiment
        self._written = experiment.written
        self._room_s = experiment.phases.faults
        self._seed = seed
        self._found = found
        self._plays: dict[str, list[tuple[Due, ...]]] = {}
        """unit -> what plays each time it plays"""
        self._before: list[Unit] = []
        self.due: list[Due] = []

    def add(self, unit: Unit) -> None:
        plays = self._plays_of(unit) if self._timed(unit) else None
        if plays is not None and self._intact(unit):
            self._plays[unit.key] = plays
            self.due += [one for play in plays for one in play]
        self._before.append(unit)

    def _intact(self, unit: Unit) -> bool:
        """Whether all of its schedule is as its author wants it."""
        return all(self._written.intact((*unit.place, key)) for key in SCHEDULE_KEYS)

    def _timed(self, unit: Unit) -> bool:
        """Whether when it begins and how long its faults last is as its author wants it."""
        places = [(*unit.place, "at"), *((*entry.place, "at") for entry in unit.entries)]
        return all(map(self._written.intact, places)) and all(
            self._written.intact((*entry.place, entry.name, key))
            for entry in unit.entries
            for field, key in keys_of(type(entry.fault)).items()
            if field.endswith("_s")
        )

    def _plays_of(self, unit: Unit) -> list[tuple[Due, ...]] | None:
        """What plays each time; None where that cannot be told."""
        schedule = unit.schedule
        if schedule.follows is not None:
            return self._following(unit, *schedule.follows)
        if schedule.when is not None:
            return self._reaching(unit, schedule.when)
        latest_s = self._room_s - _span_s(unit)
        starts_s = list(self._starts(unit, latest_s))
        if not starts_s:
            self._does_not_fit(unit, schedule.at, _span_s(unit))
        elif schedule.times is not None and len(starts_s) < schedule.times and self._intact(unit):
            self._found.append(((*unit.place, "times"), self._too_many(len(starts_s), schedule.times)))
        return [
            tuple(_items(unit, Due(entry=unit.entries[0], number=number, at_s=start_s, latest_s=start_s)))
            for number, start_s in enumerate(starts_s)
        ]

    def _too_many(self, fitting: int, wanted: int) -> str:
        return f"only {fitting} of {wanted} fit into the phase faults of {format_duration(self._room_s)}"

    def _starts(self, unit: Unit, latest_s: float) -> Iterator[float]:
        """The starts, each early enough to be healed within the phase."""
        schedule = unit.schedule
        rng = Random(f"{self._seed}:times:{unit.key}")  # noqa: S311  (repeatable, not secret)
        if schedule.at > latest_s:
            return
        if schedule.random is not None:
            ends_s = min(schedule.at + schedule.random.within, latest_s)
            yield from sorted(round(rng.uniform(schedule.at, ends_s), 6) for _ in range(schedule.random.times))
            return
        count = 1
        if schedule.every is not None:
            fitting = max(0, int((latest_s - schedule.at) / schedule.every + 1e-9) + 1)
            count = fitting if schedule.times is None else min(fitting, schedule.times)
        for number in range(count):
            start_s = schedule.at + number * (schedule.every or 0.0)
            yield round(min(start_s + rng.uniform(0.0, schedule.jitter), latest_s), 6)

    def _following(self, unit: Unit, name: str, moment: Moment) -> list[tuple[Due, ...]] | None:
        meant = self._named(unit, name)
        if meant is None or meant.key not in self._plays:
            return None
        plays = []
        for number, play in enumerate(self._plays[meant.key]):
            last = play[-1:] if meant.kind == "sequence" else play
            lasting = [(one, one.lasts_s if moment == "healed" else 0.0) for one in last]
            first = Due(
                entry=unit.entries[0],
                number=number,
                at_s=round(max(one.at_s + lasts_s for one, lasts_s in lasting) + unit.schedule.at, 6),
                latest_s=round(max(one.latest_s + lasts_s for one, lasts_s in lasting) + unit.schedule.at, 6),
                trigger=Follow(
                    of=tuple((one.entry.key, one.number) for one in last), moment=moment, delay_s=unit.schedule.at
                ),
            )
            plays.append(tuple(_items(unit, first)))
        return self._fitting(unit, plays)

    def _named(self, unit: Unit, name: str) -> Unit | None:
        """The earlier unit of that name; None where there is none, which is told, or where that cannot be known."""
        labelled = [one for one in self._before if one.schedule.label == name]
        alike = labelled or [one for one in self._before if one.kind == "single" and one.entries[0].name == name]
        if len(alike) == 1:
            return alike[0]
        place = (*unit.place, "after")
        if len(alike) > 1:
            text = f"{len(alike)} earlier entries are called {name!r}; give the one you mean a name: as: NAME"
            self._found.append((place, text))
        elif name not in _names_written(self._written.document.data, before=int(unit.place[1])):
            known = {one.schedule.label or one.entries[0].name for one in self._before if one.kind == "single"}
            known |= {one.schedule.label for one in self._before if one.schedule.label is not None}
            self._found.append((place, f"no earlier entry is called {name!r}; {suggest(name, known)}"))
        return None

    def _reaching(self, unit: Unit, when: When) -> list[tuple[Due, ...]] | None:
        latest_s = self._room_s - _span_s(unit) - unit.schedule.at
        within_s = when.within if when.within is not None else latest_s
        if within_s <= 0:
            self._does_not_fit(unit, unit.schedule.at, _span_s(unit))
            return None
        first = Due(
            entry=unit.entries[0],
            number=0,
            at_s=unit.schedule.at,
            latest_s=round(within_s + unit.schedule.at, 6),
            trigger=Reach(entry=unit.key, when=when, within_s=round(within_s, 6), delay_s=unit.schedule.at),
        )
        return self._fitting(unit, [tuple(_items(unit, first))])

    def _fitting(self, unit: Unit, plays: list[tuple[Due, ...]]) -> list[tuple[Due, ...]]:
        ends = [(one.latest_s + one.lasts_s, one) for play in plays for one in play]
        if ends and max(ends, key=lambda it: it[0])[0] > self._room_s + 1e-9:
            begins_s = max(one.latest_s for play in plays for one in play[:1])
            self._does_not_fit(unit, begins_s, _span_s(unit))
        return plays

    def _does_not_fit(self, unit: Unit, at_s: float, span_s: float) -> None:
        begins = "it begins" if unit.schedule.follows is None and unit.schedule.when is None else "it may begin"
        text = (
            f"does not fit: {begins} at {format_duration(at_s)} and is healed after {format_duration(span_s)}, but the "
            f"phase faults lasts {format_duration(self._room_s)}"
        )
        self._found.append(((*unit.place, unit.entries[0].name if unit.kind == "single" else unit.kind), text))


def _items(unit: Unit, first: Due) -> Iterator[Due]:
    """What plays when a unit begins as `first` says: one fault, one after the other, or all of them."""
    if unit.kind == "parallel":
        for entry in unit.entries:
            yield replace(first, entry=entry).later(entry.begins_s)
        return
    one = first.later(unit.entries[0].begins_s)
    yield one
    for entry in unit.entries[1:]:
        begins_s = entry.begins_s
        follow = Follow(of=((one.entry.key, one.number),), moment="healed", delay_s=begins_s)
        one = Due(
            entry=entry,
            number=first.number,
            at_s=round(one.at_s + one.lasts_s + begins_s, 6),
            latest_s=round(one.latest_s + one.lasts_s + begins_s, 6),
            trigger=follow,
        )
        yield one


def _span_s(unit: Unit) -> float:
    """From a unit's beginning until all of it is healed."""
    zero = Due(entry=unit.entries[0], number=0, at_s=0.0, latest_s=0.0)
    return max(one.at_s + one.lasts_s for one in _items(unit, zero))


def _names_written(data: Mapping[str, Any], *, before: int) -> set[str]:
    """Whatever the entries before that one may be called, also those that are wrong and were left out."""
    entries: Sequence[Any] = data.get("faults") or ()
    mappings = [entry for entry in entries[:before] if isinstance(entry, Mapping)]
    return {str(word) for entry in mappings for word in (*entry, entry.get("as"))}
