"""The experiment resolved: when each fault plays and whom it takes, as a pure function of file, target and seed.

Experiment + roles + seed -> times (at + k * every + jitter) -> victims, in order of time -> Plan
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from chaos.crosschecks import unknown_names
from chaos.errors import ExperimentError
from chaos.experiment import Experiment, FaultEntry, Schedule
from chaos.faults.fault import Fault, NotThereError, RoleShape, requirement_of
from chaos.parameters import keys_of
from chaos.requirement import Requirement
from chaos.wording import Finding, suggest
from metrics.arrivals import ArrivalsError, resolve
from metrics.units import format_duration

PHASES: Final = ("warmup", "baseline", "faults", "recovery", "quiet")
SETTLE_S: Final = 1.0
"""How long a healed instance is left alone: it has to start and be seen as ready before it can be a victim again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """One fault at one time on chosen victims; `at_s` counts from the start of the phase `faults`."""

    fault_id: str
    name: str
    fault: Fault
    at_s: float
    instances: tuple[str, ...]
    params: Mapping[str, Any]

    @property
    def aim(self) -> str:
        """On whom or what, for people."""
        return ", ".join(self.instances) or str(self.params.get("name", "the target"))

    def to_json(self) -> dict[str, Any]:
        """As in `timeline` of plan.json."""
        return {
            "fault_id": self.fault_id,
            "fault": self.name,
            "at_s": self.at_s,
            "heal_after_s": self.fault.heal_after_s,
            "instances": list(self.instances),
            "params": dict(self.params),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do; nothing of it is decided later."""

    title: str
    seed: int
    phases: Mapping[str, float]
    """phase -> planned seconds, in order"""
    load: Mapping[str, Any] | None
    probe: Mapping[str, Any] | None
    timeline: tuple[Occurrence, ...]
    expect: tuple[Mapping[str, Any], ...]
    guardrails: tuple[Mapping[str, Any], ...]
    requires: Requirement = field(default_factory=Requirement)
    """What the faults need of the target before it starts, and of the machine."""

    def to_json(self) -> dict[str, Any]:
        """The content of plan.json, see docs/formats.md."""
        return {
            "schema": "plan/1",
            "title": self.title,
            "seed": self.seed,
            "phases": [{"name": name, "duration_s": duration_s} for name, duration_s in self.phases.items()],
            "load": None if self.load is None else dict(self.load),
            "probe": None if self.probe is None else dict(self.probe),
            "timeline": [occurrence.to_json() for occurrence in self.timeline],
            "expect": [dict(entry) for entry in self.expect],
            "guardrails": [dict(entry) for entry in self.guardrails],
            "requires": self.requires.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """An occurrence whose victims are not chosen yet."""

    entry: FaultEntry
    number: int
    at_s: float


def plan(
    experiment: Experiment,
    roles: Mapping[str, RoleShape | None] | None,
    seed: int,
    *,
    probe_path: str | None = None,
    names: Mapping[str, Collection[str]] | None = None,
) -> Plan:
    """The experiment on a target of these roles, resolved by `seed`; the same arguments give the same plan.

    `probe_path` is what the target says the prober should ask, `names` what expectations can refer to (see
    `chaos.outline`). A role of None is there, but not understood; without `roles` nothing is known of them. Of an
    experiment that is not valid itself only that is told which stays when the rest is mended.

    Raises:
        ExperimentError: what is wrong with the file itself, faults that do not fit into their phase, victims or names
            that are not there; with lines, in their order.
    """
    written = experiment.written
    unfit = {} if roles is None else _unfit(experiment, _Roles(roles))
    found: list[Finding] = [finding for findings in unfit.values() for finding in findings]
    due = _times(experiment, seed, found)
    known = {name: shape for name, shape in (roles or {}).items() if shape is not None}
    playing = [one for one in due if one.entry.index not in unfit]
    timeline = () if roles is None else _choose_victims(playing, known, seed, found)
    requires = Requirement() if roles is None else _requirements(experiment, unfit, _Roles(roles), names or {}, found)
    path = experiment.load.probe.path or probe_path
    if experiment.locustfile is None and path is None and written.whole(("load",)):
        text = "nothing would be measured: give load.locustfile with load.arrivals, or load.probe.path"
        found.append((("load",), text))
    found += unknown_names(written, names or {})
    load = _load(experiment, found)
    if problems := written.also(found).problems():
        raise ExperimentError(problems)
    return Plan(
        title=experiment.title,
        seed=seed,
        phases={name: getattr(experiment.phases, name) for name in PHASES},
        load=load,
        probe=None if path is None else {"path": path, "interval_s": experiment.load.probe.interval},
        timeline=timeline,
        expect=experiment.expect,
        guardrails=tuple(written.document.data.get("guardrails") or ()),
        requires=requires,
    )


def lacking(experiment: Experiment, roles: Mapping[str, RoleShape]) -> list[str]:
    """What this machine has not got of what the faults of a valid experiment need, each with the fault's line."""
    findings = [
        (("faults", entry.index, entry.name), text)
        for entry in experiment.faults
        for text in requirement_of(entry.fault, roles).lacking()
    ]
    return experiment.written.also(findings).problems()


class _NotUnderstoodError(Exception):
    """A role that the target has, but whose description has mistakes."""


class _Roles(Mapping[str, RoleShape]):
    """The roles as faults see them: of one that is not understood only the name."""

    def __init__(self, roles: Mapping[str, RoleShape | None]) -> None:
        self._roles = roles

    def __getitem__(self, name: str) -> RoleShape:
        shape = self._roles[name]
        if shape is None:
            raise _NotUnderstoodError(name)
        return shape

    def __contains__(self, name: object) -> bool:
        return name in self._roles

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


def _unfit(experiment: Experiment, roles: Mapping[str, RoleShape]) -> dict[int, list[Finding]]:
    """The entries that cannot be played on this target even while nothing else plays, by index, with why.

    Also those of which that cannot be told, because they or their role have mistakes: with nothing.
    """
    unfit: dict[int, list[Finding]] = {}
    for entry in experiment.faults:
        place = ("faults", entry.index, entry.name)
        certain = experiment.written.meant(place) and _intact(experiment, entry, seconds=False)
        told: Sequence[str] = ()
        try:
            entry.fault.choose(roles, frozenset(), Random(0))  # noqa: S311  (whom it takes does not matter here)
        except NotThereError as error:
            told = error.problems
        except ValueError as error:
            told = [str(error)] if certain else []
        except _NotUnderstoodError:
            pass
        else:
            if certain:
                continue
        unfit.setdefault(entry.index, []).extend((place, text) for text in told)
    return unfit


def _requirements(
    experiment: Experiment,
    unfit: Collection[int],
    roles: Mapping[str, RoleShape],
    names: Mapping[str, Collection[str]],
    found: list[Finding],
) -> Requirement:
    """What all faults need, as far as they fit the target; what cannot be had goes to `found`."""
    whole = Requirement()
    for entry in experiment.faults:
        if entry.index in unfit:
            continue
        place = ("faults", entry.index, entry.name)
        try:
            needed = requirement_of(entry.fault, roles)
            whole = whole.merged(needed)
        except _NotUnderstoodError:
            continue
        except NotThereError as error:
            found += ((place, text) for text in error.problems)
            continue
        except ValueError as error:
            found.append((place, str(error)))
            continue
        found += ((place, text) for text in _not_in_target(needed, roles, names))
    return whole


def _not_in_target(
    needed: Requirement, roles: Mapping[str, RoleShape], names: Mapping[str, Collection[str]]
) -> Iterator[str]:
    for kind, wanted in (("output", needed.outputs), ("reading", needed.readings)):
        for name in wanted:
            if name not in names.get(kind, {name}):
                yield f"the target has no {kind} {name!r}; {suggest(name, names[kind])}"
    for role in sorted(needed.roles):
        if role not in roles:
            yield f"the target has no role {role!r}; {suggest(role, roles)}"
        elif roles[role].external:
            yield f"role {role!r} is external: how it starts is not ours to change"


def _intact(experiment: Experiment, entry: FaultEntry, *, seconds: bool) -> bool:
    """Whether nothing is wrong with those parameters of a fault that are in seconds, or with all others."""
    written = experiment.written
    return all(
        written.intact(("faults", entry.index, entry.name, key))
        for field, key in keys_of(type(entry.fault)).items()
        if field.endswith("_s") == seconds
    )


def _times(experiment: Experiment, seed: int, found: list[Finding]) -> list[_Due]:
    """When each entry plays, in order of time; of those whose times are as their author wants them.

    Every entry has a generator of its own: a new entry moves no other.
    """
    due: list[_Due] = []
    room_s = experiment.phases.faults
    for entry in experiment.faults if experiment.written.whole(("phases", "faults")) else ():
        place = ("faults", entry.index)
        if not experiment.written.intact((*place, "at")) or not _intact(experiment, entry, seconds=True):
            continue
        rng = Random(f"{seed}:times:{entry.index}")  # noqa: S311  (repeatable, not secret)
        lasts_s = entry.fault.heal_after_s or 0.0
        latest_s = room_s - lasts_s
        starts_s = _starts(entry, latest_s)
        if not starts_s:
            text = (
                f"does not fit: it begins at {format_duration(entry.schedule.at)} and is healed after "
                f"{format_duration(lasts_s)}, but the phase faults lasts {format_duration(room_s)}"
            )
            found.append(((*place, entry.name), text))
        if not all(experiment.written.intact((*place, key)) for key in Schedule.model_fields):
            continue
        if entry.schedule.times is not None and 0 < len(starts_s) < entry.schedule.times:
            text = (
                f"only {len(starts_s)} of {entry.schedule.times} fit into the phase faults of {format_duration(room_s)}"
            )
            found.append(((*place, "times"), text))
        due += [
            _Due(
                entry=entry,
                number=number,
                at_s=round(min(start_s + rng.uniform(0.0, entry.schedule.jitter), latest_s), 6),
            )
            for number, start_s in enumerate(starts_s)
        ]
    return sorted(due, key=lambda one: (one.at_s, one.entry.index, one.number))


def _starts(entry: FaultEntry, latest_s: float) -> list[float]:
    """The starts without jitter, each early enough to be healed within the phase."""
    schedule = entry.schedule
    if schedule.every is None:
        return [schedule.at] if schedule.at <= latest_s else []
    fitting = max(0, int((latest_s - schedule.at) / schedule.every + 1e-9) + 1) if schedule.at <= latest_s else 0
    count = fitting if schedule.times is None else min(fitting, schedule.times)
    return [schedule.at + number * schedule.every for number in range(count)]


def _choose_victims(
    due: Sequence[_Due], roles: Mapping[str, RoleShape], seed: int, found: list[Finding]
) -> tuple[Occurrence, ...]:
    rngs = {one.entry.index: Random(f"{seed}:victims:{one.entry.index}") for one in due}  # noqa: S311
    numbers: Counter[str] = Counter()
    busy_until: dict[str, float] = {}
    timeline = []
    failed: set[int] = set()
    for one in due:
        entry = one.entry
        busy = frozenset(name for name, until_s in busy_until.items() if one.at_s < until_s)
        try:
            victims = entry.fault.choose(roles, busy, rngs[entry.index])
        except ValueError as error:
            if entry.index not in failed:  # once an entry: the later occurrences fail for the same reason
                failed.add(entry.index)
                text = f"at {format_duration(one.at_s)} of the phase: {error}"
                found.append((("faults", entry.index, entry.name), text))
            continue
        numbers[entry.name] += 1
        busy_until |= dict.fromkeys(victims, one.at_s + entry.fault.takes_s(len(victims)) + SETTLE_S)
        timeline.append(
            Occurrence(
                fault_id=f"{entry.name}-{numbers[entry.name]}",
                name=entry.name,
                fault=entry.fault,
                at_s=one.at_s,
                instances=victims,
                params=entry.params,
            )
        )
    return tuple(timeline)


def _load(experiment: Experiment, found: list[Finding]) -> dict[str, Any] | None:
    """What the load process is told; the arrivals where they and the phases are as their author wants them."""
    load = experiment.load
    sound = all(experiment.written.whole(place) for place in (("load", "arrivals"), ("phases",)))
    if experiment.locustfile is None or load.arrivals is None or not sound:
        return None
    phases = {name: getattr(experiment.phases, name) for name in PHASES}
    try:
        arrivals = resolve(load.arrivals, folder=experiment.source.absolute().parent, phases=phases)
    except ArrivalsError as error:
        found += [(("load", "arrivals", *problem.path), problem.message) for problem in error.problems]
        return None
    return {"locustfile": str(experiment.locustfile), "arrivals": arrivals.to_json(), "users": load.users}
