"""Percentiles of durations in bounded memory, for the running totals of a load that may last for days."""

import math
from typing import Final

_GROWTH: Final = 1.05
_FLOOR_NS: Final = 1_000
_BUCKETS: Final = 500
_SCALE: Final = 1 / math.log(_GROWTH)


class Spread:
    """Counts durations in buckets from 1 us to 9 hours, each 5 % wider than the one before; the maximum is exact."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.max_ns = 0

    def add(self, duration_ns: int) -> None:
        """Counts one duration; below 1 us it counts as 1 us."""
        bucket = 0 if duration_ns <= _FLOOR_NS else int(math.log(duration_ns / _FLOOR_NS) * _SCALE) + 1
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self.count += 1
        self.max_ns = max(self.max_ns, duration_ns)

    @property
    def max_s(self) -> float:
        """The longest duration in seconds; 0 when there was none."""
        return self.max_ns / 1e9

    def quantile_s(self, share: float) -> float:
        """The duration in seconds that `share` of all do not exceed, at most 5 % too high; 0 when there was none."""
        wanted = math.ceil(share * self.count)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_FLOOR_NS * _GROWTH**bucket, self.max_ns) / 1e9
        return 0.0
