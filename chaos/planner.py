"""The experiment resolved: when each fault plays and whom it takes, as a pure function of file, target and seed.

Experiment + roles + seed -> times (at + k * every + jitter) -> victims, in order of time -> Plan
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from chaos.errors import ExperimentError
from chaos.experiment import Experiment, FaultEntry
from chaos.faults.fault import Fault, RoleShape
from chaos.targets.topology import Topology
from chaos.wording import suggest
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
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """An occurrence whose victims are not chosen yet."""

    entry_index: int
    number: int
    at_s: float


def plan(
    experiment: Experiment,
    roles: Mapping[str, RoleShape],
    seed: int,
    *,
    probe_path: str | None = None,
    names: Mapping[str, Collection[str]] | None = None,
) -> Plan:
    """The experiment on a target of these roles, resolved by `seed`; the same arguments give the same plan.

    `probe_path` is what the target says the prober should ask, `names` what expectations can refer to, see `names_of`.

    Raises:
        ExperimentError: faults that do not fit into their phase, victims or names that are not there; with lines.
    """
    problems: list[str] = []
    timeline = _choose_victims(experiment, roles, seed, _times(experiment, seed, problems), problems)
    path = experiment.load.probe.path or probe_path
    if experiment.locustfile is None and path is None:
        text = "nothing would be measured: give load.locustfile with load.arrivals, or load.probe.path"
        problems.append(experiment.document.problem(("load",), text))
    problems += _unknown_names(experiment, names or {})
    if problems:
        raise ExperimentError(problems)
    return Plan(
        title=experiment.title,
        seed=seed,
        phases={name: getattr(experiment.phases, name) for name in PHASES},
        load=_load(experiment),
        probe=None if path is None else {"path": path, "interval_s": experiment.load.probe.interval},
        timeline=timeline,
        expect=experiment.expect,
        guardrails=tuple(experiment.document.data.get("guardrails") or ()),
    )


def _unknown_names(experiment: Experiment, names: Mapping[str, Collection[str]]) -> list[str]:
    """What expectations name that does not exist: readings and dumps of the target, faults of the experiment."""
    from metrics.checkers import parse_expectation

    known = {**names, "during": {entry.name for entry in experiment.faults}}
    problems = []
    for index, entry in enumerate(experiment.expect):
        checker = parse_expectation(entry).checker
        (title,) = entry
        for parameter, allowed in known.items():
            name = getattr(checker, parameter, None)
            if name is not None and name not in allowed:
                whose = "this experiment has no fault" if parameter == "during" else f"the target has no {parameter}"
                text = f"{whose} {name!r}; {suggest(name, allowed)}"
                problems.append(experiment.document.problem(("expect", index, title, parameter), text))
    return problems


def _times(experiment: Experiment, seed: int, problems: list[str]) -> list[_Due]:
    """When each entry plays, in order of time. Every entry has a generator of its own: a new entry moves no other."""
    due: list[_Due] = []
    room_s = experiment.phases.faults
    for index, entry in enumerate(experiment.faults):
        rng = Random(f"{seed}:times:{index}")  # noqa: S311  (repeatable, not secret)
        lasts_s = entry.fault.heal_after_s or 0.0
        latest_s = room_s - lasts_s
        starts_s = _starts(entry, latest_s)
        if not starts_s:
            text = (
                f"does not fit: it begins at {format_duration(entry.schedule.at)} and is healed after "
                f"{format_duration(lasts_s)}, but the phase faults lasts {format_duration(room_s)}"
            )
            problems.append(experiment.document.problem(("faults", index, entry.name), text))
        if entry.schedule.times is not None and 0 < len(starts_s) < entry.schedule.times:
            text = (
                f"only {len(starts_s)} of {entry.schedule.times} fit into the phase faults of {format_duration(room_s)}"
            )
            problems.append(experiment.document.problem(("faults", index, "times"), text))
        due += [
            _Due(
                entry_index=index,
                number=number,
                at_s=round(min(start_s + rng.uniform(0.0, entry.schedule.jitter), latest_s), 6),
            )
            for number, start_s in enumerate(starts_s)
        ]
    return sorted(due, key=lambda one: (one.at_s, one.entry_index, one.number))


def _starts(entry: FaultEntry, latest_s: float) -> list[float]:
    """The starts without jitter, each early enough to be healed within the phase."""
    schedule = entry.schedule
    if schedule.every is None:
        return [schedule.at] if schedule.at <= latest_s else []
    fitting = max(0, int((latest_s - schedule.at) / schedule.every + 1e-9) + 1) if schedule.at <= latest_s else 0
    count = fitting if schedule.times is None else min(fitting, schedule.times)
    return [schedule.at + number * schedule.every for number in range(count)]


def _choose_victims(
    experiment: Experiment, roles: Mapping[str, RoleShape], seed: int, due: Sequence[_Due], problems: list[str]
) -> tuple[Occurrence, ...]:
    rngs = [Random(f"{seed}:victims:{index}") for index in range(len(experiment.faults))]  # noqa: S311
    numbers: Counter[str] = Counter()
    busy_until: dict[str, float] = {}
    timeline = []
    failed: set[int] = set()
    for one in due:
        entry = experiment.faults[one.entry_index]
        busy = frozenset(name for name, until_s in busy_until.items() if one.at_s < until_s)
        try:
            victims = entry.fault.choose(roles, busy, rngs[one.entry_index])
        except ValueError as error:
            if one.entry_index not in failed:  # once an entry: the later occurrences fail for the same reason
                failed.add(one.entry_index)
                when = f"at {format_duration(one.at_s)} of the phase: " if busy else ""
                place = ("faults", one.entry_index, entry.name)
                problems.append(experiment.document.problem(place, f"{when}{error}"))
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


def _load(experiment: Experiment) -> dict[str, Any] | None:
    if experiment.locustfile is None:
        return None
    load = experiment.load
    return {"locustfile": str(experiment.locustfile), "arrivals_per_s": load.arrivals, "users": load.users}


def names_of(topology: Topology) -> dict[str, Collection[str]]:
    """What expectations can refer to of a target, by the parameter that does."""
    return {"reading": topology.file.observe, "dump": [final.name for final in topology.file.final]}


def shapes(topology: Topology) -> dict[str, RoleShape]:
    """The roles of a target that faults can choose from: all but tasks, which have ended when the run begins."""
    return {
        name: RoleShape(
            name=name,
            zones={instance.name: instance.zone for instance in topology.instances(name)},
            external=role.external,
        )
        for name, role in topology.roles.items()
        if not role.task
    }
