"""The experiment resolved: when each fault plays and whom it takes, as a pure function of file, target and seed.

Experiment + roles + seed -> times (see `chaos.scheduling`) -> victims, in order of time -> Plan
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from chaos.crosschecks import unknown_names
from chaos.errors import ExperimentError
from chaos.experiment import Experiment, FaultEntry
from chaos.faults.fault import Fault, NotThereError, RoleShape, most_at_once, requirement_of
from chaos.parameters import keys_of
from chaos.requirement import Requirement
from chaos.schedule import BlastRadius, Following, Reaching, Trigger
from chaos.scheduling import Due, Follow, Reach, due_of
from chaos.wording import Finding, suggest
from metrics.arrivals import ArrivalsError, resolve
from metrics.units import format_duration

PHASES: Final = ("warmup", "baseline", "faults", "recovery", "quiet")
SETTLE_S: Final = 1.0
"""How long a healed instance is left alone: it has to start and be seen as ready before it can be a victim again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """One fault at one time on chosen victims; `at_s` counts from the start of the phase `faults`.

    With a trigger it is the soonest that can come; `latest_s` is the latest.
    """

    fault_id: str
    name: str
    fault: Fault
    at_s: float
    instances: tuple[str, ...]
    """Whom it takes, or for a choice that is made when it plays, among whom."""
    params: Mapping[str, Any]
    latest_s: float | None = None
    trigger: Trigger | None = None

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
            **({} if self.trigger is None else {"latest_s": self.latest_s, **self.trigger.to_json()}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do; of what is decided while it goes on (a trigger, who leads), between which bounds."""

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
    blast_radius: BlastRadius | None = None

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
            "blast_radius": None if self.blast_radius is None else self.blast_radius.to_json(),
        }


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
    due = due_of(experiment, seed, found)
    known = {name: shape for name, shape in (roles or {}).items() if shape is not None}
    playing = [one for one in due if one.entry.key not in unfit]
    timeline = () if roles is None else _choose_victims(playing, known, seed, experiment.blast_radius, found)
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
        blast_radius=experiment.blast_radius,
    )


def lacking(experiment: Experiment, roles: Mapping[str, RoleShape]) -> list[str]:
    """What this machine has not got of what the faults of a valid experiment need, each with the fault's line."""
    findings = [
        ((*entry.place, entry.name), text)
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


def _unfit(experiment: Experiment, roles: Mapping[str, RoleShape]) -> dict[str, list[Finding]]:
    """The entries that cannot be played on this target even while nothing else plays, by index, with why.

    Also those of which that cannot be told, because they or their role have mistakes: with nothing.
    """
    unfit: dict[str, list[Finding]] = {}
    for entry in experiment.faults:
        place = (*entry.place, entry.name)
        certain = experiment.written.meant(place) and _intact(experiment, entry)
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
        unfit.setdefault(entry.key, []).extend((place, text) for text in told)
    return unfit


def _requirements(
    experiment: Experiment,
    unfit: Collection[str],
    roles: Mapping[str, RoleShape],
    names: Mapping[str, Collection[str]],
    found: list[Finding],
) -> Requirement:
    """What all faults need, as far as they fit the target; what cannot be had goes to `found`."""
    awaited = tuple(unit.schedule.when.observe for unit in experiment.units if unit.schedule.when is not None)
    whole = Requirement(readings=tuple(dict.fromkeys(awaited)))
    for entry in experiment.faults:
        if entry.key in unfit:
            continue
        place = (*entry.place, entry.name)
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


def _intact(experiment: Experiment, entry: FaultEntry) -> bool:
    """Whether nothing is wrong with those parameters of a fault that are not in seconds."""
    written = experiment.written
    return all(
        written.intact((*entry.place, entry.name, key))
        for field, key in keys_of(type(entry.fault)).items()
        if not field.endswith("_s")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    """What one occurrence has in its hands, and until when at the latest."""

    until_s: float
    victims: tuple[str, ...]
    at_once: Mapping[str, int]
    """role -> how many of it at a time"""


@dataclass(slots=True, kw_only=True)
class _Taken:
    """Who is in the hands of faults while victims are chosen, in order of time."""

    roles: Mapping[str, RoleShape]
    radius: BlastRadius | None
    _holds: dict[tuple[str, int], _Hold] = field(default_factory=dict)
    _over: dict[tuple[str, int], frozenset[tuple[str, int]]] = field(default_factory=dict)
    """Occurrence -> those that are healed for sure when it begins, whenever that is."""

    def busy(self, one: Due) -> frozenset[str]:
        return frozenset(name for hold in self._beside(one) for name in hold.victims)

    def take(self, one: Due, victims: tuple[str, ...]) -> None:
        """Gives them into the hands of a fault.

        Raises:
            ValueError: more of a role would be taken at a time than the experiment allows.
        """
        fault = one.entry.fault
        at_once = self._counts(victims, most_at_once(fault, len(victims)))
        for role, count in at_once.items():
            taken = sum(hold.at_once.get(role, 0) for hold in self._beside(one)) + count
            members = len(self.roles[role].zones)
            if self.radius is not None and taken > self.radius.allows(members):
                raise ValueError(
                    f"with it {taken} of {members} {role} would be in the hands of faults at a time, and blast_radius "
                    f"allows {self.radius.allows(members)}"
                )
        until_s = one.latest_s + fault.takes_s(len(victims)) + SETTLE_S
        self._holds[one.entry.key, one.number] = _Hold(until_s=until_s, victims=victims, at_once=at_once)

    def _beside(self, one: Due) -> list[_Hold]:
        """What may still be in other hands when an occurrence begins."""
        over = self._over_before(one)
        return [hold for other, hold in self._holds.items() if one.at_s < hold.until_s and other not in over]

    def _over_before(self, one: Due) -> frozenset[tuple[str, int]]:
        follows = one.trigger.of if isinstance(one.trigger, Follow) else ()
        over = frozenset(it for other in follows for it in self._over.get(other, ()))
        if isinstance(one.trigger, Follow) and one.trigger.moment == "healed":
            over |= frozenset(follows)
        self._over[one.entry.key, one.number] = over
        return over

    def _counts(self, victims: tuple[str, ...], at_once: int) -> dict[str, int]:
        of_role = {name: role for role, shape in self.roles.items() for name in shape.zones}
        counts = Counter(of_role[name] for name in victims)
        return {role: min(count, at_once) for role, count in counts.items()}


def _choose_victims(
    due: Sequence[Due], roles: Mapping[str, RoleShape], seed: int, radius: BlastRadius | None, found: list[Finding]
) -> tuple[Occurrence, ...]:
    rngs = {one.entry.key: Random(f"{seed}:victims:{one.entry.key}") for one in due}  # noqa: S311
    numbers: Counter[str] = Counter()
    taken = _Taken(roles=roles, radius=radius)
    timeline = []
    failed: set[str] = set()
    ids: dict[tuple[str, int], str] = {}
    for one in due:
        entry = one.entry
        try:
            victims = entry.fault.choose(roles, taken.busy(one), rngs[entry.key])
            taken.take(one, victims)
        except ValueError as error:
            if entry.key not in failed:  # once an entry: the later occurrences fail for the same reason
                failed.add(entry.key)
                text = f"at {format_duration(one.at_s)} of the phase: {error}"
                found.append(((*entry.place, entry.name), text))
            continue
        numbers[entry.name] += 1
        fault_id = ids[entry.key, one.number] = f"{entry.name}-{numbers[entry.name]}"
        timeline.append(
            Occurrence(
                fault_id=fault_id,
                name=entry.name,
                fault=entry.fault,
                at_s=one.at_s,
                latest_s=one.latest_s,
                trigger=_trigger(one, ids),
                instances=victims,
                params=entry.params,
            )
        )
    return tuple(timeline)


def _trigger(one: Due, ids: Mapping[tuple[str, int], str]) -> Trigger | None:
    if isinstance(one.trigger, Reach):
        reach = one.trigger
        return Reaching(entry=reach.entry, when=reach.when, within_s=reach.within_s, delay_s=reach.delay_s)
    if isinstance(one.trigger, Follow):
        # What has no victims is told, and then nothing of the plan is used.
        fault_ids = tuple(ids[other] for other in one.trigger.of if other in ids)
        return Following(fault_ids=fault_ids, moment=one.trigger.moment, delay_s=one.trigger.delay_s)
    return None


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
