"""Everything a judge may look at, read from a run's folder once and frozen.

    run.json  plan.json  events.ndjson  history  final/   --load-->   Evidence   --check-->   Finding

Nothing here decides. What is missing or damaged is named in `problems` by its part, so that whatever needs that
part becomes unknown instead of passing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from metrics.dumps import Dump, read_dumps
from metrics.events import Event, scan_events
from metrics.faults import Fault, faults_of, number_or_none
from metrics.history import PROBE, SEALED, read_recording, read_sealed
from metrics.operations import NEVER, Columns, Flags, Operations, pair
from metrics.resending import resent

JUDGED: Final = ("baseline", "faults", "recovery")
"""The phases that count; warm-up and quiet do not."""
PHASES: Final = ("warmup", "baseline", "faults", "recovery", "quiet")
RUN, PLAN, EVENTS, HISTORY = "run.json", "plan.json", "events.ndjson", "history"
"""The parts under which `Evidence.problems` names what is wrong."""
_IN_FLIGHT_NS: Final = 10_000_000_000
"""While a run goes on, an operation without completion is still awaited for so long."""


class NotARunError(ValueError):
    """The folder holds no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value of a topology's `observe`, at a moment the runner calls `at`."""

    t_ns: int
    at: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Hiccup:
    """A freeze of the machine itself."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCounts:
    """What a load process last said of itself; `finished` when that was its last word, with its exit status."""

    finished: bool
    returncode: int | None
    intended: float | None
    started: float | None
    unsent: float | None
    lateness_p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended; `outcome` is None where it never said so. `left` names what could not be put right."""

    outcome: str | None
    signal: str | None
    left: tuple[str, ...]
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run as it lies on disk. Times are CLOCK_MONOTONIC ns; `judged` are the phases that count."""

    run_dir: Path
    run: Mapping[str, Any]
    plan: Mapping[str, Any]
    events: Sequence[Event]
    phases: Mapping[str, tuple[int, int]]
    operations: Operations
    faults: Sequence[Fault]
    dumps: Mapping[str, Dump]
    readings: Mapping[str, Sequence[Reading]]
    hiccups: Sequence[Hiccup]
    loads: Mapping[str, LoadCounts]
    ending: Ending
    problems: Mapping[str, Sequence[str]]
    judged: Sequence[str] = JUDGED
    live: bool = False
    """The run still goes on: final counts and dumps are not there yet."""

    @cached_property
    def window_ns(self) -> tuple[int, int] | None:
        """From the start of the first judged phase to the end of the last; None where none began."""
        spans = [self.phases[name] for name in self.judged if name in self.phases]
        return (spans[0][0], spans[-1][1]) if spans else None

    @cached_property
    def requests(self) -> Operations:
        """What clients asked for in the judged phases.

        Where the load was cut off, what it awaited at that moment is left out: that it has no answer is nobody's
        failure but ours.
        """
        asked = self.operations.clients & self.operations.in_phases(self.judged)
        load = self.loads.get("load")
        if load is None or not load.finished or load.returncode != 0:
            ends_ns = self.operations.end_ns[asked & (self.operations.end_ns != NEVER)]
            asked &= _settled(self.operations, int(ends_ns.max(initial=0)))
        return self.operations.take(asked)

    @cached_property
    def probes(self) -> Operations:
        """The prober's operations in the judged phases."""
        return self.operations.take(self.operations.probes & self.operations.in_phases(self.judged))

    @property
    def injected(self) -> Sequence[Fault]:
        """The faults that were injected, in order of time."""
        return [fault for fault in self.faults if fault.injected_ns is not None]

    @property
    def origin_ns(self) -> int:
        """Zero of the times that people read: the start of the phase `faults`, as in the plan."""
        for name in ("faults", *PHASES):
            if name in self.phases:
                return self.phases[name][0]
        return self.events[0].t_ns if self.events else 0

    def seconds(self, t_ns: int | None) -> float | None:
        """Seconds since the start of the faults; None for never."""
        return None if t_ns is None or t_ns == NEVER else round((t_ns - self.origin_ns) / 1e9, 6)

    @property
    def wall_ahead_ns(self) -> int | None:
        """Wall time since 1970 less monotonic time, by the clock anchor of `run.json`; None where it has none."""
        clock = self.run.get("clock")
        anchor = clock if isinstance(clock, dict) else {}
        monotonic_ns, wall_ns = number_or_none(anchor.get("monotonic_ns")), number_or_none(anchor.get("wall_ns"))
        return None if monotonic_ns is None or wall_ns is None else int(wall_ns) - int(monotonic_ns)

    @cached_property
    def resent(self) -> int:
        """Operations that a client sent more than once without telling its history; 0 while the run goes on."""
        return 0 if self.live else resent(self.run_dir / "logs", self.operations.index)

    @property
    def load_planned(self) -> bool:
        """Whether clients were to send requests."""
        return bool(self.plan.get("load"))

    @property
    def own_target(self) -> bool:
        """Whether this run started the target's processes, so that nobody else's effects are in it."""
        attached = self.run.get("attached")
        if isinstance(attached, bool):
            return not attached
        # Before `run.json` said so: an attached run has such events only after it killed something.
        return any(event.kind == "instance.started" for event in self.events)

    def restricted(self, *phases: str) -> "Evidence":
        """The same evidence with only these phases judged."""
        return replace(self, judged=phases)


def load(run_dir: Path, *, live: bool = False) -> Evidence:
    """All evidence of a run; `live` while it still goes on, when what is in flight is left out.

    Raises:
        NotARunError: the folder holds neither `run.json` nor `events.ndjson`.
    """
    if not (run_dir / RUN).is_file() and not (run_dir / EVENTS).is_file():
        raise NotARunError(f"{run_dir}: no run lies here (neither {RUN} nor {EVENTS}); name a run folder")
    problems: dict[str, list[str]] = {}
    run = _document(run_dir / RUN, problems)
    plan = _document(run_dir / PLAN, problems)
    events = _events(run_dir, problems)
    columns = _columns(run_dir, problems, live=live)
    last_ns = max([*(event.t_ns for event in events), int(columns.t_ns.max(initial=0))], default=0)
    phases = _phases(events, last_ns)
    operations, nonsense = pair(columns, phases)
    if nonsense:
        problems.setdefault(HISTORY, []).extend(nonsense)
    if live:
        operations = operations.take(_settled(operations, last_ns))
    return Evidence(
        run_dir=run_dir,
        run=run,
        plan=plan,
        events=events,
        phases=phases,
        operations=operations,
        faults=faults_of(plan, events),
        dumps=_dumps(run_dir, events),
        readings=_readings(events),
        hiccups=_hiccups(events),
        loads=_loads(events),
        ending=_ending(events),
        problems=problems,
        live=live,
    )


def _document(path: Path, problems: dict[str, list[str]]) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        problems.setdefault(path.name, []).append(f"{path.name} cannot be read: {_short(error)}")
        return {}
    if not isinstance(document, dict):
        problems.setdefault(path.name, []).append(f"{path.name} holds no object")
        return {}
    return document


def _short(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _events(run_dir: Path, problems: dict[str, list[str]]) -> list[Event]:
    try:
        events, damaged = scan_events(run_dir)
    except OSError as error:
        events, damaged = [], [f"{EVENTS} cannot be read: {_short(error)}"]
    if damaged:
        problems[EVENTS] = damaged
    return events


def _columns(run_dir: Path, problems: dict[str, list[str]], *, live: bool) -> Columns:
    """The sealed history, or the recording while there is none or it cannot be read."""
    found: list[str] = []
    columns = None
    if not live and (run_dir / SEALED).is_file():
        try:
            table, torn = read_sealed(run_dir)
            columns = Columns.of_table(table)
        except (OSError, ValueError, KeyError, TypeError) as error:
            found.append(f"{SEALED} cannot be read: {_short(error)}")
    if columns is None:
        rows, torn = read_recording(run_dir)
        try:
            columns = Columns.of_rows(rows)
        except (ValueError, TypeError, OverflowError) as error:
            found.append(f"the recording holds rows that make no sense: {error}")
            columns = Columns.of_rows([])
    if not live:  # a batch half written looks torn while it is being written
        found += [f"history/{one.file} is damaged from byte {one.offset}: {one.reason}" for one in torn]
    if found:
        problems[HISTORY] = found
    return columns


def _settled(operations: Operations, now_ns: int) -> Flags:
    settled: Flags = (operations.end_ns != NEVER) | (operations.start_ns < now_ns - _IN_FLIGHT_NS)
    return settled


def _phases(events: Sequence[Event], last_ns: int) -> dict[str, tuple[int, int]]:
    """Phase -> [start, end): each ends where the next starts, an open one at the last thing known."""
    marks = [
        (event.t_ns, str(event.data.get("phase")))
        for event in events
        if event.kind in ("phase.started", "phase.ended") and event.data.get("phase") in PHASES
    ]
    started = [event.kind == "phase.started" for event in events if event.kind in ("phase.started", "phase.ended")]
    phases: dict[str, tuple[int, int]] = {}
    for place, ((start_ns, name), begins) in enumerate(zip(marks, started, strict=False)):
        if begins and name not in phases:
            end_ns = marks[place + 1][0] if place + 1 < len(marks) else last_ns + 1
            phases[name] = (start_ns, max(start_ns, end_ns))
    return phases


def _dumps(run_dir: Path, events: Sequence[Event]) -> dict[str, Dump]:
    reported: dict[str, int] = {}
    failed: dict[str, str] = {}
    for event in events:
        name = event.data.get("name")
        if event.kind == "dump.written" and isinstance(name, str) and isinstance(event.data.get("rows"), int):
            reported[name] = event.data["rows"]
        elif event.kind == "dump.failed" and isinstance(name, str):
            failed[name] = str(event.data.get("error"))
    return read_dumps(run_dir, schemas=_declared_schemas(run_dir), reported=reported, failed=failed)


def _declared_schemas(run_dir: Path) -> dict[str, str]:
    """Dump -> schema as the target file declares it; the rows themselves must tell where it cannot be read."""
    try:
        document = yaml.safe_load((run_dir / "topology.yaml").read_bytes())
        return {str(one["name"]): str(one["schema"]) for one in document.get("final") or []}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
        return {}


def _readings(events: Sequence[Event]) -> dict[str, list[Reading]]:
    readings: dict[str, list[Reading]] = {}
    for event in events:
        if event.kind == "reading":
            one = Reading(t_ns=event.t_ns, at=str(event.data.get("at")), value=event.data.get("value"))
            readings.setdefault(str(event.data.get("name")), []).append(one)
    return readings


def _hiccups(events: Sequence[Event]) -> list[Hiccup]:
    hiccups = []
    for event in events:
        stalled_ns = number_or_none(event.data.get("stalled_ns"))
        if event.kind == "hiccup" and stalled_ns is not None:
            # Who felt it may say so later than it ended.
            end_ns = int(number_or_none(event.data.get("ended_ns")) or event.t_ns)
            hiccups.append(Hiccup(start_ns=end_ns - int(stalled_ns), end_ns=end_ns))
    return sorted(hiccups, key=lambda hiccup: hiccup.start_ns)


def _loads(events: Sequence[Event]) -> dict[str, LoadCounts]:
    """The last counts of the load and of the prober; one without a name is the load."""
    loads: dict[str, LoadCounts] = {}
    for event in events:
        if event.kind in ("load.status", "load.finished"):
            said = str(event.instance or event.data.get("name") or event.data.get("process") or "load")
            name = PROBE if PROBE in said else "load"
            loads[name] = _counts(event, before=loads.get(name))
    return loads


def _counts(event: Event, *, before: LoadCounts | None) -> LoadCounts:
    def latest(field: str) -> float | None:
        found = number_or_none(event.data.get(field))
        return getattr(before, field, None) if found is None else found

    returncode = number_or_none(event.data.get("returncode"))
    return LoadCounts(
        finished=event.kind == "load.finished",
        returncode=None if returncode is None else int(returncode),
        intended=latest("intended"),
        started=latest("started"),
        unsent=latest("unsent"),
        lateness_p99_s=latest("lateness_p99_s"),
    )


def _ending(events: Sequence[Event]) -> Ending:
    """The first ending tells why; everything left behind that any event names counts."""
    left: list[str] = []
    outcome = signal = note = None
    for event in events:
        if event.kind == "run.ended":
            outcome = outcome or str(event.data.get("outcome"))
            signal = signal or event.data.get("signal")
            note = note or event.data.get("error") or event.data.get("reason")
            left += _sentences(event.data.get("left"))
        elif event.kind == "target.stopped":
            left += _sentences(event.data.get("leftovers"))
    return Ending(
        outcome=outcome,
        signal=None if signal is None else str(signal),
        left=tuple(dict.fromkeys(left)),
        note=None if note is None else str(note),
    )


def _sentences(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []
