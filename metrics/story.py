"""The life of an operation, from every side: its client, and each JSON log line that carries its id.

Balancers and nodes that log JSON with a `request_id` are found without being known. Logs may be large: they are
searched as bytes for the ids, and only lines that contain one are parsed.
"""

import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from metrics.evidence import Evidence
from metrics.faults import number_or_none

LINES_MAX: Final = 50
"""Steps told of one operation; one that was retried often has a handful."""
_LINE_BYTES_MAX: Final = 1 << 20
_TIME_FIELDS: Final = ("t_ns", "started", "start_time", "timestamp", "time", "ts", "@timestamp")


def stories(evidence: Evidence, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Operation id -> what happened to it, in order of time (lines that tell no time stand last).

    Each step is `{"t_s": seconds from the start of the faults | None, "who": "client" | log, ...}`.
    """
    lives: dict[str, list[dict[str, Any]]] = {one: [] for one in ids}
    for one in lives:
        lives[one] += _client_steps(evidence, one)
    for path in sorted((evidence.run_dir / "logs").glob("*.log")):
        for one, steps in lives.items():
            for line in islice(_lines_with(path, one), LINES_MAX - len(steps)):
                steps.append({"t_s": _time_s(evidence, line), "who": path.stem, "line": line})
    for steps in lives.values():
        steps.sort(key=lambda step: (step["t_s"] is None, step["t_s"] or 0.0))
    return lives


def _client_steps(evidence: Evidence, one: str) -> Iterator[dict[str, Any]]:
    from metrics.witnesses import told

    operations = evidence.operations
    for position in (operations.index == int(one)).nonzero()[0]:
        life = told(evidence, operations, int(position))
        asked = {name: life[name] for name in ("f", "key", "asked", "process", "intended_s")}
        yield {"t_s": life["start_s"], "who": "client", "step": "invoke", **asked}
        answered = {name: life[name] for name in ("error", "node", "attempt", "answered")}
        yield {"t_s": life["end_s"], "who": "client", "step": life["outcome"], **answered}


def _lines_with(path: Path, one: str) -> Iterator[Mapping[str, Any]]:
    """Each JSON line of a log whose `request_id` is that id."""
    if not path.stat().st_size:
        return
    needle = one.encode()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = 0
        while (found := data.find(needle, end)) >= 0:
            start = data.rfind(b"\n", max(0, found - _LINE_BYTES_MAX), found) + 1
            end = data.find(b"\n", found, found + _LINE_BYTES_MAX)
            end = min(len(data), found + _LINE_BYTES_MAX) if end < 0 else end
            line = _parsed(data[start:end])
            if line is not None and str(line.get("request_id")) == one:
                yield line


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line[line.find(b"{") :])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _time_s(evidence: Evidence, line: Mapping[str, Any]) -> float | None:
    """When a line was written, as far as it says: monotonic ns, epoch seconds, or ISO 8601 with its zone."""
    clock = evidence.run.get("clock")
    anchor = clock if isinstance(clock, dict) else {}
    monotonic_ns, wall_ns = number_or_none(anchor.get("monotonic_ns")), number_or_none(anchor.get("wall_ns"))
    for name in _TIME_FIELDS:
        value = line.get(name)
        number = number_or_none(value)
        if name == "t_ns" and number is not None:
            return evidence.seconds(int(number))
        if monotonic_ns is None or wall_ns is None:
            continue
        epoch_s = number if number is not None else _epoch_s(value)
        if epoch_s is not None:
            return evidence.seconds(int(epoch_s * 1e9 - wall_ns + monotonic_ns))
    return None


_ISO: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")


def _epoch_s(value: Any) -> float | None:
    if not isinstance(value, str) or not _ISO.match(value):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
