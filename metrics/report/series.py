"""A run drawn over time: requests gathered into bins, so that a million cost as little to draw as a thousand."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from metrics.evidence import Evidence
from metrics.history import FAIL, INFO
from metrics.operations import NEVER, Operations

Floats = npt.NDArray[np.float64]

_BINS_MAX: Final = 2000
_WIDTHS_S: Final = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One entry a bin of `width_s`; times are seconds from the start of the faults, of the bin's left edge.

    Latencies (seconds from the intended start) are of requests meant to start in the bin, NaN where none were
    answered; rates are requests a second by outcome.
    """

    width_s: float
    start_s: Floats
    p50_s: Floats
    p99_s: Floats
    max_s: Floats
    ok_per_s: Floats
    declined_per_s: Floats
    fail_per_s: Floats
    info_per_s: Floats
    probes_lost: Floats


def series_of(evidence: Evidence) -> Series | None:
    """The whole run, warm-up included; None when nothing was recorded."""
    operations = evidence.operations
    if not len(operations):
        return None
    origin_ns = int(operations.intended_ns.min())
    span_s = (int(operations.intended_ns.max()) - origin_ns) / 1e9
    width_s = next((width for width in _WIDTHS_S if span_s / width <= _BINS_MAX), span_s / _BINS_MAX)
    place = ((operations.intended_ns - origin_ns) / 1e9 / width_s).astype(np.int64)
    bins = int(place.max()) + 1
    clients, declined = operations.clients, operations.declined
    lost = operations.probes & ~operations.ok
    p50_s, p99_s, max_s = _latencies(operations, place, clients & (operations.end_ns != NEVER), bins)

    def rate(which: npt.NDArray[np.bool_]) -> Floats:
        per_s: Floats = np.bincount(place[clients & which], minlength=bins) / width_s
        return per_s

    return Series(
        width_s=width_s,
        start_s=(origin_ns - evidence.origin_ns) / 1e9 + np.arange(bins, dtype=np.float64) * width_s,
        p50_s=p50_s,
        p99_s=p99_s,
        max_s=max_s,
        ok_per_s=rate(operations.ok),
        declined_per_s=rate(declined),
        fail_per_s=rate((operations.outcome == FAIL) & ~declined),
        info_per_s=rate(operations.outcome == INFO),
        probes_lost=np.bincount(place[lost], minlength=bins).astype(np.float64),
    )


def _latencies(
    operations: Operations, place: npt.NDArray[np.int64], which: npt.NDArray[np.bool_], bins: int
) -> tuple[Floats, Floats, Floats]:
    """p50, p99 (nearest rank) and maximum of each bin."""
    latency_s, bin_of = operations.latency_s[which], place[which]
    order = np.lexsort((latency_s, bin_of))
    latency_s, bin_of = latency_s[order], bin_of[order]
    firsts = np.searchsorted(bin_of, np.arange(bins))
    counts = np.bincount(bin_of, minlength=bins)

    def at(share: float) -> Floats:
        values = np.full(bins, np.nan)
        filled = counts > 0
        ranks = np.ceil(np.round(share * counts[filled], 6)).astype(np.int64) - 1
        values[filled] = latency_s[firsts[filled] + ranks]
        return values

    return at(0.5), at(0.99), at(1.0)
