"""The event log of a run: `events.ndjson`, one JSON object a line, appended as things happen.

    {"t_ns": 81234, "kind": "fault.injected", "fault_id": "kill-3", "instance": "portal-2", "data": {}}

`t_ns` is CLOCK_MONOTONIC of the host, the clock of every history too. The kinds are listed in docs/formats.md.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

FILE_NAME = "events.ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at `t_ns`; `fault_id` and `instance` are None where none is concerned."""

    t_ns: int
    kind: str
    fault_id: str | None = None
    instance: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class EventLog:
    """Appends events to a run's log; one `write` per event, so that a killed writer leaves whole lines."""

    def __init__(self, run_dir: Path) -> None:
        self._file = FileIO(run_dir / FILE_NAME, "a")

    def append(self, kind: str, *, fault_id: str | None = None, instance: str | None = None, **data: Any) -> Event:
        """Records that `kind` happens now, and gives the event back."""
        event = Event(t_ns=time.monotonic_ns(), kind=kind, fault_id=fault_id, instance=instance, data=data)
        line = {"t_ns": event.t_ns, "kind": kind, "fault_id": fault_id, "instance": instance, "data": data}
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        return event

    def close(self) -> None:
        """Closes the file; appending afterwards is an error."""
        self._file.close()


def read_events(run_dir: Path) -> Iterator[Event]:
    """The events of a run in the order written; a torn last line (the writer died) is left out.

    Raises:
        ValueError: a line in the middle that is no event, with its number.
    """
    for event in _scan(run_dir):
        if isinstance(event, ValueError):
            raise event
        yield event


def scan_events(run_dir: Path) -> tuple[list[Event], list[str]]:
    """Every event that can be read, and a sentence for each line in the middle that cannot."""
    events: list[Event] = []
    problems: list[str] = []
    for event in _scan(run_dir):
        if isinstance(event, ValueError):
            problems.append(str(event))
        else:
            events.append(event)
    return events, problems


def _scan(run_dir: Path) -> Iterator[Event | ValueError]:
    lines = (run_dir / FILE_NAME).read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield _event(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            # Without a newline behind it the last line was still being written.
            if number < len(lines):
                problem = ValueError(f"{FILE_NAME}:{number}: not an event: {error}")
                problem.__cause__ = error
                yield problem


def _event(record: Any) -> Event:
    fault_id, instance, data = record["fault_id"], record["instance"], record["data"]
    for text in (fault_id, instance):
        if not isinstance(text, str | None):
            raise TypeError(f"expected text, got {text!r}")
    if not isinstance(data, dict):
        raise TypeError(f"data is no object: {data!r}")
    return Event(t_ns=int(record["t_ns"]), kind=str(record["kind"]), fault_id=fault_id, instance=instance, data=data)
