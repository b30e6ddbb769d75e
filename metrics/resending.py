"""Requests that a client sent again by itself, as access logs of balancers show: its history tells of one try only."""

import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from metrics.operations import Ints

_BALANCER: Final = b'"attempts"'
"""Lines that count tries upstream are a balancer's: one for each request that a client sent."""
_REQUEST_ID: Final = re.compile(rb'"request_id":\s*"(\d{1,18})"')


def resent(logs: Path, ours: Ints) -> int:
    """How many of these operations a balancer's access log shows more than once: a client sent them again by itself.

    Each log is looked at alone, because one balancer may stand behind another.
    """
    again: set[int] = set()
    for path in sorted(logs.glob("*.log")):
        if path.is_file():
            ids, times = np.unique(np.asarray(array("q", _arrivals(path)), dtype=np.int64), return_counts=True)
            again.update(np.intersect1d(ids[times > 1], ours).tolist())
    return len(again)


def _arrivals(path: Path) -> Iterator[int]:
    with path.open("rb") as lines:
        for line in lines:
            if _BALANCER in line and (found := _REQUEST_ID.search(line)):
                yield int(found[1])
