"""What a swarm has seen: each fault alone, beside each other one, and in each state of the target; and what it has not.

plan and events of a run -> sightings                sightings of all runs -> matrix, gaps
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from metrics.events import Event
from metrics.faults import Fault, faults_of

ALONE: Final = "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A fault that was seen to bite in a run: beside which others, and the state of the target then, if it was read."""

    label: str
    beside: tuple[str, ...]
    state: str | None

    def to_json(self) -> dict[str, Any]:
        """As in `proven` of the swarm's results."""
        return {"fault": self.label, "beside": list(self.beside), "state": self.state}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Sighting":
        """What `to_json` wrote."""
        return cls(label=data["fault"], beside=tuple(data["beside"]), state=data["state"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How often each fault (row) was proven in each column: alone, beside another one, in a state."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]
    proven: Mapping[str, int]
    """row -> in how many runs at all"""
    gaps: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Rows of columns, zeros included."""
        return {
            "rows": {
                row: {
                    "proven": self.proven.get(row, 0),
                    **{column: self.counts.get((row, column), 0) for column in self.columns},
                }
                for row in self.rows
            },
            "gaps": list(self.gaps),
        }


def sightings(
    labels: Mapping[str, str], plan: Mapping[str, Any], events: Sequence[Event], *, state: str | None = None
) -> list[Sighting]:
    """What a run has shown of its faults; `labels` are those of the fault ids, `state` the reading that tells it."""
    proven = [fault for fault in faults_of(plan, events) if fault.effect and fault.fault_id in labels]
    readings = {
        str(event.data.get("at")): str(event.data.get("value"))
        for event in events
        if event.kind == "reading" and event.data.get("name") == state
    }
    return [
        Sighting(
            label=labels[fault.fault_id],
            beside=tuple(labels[other.fault_id] for other in proven if other is not fault and _together(fault, other)),
            state=readings.get(fault.fault_id),
        )
        for fault in proven
    ]


def cover(labels: Sequence[str], seen: Iterable[Sighting], *, at_once: int, states: Sequence[str] = ()) -> Coverage:
    """The matrix of all sightings, and its gaps: what may be drawn and was never seen; pure.

    `states` are those in which each fault should have been seen; others that were seen get a column too.
    """
    counts: Counter[tuple[str, str]] = Counter()
    proven: Counter[str] = Counter()
    met: dict[str, None] = dict.fromkeys(states)
    for one in seen:
        proven[one.label] += 1
        for column in {*map(beside, one.beside)} or {ALONE}:
            counts[one.label, column] += 1
        if one.state is not None:
            met.setdefault(one.state)
            counts[one.label, in_state(one.state)] += 1
    columns = (ALONE, *(beside(label) for label in labels if at_once > 1), *map(in_state, met))
    gaps = [f"never proven: {label}" for label in labels if not proven[label]]
    shown = [label for label in labels if proven[label]]
    if at_once > 1:
        pairs = [pair for pair in combinations(shown, 2) if not counts[pair[0], beside(pair[1])]]
        gaps += [f"never together: {first}, {second}" for first, second in pairs]
    missing = [(state, [label for label in shown if not counts[label, in_state(state)]]) for state in states]
    gaps += [f"never in {state}: {', '.join(lacking)}" for state, lacking in missing if lacking]
    return Coverage(rows=tuple(labels), columns=columns, counts=dict(counts), proven=dict(proven), gaps=tuple(gaps))


def render(coverage: Coverage) -> str:
    """The matrix as text: faults down, where they were proven across; then the gaps."""
    width = max([len("fault"), *map(len, coverage.rows)])
    marks = [f"({number})" if column.startswith("+ ") else column for number, column in enumerate(coverage.columns)]
    lines = [f"{'fault':<{width}}  {'proven':>6}  " + "  ".join(f"{mark:>5}" for mark in marks)]
    for row in coverage.rows:
        cells = [coverage.counts.get((row, column), 0) for column in coverage.columns]
        numbers = "  ".join(f"{cell or '.':>{max(5, len(mark))}}" for cell, mark in zip(cells, marks, strict=True))
        lines.append(f"{row:<{width}}  {coverage.proven.get(row, 0):>6}  {numbers}")
    legend = [
        f"  {mark} beside {column.removeprefix('+ ')}"
        for mark, column in zip(marks, coverage.columns, strict=True)
        if column.startswith("+ ")
    ]
    lines += legend
    lines += ["gaps", *(f"  {gap}" for gap in coverage.gaps)] if coverage.gaps else ["no gaps"]
    return "\n".join(lines)


def beside(label: str) -> str:
    """The column of those that were in force together with a fault."""
    return f"+ {label}"


def in_state(state: str) -> str:
    """The column of a state of the target."""
    return f"in {state}"


def _together(one: Fault, other: Fault) -> bool:
    """Whether there was a moment at which both were in force; a change that is kept counts from when it shows."""
    spans = [(fault.effect_ns or 0, fault.heal_begun_ns) for fault in (one, other)]
    (one_from, one_until), (other_from, other_until) = spans
    return (other_until is None or one_from < other_until) and (one_until is None or other_from < one_until)
