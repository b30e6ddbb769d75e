"""Run folders on disk, as a runner leaves them, from a history in the notation of `metrics.notation`.

Times are seconds. Phases: warmup 0-1, baseline 1-3, faults 3-8, recovery 8-10, quiet 10-11.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from metrics import history
from metrics.evidence import Evidence, load
from metrics.history import Row
from metrics.notation import rows_of

PHASES = {
    "warmup": (0.0, 1.0),
    "baseline": (1.0, 3.0),
    "faults": (3.0, 8.0),
    "recovery": (8.0, 10.0),
    "quiet": (10.0, 11.0),
}
KILL: dict[str, Any] = {
    "fault_id": "kill-1",
    "fault": "kill",
    "at_s": 1.0,
    "heal_after_s": 1.0,
    "instances": ["portal-2"],
}


def probes(*failed: tuple[float, float], every: float = 0.02, start: float = 1.0, end: float = 10.0) -> str:
    """A prober's history: a probe each `every` seconds; those inside a `failed` [start, end) are refused."""
    lines = []
    for number in range(round((end - start) / every)):
        at = start + number * every
        lost = any(begin - 1e-9 <= at < until - 1e-9 for begin, until in failed)
        lines.append(f"probe @{at:.4f} +0.001 {'fail !refused' if lost else 'ok'}")
    return "\n".join(lines)


def savings(number: int = 200, *, start: float = 1.0, end: float = 10.0) -> str:
    """A client's history: deposits of 100 under keys k0, k1, ..., evenly spaced, all acknowledged in 5 ms."""
    step = (end - start) / number
    return "\n".join(
        f"deposit k{one} 100 @{start + one * step:.4f} +0.005 ok portal-{one % 4 + 1}@v1" for one in range(number)
    )


def ledger_of(text: str, *kinds: str) -> list[dict[str, Any]]:
    """The `ledger/1` rows that a correct target has at the end of a history, unknown outcomes counted as done."""
    rows: list[dict[str, Any]] = [
        {
            "row": "transfer",
            "transfer": 0,
            "kind": "seed",
            "debit": "cash",
            "credit": "a",
            "amount": 10_000,
            "key": None,
            "t": 0,
        }
    ]
    done = {row.index for row in rows_of(text) if row.type in (history.OK, history.INFO)}
    for row in rows_of(text):
        if row.type == history.INVOKE and row.f in (kinds or ("deposit", "redeem")) and row.index in done:
            debit, credit = ("cash", "a") if row.f == "deposit" else ("a", "cash")
            amount = json.loads(row.value or '{"amount": 1}')["amount"]
            rows.append(
                {"row": "transfer", "transfer": len(rows), "kind": row.f, "debit": debit, "credit": credit,
                 "amount": amount, "key": row.key, "t": row.t_ns}
            )  # fmt: skip
    balance = sum(row["amount"] if row["credit"] == "a" else -row["amount"] for row in rows)
    accounts = [("a", "customer", balance), ("cash", "platform", None)]
    return [*({"row": "account", "account": a, "kind": k, "balance": b} for a, k, b in accounts), *rows]


def write_bin(path: Path, rows: Sequence[Row], *, batch: int = 100) -> None:
    """A recording with batches of that many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [history.MAGIC]
    for start in range(0, len(rows), batch):
        payload = msgpack.packb([tuple(row) for row in rows[start : start + batch]])
        parts += [struct.pack("<II", len(payload), zlib.crc32(payload)), payload]
    path.write_bytes(b"".join(parts))


@dataclass(kw_only=True)
class Folder:
    """A run in `path`; change what a test is about, then `write` it. Without changes it is a clean pass."""

    path: Path
    clients: str = field(default_factory=savings)
    probes: str = field(default_factory=probes)
    expect: list[Any] = field(default_factory=lambda: [{"failed": {"max": 0}}])
    timeline: list[dict[str, Any]] = field(default_factory=lambda: [KILL])
    fault_events: list[dict[str, Any]] | None = None
    dumps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    readings: list[tuple[float, str, Any]] = field(default_factory=list)
    hiccups: list[tuple[float, float]] = field(default_factory=list)
    """(end, length)"""
    load: Mapping[str, Any] | None = field(
        default_factory=lambda: {"intended": 200, "started": 200, "unsent": 0, "lateness_p99_s": 0.001, "returncode": 0}
    )
    probe: Mapping[str, Any] | None = field(default_factory=lambda: {"path": "/v1/status", "interval_s": 0.02})
    ended: Mapping[str, Any] | None = field(
        default_factory=lambda: {"outcome": "completed", "signal": None, "left": []}
    )
    phases: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(PHASES))
    more_events: list[dict[str, Any]] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    logs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sealed: bool = True

    def write(self) -> Path:
        """Writes everything and gives the folder back."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._json("run.json", self._run())
        self._json("plan.json", self._plan())
        lines = [json.dumps(event) for event in sorted(self._events(), key=lambda event: event["t_ns"])]
        (self.path / "events.ndjson").write_text("\n".join(lines) + "\n")
        write_bin(self.path / "history" / "prober.bin", rows_of(self.probes))
        write_bin(self.path / "history" / "load.bin", rows_of(self.clients, writer=1))
        if self.sealed:
            history.seal(self.path, {name: (_ns(a), _ns(b)) for name, (a, b) in self.phases.items()})
        for folder, texts in (("final", self._dump_texts()), ("logs", self._log_texts())):
            (self.path / folder).mkdir(exist_ok=True)
            for name, text in texts.items():
                (self.path / folder / name).write_text(text)
        return self.path

    def evidence(self) -> Evidence:
        """Writes it and reads it back as evidence."""
        return load(self.write())

    def _run(self) -> dict[str, Any]:
        clock = {"monotonic_ns": 0, "wall_ns": 1_700_000_000_000_000_000}
        replay = "holdfast run node-kill --seed 42"
        return {"schema": "run/1", "run_id": "run-1", "experiment": "node-kill", "title": "A killed node", "seed": 42,
                "commit": "abc1234", "clock": clock, "replay": replay, **self.run}  # fmt: skip

    def _plan(self) -> dict[str, Any]:
        phases = [{"name": name, "duration_s": end - start} for name, (start, end) in self.phases.items()]
        load_plan = {"arrivals": 22} if self.load is not None else None
        return {"schema": "plan/1", "title": "A killed node", "seed": 42, "phases": phases, "load": load_plan,
                "probe": self.probe, "timeline": self.timeline, "expect": self.expect, "guardrails": []}  # fmt: skip

    def _events(self) -> list[dict[str, Any]]:
        events = [event(0, "run.started"), event(0, "instance.started", instance="portal-2", pid=1, start_ticks=1)]
        events += [event(start, "phase.started", phase=name) for name, (start, _) in self.phases.items()]
        if "quiet" in self.phases:
            events.append(event(self.phases["quiet"][1], "phase.ended", phase="quiet"))
        events += self._fault_events() if self.fault_events is None else self.fault_events
        events += [event(at, "reading", name=name, value=value, at=f"{at}") for at, name, value in self.readings]
        events += [event(end, "hiccup", stalled_ns=_ns(length)) for end, length in self.hiccups]
        if self.load is not None:
            events.append(event(10.2, "load.finished", instance="load", **self.load))
        events.append(event(10.1, "load.finished", instance="prober", returncode=0))
        events += [event(10.8, "dump.written", name=name, rows=len(rows)) for name, rows in self.dumps.items()]
        if self.ended is not None:
            events.append(event(11.1, "run.ended", **self.ended))
        return events + self.more_events

    def _fault_events(self) -> list[dict[str, Any]]:
        events = []
        for one in self.timeline:
            at = self.phases["faults"][0] + one["at_s"]
            told = {"fault": one["fault"], "instances": one["instances"], "params": {}}
            events.append(event(at, "fault.injected", fault_id=one["fault_id"], **told))
            events.append(
                event(at + 0.01, "fault.effect", fault_id=one["fault_id"], proven=True, evidence={"gone": True})
            )
            if one["heal_after_s"] is not None:
                healed = at + one["heal_after_s"]
                events.append(event(healed, "fault.healed", fault_id=one["fault_id"]))
                events.append(
                    event(healed + 0.01, "fault.heal_proven", fault_id=one["fault_id"], proven=True, evidence={})
                )
        return events

    def _dump_texts(self) -> dict[str, str]:
        return {f"{name}.ndjson": "".join(json.dumps(row) + "\n" for row in rows) for name, rows in self.dumps.items()}

    def _log_texts(self) -> dict[str, str]:
        return {f"{name}.log": "".join(line + "\n" for line in lines) for name, lines in self.logs.items()}

    def _json(self, name: str, document: Mapping[str, Any]) -> None:
        (self.path / name).write_text(json.dumps(document))


def event(
    at: float, kind: str, /, *, fault_id: str | None = None, instance: str | None = None, **data: Any
) -> dict[str, Any]:
    """One line of `events.ndjson`, `at` seconds after zero."""
    return {"t_ns": _ns(at), "kind": kind, "fault_id": fault_id, "instance": instance, "data": data}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
