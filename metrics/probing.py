"""Availability by time, from a prober that asks at a fixed rate whatever earlier answers do.

    probe k is sent at k*d:   ok    ok    FAIL  FAIL  ok
                                    |<---- outage ---->|     down for at least (k-1)*d and at most (k+1)*d
    answers arrive:            |     |                  |
                                     |<----- gap ------>|     no success for so long

A gap counts between the moments at which successes arrived, so a slow success is a gap too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from metrics.evidence import Evidence
from metrics.operations import NEVER, Ints, Operations
from metrics.soundness import ended_badly

_CLUSTER_NS: Final = 1_000_000_000
"""Outages nearer to one another than this are one event in the counts."""
_HOLE_NS_MIN: Final = 500_000_000
_SLICE_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """No success arrived between `start_ns` and `end_ns`; `stalled_ns` of it the machine itself was frozen."""

    start_ns: int
    end_ns: int
    stalled_ns: int = 0

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def unexcused_s(self) -> float:
        """Its length without the freezes of the machine."""
        return (self.end_ns - self.start_ns - self.stalled_ns) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """`probes` in a row failed; the service was down for at least `low_s` and at most `high_s`."""

    start_ns: int
    end_ns: int
    probes: int
    low_s: float
    high_s: float
    unexcused_low_s: float
    unexcused_high_s: float
    """The same bounds without the time for which the machine itself was frozen between them."""

    @property
    def stalled_s(self) -> float:
        """For how long of it the machine was frozen."""
        return self.high_s - self.unexcused_high_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """Whole seconds of the window: good when every probe sent in it was answered; those without probe are `blind`."""

    good: int
    bad: int
    blind: int

    @property
    def ratio(self) -> float | None:
        """The share of good seconds among those that were probed."""
        return self.good / (self.good + self.bad) if self.good + self.bad else None


def interval_ns(probes: Operations) -> int:
    """The time between two probes, as most of them kept it; 0 with fewer than two."""
    return int(np.median(np.diff(probes.intended_ns))) if len(probes) > 1 else 0


def prober_doubts(evidence: Evidence) -> list[str]:
    """Whether the prober asked all the time: its silence is neither up nor down."""
    probes, window = evidence.probes, evidence.window_ns
    if window is None or not len(probes):
        return ["the prober asked nothing in the judged phases"]
    allowed_ns = max(_HOLE_NS_MIN, 5 * interval_ns(probes))
    asked = probes.intended_ns
    holes = np.diff(asked)
    doubts = [
        f"the prober was silent for {silent_ns / 1e9:.2f} s {when}"
        for silent_ns, when in (
            (int(asked[0]) - window[0], "at the beginning"),
            (int(holes.max(initial=0)), "in between"),
            # Its last probes may be in flight when the window ends; twice the patience covers its shutdown.
            ((window[1] - int(asked[-1])) / 2, "at the end"),
        )
        if silent_ns > allowed_ns
    ]
    counts = evidence.loads.get("probe")
    if counts is not None and counts.finished and counts.returncode != 0:
        doubts.append(ended_badly("prober", counts))
    return doubts


def gaps(evidence: Evidence) -> list[Gap]:
    """Every stretch of the judged window between successes that arrived, longest first.

    The first begins with the window; the last ends with the last probe that got no answer, because nothing is known
    of the time after it. Equally long ones stand in order of time.
    """
    probes, window = evidence.probes, evidence.window_ns
    if window is None or not len(probes):
        return []
    arrived = np.sort(probes.end_ns[probes.ok])
    edges = [np.asarray([window[0]], dtype=np.int64), arrived]
    lost = probes.take(~probes.ok)
    if len(lost):
        until = int(np.where(lost.end_ns == NEVER, lost.intended_ns, lost.end_ns).max())
        edges.append(np.asarray([until], dtype=np.int64))
    marks = np.maximum.accumulate(np.concatenate(edges))
    lengths = np.diff(marks)
    order = np.argsort(-lengths, kind="stable")
    stalled = stalled_within(evidence, marks[:-1][order], marks[1:][order])
    return [
        Gap(start_ns=int(marks[place]), end_ns=int(marks[place + 1]), stalled_ns=int(frozen))
        for place, frozen in zip(order, stalled, strict=True)
        if lengths[place] > 0
    ]


def stalled_within(evidence: Evidence, starts: Ints, ends: Ints) -> Ints:
    """For each stretch how many ns of it the machine was frozen."""
    freezes = _merged([(hiccup.start_ns, hiccup.end_ns) for hiccup in evidence.hiccups])
    total = np.zeros(len(starts), dtype=np.int64)
    for start_ns, end_ns in freezes:
        total += np.maximum(0, np.minimum(ends, end_ns) - np.maximum(starts, start_ns))
    return total


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def outages(evidence: Evidence) -> list[Outage]:
    """Each unbroken row of failed probes, in order of time, with the bounds of how long the service was down.

    At least from the first to the last that failed, at most from the last success before to the first after (or one
    interval beyond where there is none).
    """
    probes = evidence.probes
    if not len(probes):
        return []
    failed = ~probes.ok
    steps = np.diff(np.concatenate([[False], failed, [False]]).astype(np.int8))
    firsts, afters = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    asked, spacing_ns = probes.intended_ns, interval_ns(probes)
    before = np.where(firsts > 0, asked[np.maximum(firsts - 1, 0)], asked[0] - spacing_ns)
    lasts = asked[afters - 1]
    after = np.where(afters < len(asked), asked[np.minimum(afters, len(asked) - 1)], asked[-1] + spacing_ns)
    low_ns, high_ns = lasts - asked[firsts], after - before
    unexcused_low_ns = low_ns - stalled_within(evidence, asked[firsts], lasts)
    unexcused_high_ns = high_ns - stalled_within(evidence, before, after)
    return [
        Outage(
            start_ns=int(asked[first]),
            end_ns=int(lasts[place]),
            probes=int(afters[place] - first),
            low_s=int(low_ns[place]) / 1e9,
            high_s=int(high_ns[place]) / 1e9,
            unexcused_low_s=int(unexcused_low_ns[place]) / 1e9,
            unexcused_high_s=int(unexcused_high_ns[place]) / 1e9,
        )
        for place, first in enumerate(firsts)
    ]


def clusters(found: Sequence[Outage]) -> int:
    """How many events the outages are: one that follows within a second belongs to the one before."""
    return sum(
        place == 0 or outage.start_ns - found[place - 1].end_ns > _CLUSTER_NS for place, outage in enumerate(found)
    )


def slices(evidence: Evidence) -> Slices:
    """The seconds of the judged window, from its start; a last one that is not whole counts with the one before."""
    window, probes = evidence.window_ns, evidence.probes
    if window is None:
        return Slices(good=0, bad=0, blind=0)
    total = max(1, (window[1] - window[0]) // _SLICE_NS)
    place = np.minimum((probes.intended_ns - window[0]) // _SLICE_NS, total - 1)
    asked = np.bincount(place, minlength=total)
    failed = np.bincount(place[~probes.ok], minlength=total)
    return Slices(
        good=int(np.count_nonzero((asked > 0) & (failed == 0))),
        bad=int(np.count_nonzero(failed > 0)),
        blind=int(np.count_nonzero(asked == 0)),
    )
