"""The faults of a run that was played, each pinned down: when it played, on whom, so that any part can be played again.

plan, events -> Pinned, Pinned, ... -> the entries of an experiment, all or some of them, always with the same meaning
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from chaos.faults.fault import RoleShape
from chaos.parameters import keys_of
from chaos.planner import Occurrence
from chaos.schedule import Following, Reaching
from chaos.swarm.anchoring import anchored_fault
from metrics.events import Event
from metrics.units import parse_duration

_SELECTION: Final = ("count", "percent", "all", "one_per_zone", "zone", "instance")
_SHORTEST_S: Final = 0.2
"""A fault that is shorter is hardly there: none is halved below this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """One occurrence on fixed victims, where they were chosen beforehand."""

    label: str
    name: str
    params: Mapping[str, Any]
    at_s: float
    """When it began, in the phase."""
    lasts_s: float
    after: tuple[str, str, float] | None = None
    """The label of what it follows, which moment of that, and how long after it: used while that plays too."""
    when: Mapping[str, Any] | None = None
    """What it waits for, as an experiment writes it; then `at_s` is how long after that."""

    def entry(self, playing: Sequence[str]) -> dict[str, Any]:
        """As an experiment with the faults of these labels writes it."""
        written: dict[str, Any] = {self.name: dict(self.params), "as": self.label, "at": seconds(self.at_s)}
        if self.when is not None:
            written["when"] = dict(self.when)
        elif self.after is not None and self.after[0] in playing:
            followed, moment, delay_s = self.after
            written |= {"after": {moment: followed}, "at": seconds(delay_s)}
        return written


def pin(timeline: Sequence[Occurrence], roles: Mapping[str, RoleShape], events: Sequence[Event]) -> list[Pinned]:
    """Every occurrence that played, in order of time; one on several chosen instances becomes one on each of them."""
    played = {event.fault_id for event in events if event.kind == "fault.injected"}
    triggered = {
        event.fault_id: float(event.data["at_s"])
        for event in events
        if event.kind == "fault.triggered" and "at_s" in event.data
    }
    pinned: list[Pinned] = []
    for one in timeline:
        if one.fault_id in played:
            pinned += _pin(one, roles, triggered.get(one.fault_id, one.at_s))
    return pinned


def _pin(one: Occurrence, roles: Mapping[str, RoleShape], began_s: float) -> Iterator[Pinned]:
    first = Pinned(
        label=one.fault_id,
        name=one.name,
        params=anchored_fault(one.params, one.fault),
        at_s=began_s,
        lasts_s=one.fault.heal_after_s or 0.0,
    )
    if isinstance(one.trigger, Following) and len(one.trigger.fault_ids) == 1:
        first = replace(first, after=(one.trigger.fault_ids[0], one.trigger.moment, one.trigger.delay_s))
    if isinstance(one.trigger, Reaching):
        when = one.trigger.when.model_dump(by_alias=True, exclude_none=True, exclude={"within"})
        first = replace(first, when={**when, "within": seconds(one.trigger.within_s)}, at_s=one.trigger.delay_s)
    chosen = _chosen_params(one, roles)
    for number, params in enumerate(chosen):
        # What follows it goes on to follow the first of them.
        label = one.fault_id if number == 0 else f"{one.fault_id}.{number + 1}"
        yield replace(first, label=label, params={**params})


def _chosen_params(one: Occurrence, roles: Mapping[str, RoleShape]) -> list[dict[str, Any]]:
    """Its parameters with the victims by name, where a seed has chosen them."""
    params = anchored_fault(one.params, one.fault)
    role = roles.get(str(params.get("role")))
    keys = set(keys_of(type(one.fault)).values())
    if role is None or "instance" not in keys or params.get("leader") is not None or not one.instances:
        return [params]
    plain = {key: value for key, value in params.items() if key not in _SELECTION}
    if len(one.instances) > 1 and set(one.instances) == set(role.zones):
        return [{**plain, "all": True}]
    return [{**plain, "instance": name} for name in one.instances]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A part of the faults of a run, in a phase that is so long."""

    faults: tuple[Pinned, ...]
    room_s: float

    def entries(self) -> list[dict[str, Any]]:
        """As an experiment writes them."""
        playing = [one.label for one in self.faults]
        return [one.entry(playing) for one in self.faults]


def simpler(candidate: Candidate) -> Iterator[Candidate]:
    """What is simpler than a candidate by one step: it begins at once, ends at once, one fault is half as long."""
    timed = [one for one in candidate.faults if one.when is None]
    first_s = min((one.at_s for one in timed), default=0.0)
    if first_s > 0.5:
        moved = (one if one.when else replace(one, at_s=round(one.at_s - first_s, 6)) for one in candidate.faults)
        yield replace(candidate, faults=tuple(moved))
    if len(timed) == len(candidate.faults):
        ends_s = max((one.at_s + one.lasts_s for one in candidate.faults), default=0.0)
        if ends_s + 1.0 < candidate.room_s:
            yield replace(candidate, room_s=round(ends_s + 0.5, 3))
    for number, one in enumerate(candidate.faults):
        shorter = _half_as_long(one)
        if shorter is not None:
            faults = (*candidate.faults[:number], shorter, *candidate.faults[number + 1 :])
            yield replace(candidate, faults=faults)


def _half_as_long(one: Pinned) -> Pinned | None:
    """With the duration that is how long it lasts halved; None where it is short, or not written as one."""
    for key, value in one.params.items():
        if not isinstance(value, str) or one.lasts_s < 2 * _SHORTEST_S:
            continue
        try:
            written_s = parse_duration(value)
        except ValueError:
            continue
        if abs(written_s - one.lasts_s) < 1e-6:
            half_s = round(one.lasts_s / 2, 3)
            return replace(one, params={**one.params, key: seconds(half_s)}, lasts_s=half_s)
    return None


def seconds(value_s: float) -> str:
    """A duration as files write it: to the microsecond, without zeros that say nothing."""
    text = f"{value_s:.6f}".rstrip("0").rstrip(".")
    return f"{text}s"
