"""How to take every fault back, written down and on disk before the fault is injected: `undo.ndjson`.

    {"fault_id": "pause-1", "steps": [{"do": "signal", "pid": 81, ..., "signal": "CONT"}], "expires_ns": 9}
    {"fault_id": "pause-1", "expires_ns": 12}
    {"fault_id": "pause-1", "done": true}

A record whose time to live (CLOCK_MONOTONIC) runs out is carried out by the watchdog though the runner lives: it hangs.

Steps are plain data, so that another process - the watchdog, `holdfast heal` - can carry them out. A step may be
carried out twice. A kind of step registered elsewhere is found by the module that the step names:
`{"do": "toxic", "module": "chaos.toxiproxy.undo", ...}`.
"""

import importlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from chaos.appending import append_whole
from chaos.errors import HealError, HoldfastError
from chaos.processes import Identity, own_environment, run_to_end, send

FILE_NAME: Final = "undo.ndjson"
STEP_LIMIT_S: Final = 1.0
"""A step that says nothing of `within_s` may take this long: a dead run is cleared within 5 s in all."""

Step = Mapping[str, Any]
Settings = Mapping[str, str | None]
"""Variables of an environment; None: not set."""
Starter = Callable[[str, Settings | None], None]
"""Starts an instance again by name, or replaces one that runs with other settings; raises when it cannot."""
_Carrier = Callable[[Step, Starter | None], str]

ByHand = Callable[[Step], str]
"""What a person types, or does, where a step cannot be carried out; a step that lacks something must not break it."""

_carriers: dict[str, _Carrier] = {}
_by_hand: dict[str, ByHand] = {}


def register(kind: str, *, by_hand: ByHand | None = None) -> Callable[[_Carrier], _Carrier]:
    """Registers how steps of a kind are carried out; the function says what it did, and raises when it cannot.

    Where a kind does not say what is done `by_hand`, the step itself is shown.
    """

    def keep(carrier: _Carrier) -> _Carrier:
        if kind in _carriers:
            raise ValueError(f"undo steps of kind {kind!r} are registered twice")
        _carriers[kind] = carrier
        if by_hand is not None:
            _by_hand[kind] = by_hand
        return carrier

    return keep


def known_kinds() -> tuple[str, ...]:
    """The kinds of steps that are registered by now, in order."""
    return tuple(sorted(_carriers))


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRecord:
    """What takes one fault back."""

    fault_id: str
    steps: tuple[Step, ...]
    expires_ns: int | None = None
    """When it should have been done at the latest, or its time been prolonged; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoState:
    """A log as read: records not yet done, newest first, and lines that make no sense."""

    pending: tuple[UndoRecord, ...]
    damaged: tuple[str, ...]


class UndoLog:
    """Appends to a run's undo log; when a method returns, what it wrote is on disk."""

    def __init__(self, run_dir: Path, *, alone: bool = True) -> None:
        """Not `alone`: the runner has the same log open, and what it may just be writing is left as it is."""
        path = run_dir / FILE_NAME
        if alone:
            _cut_torn_tail(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def record(self, fault_id: str, steps: Sequence[Step], *, expires_ns: int | None = None) -> None:
        """Writes down what will take the fault back. If this raises, the fault must not be injected.

        From `expires_ns` on, unless that is prolonged, the watchdog takes it back.

        Raises:
            HealError: a step that no process could carry out.
            OSError: it could not be written to disk.
        """
        for step in steps:
            _carrier(step)
        expiry = {} if expires_ns is None else {"expires_ns": expires_ns}
        self._append({"fault_id": fault_id, "steps": [dict(step) for step in steps], **expiry})

    def prolong(self, fault_id: str, *, expires_ns: int) -> None:
        """Writes down until when a recorded fault may live from now on."""
        self._append({"fault_id": fault_id, "expires_ns": expires_ns})

    def done(self, fault_id: str) -> None:
        """Writes down that the fault is taken back."""
        self._append({"fault_id": fault_id, "done": True})

    def close(self) -> None:
        """Closes the file; recording afterwards is an error."""
        os.close(self._fd)

    def _append(self, line: Mapping[str, Any]) -> None:
        append_whole(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n", sync=True)


def _cut_torn_tail(path: Path) -> None:
    """Drops a last line without its end: its `record` never returned, so its fault was never injected."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def read_undo(run_dir: Path) -> UndoState:
    """What a run has still to take back; nothing where it never wrote a log."""
    path = run_dir / FILE_NAME
    pending: dict[str, UndoRecord] = {}
    damaged = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    # The part behind the last line end is a torn line, or nothing.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
            fault_id = str(entry["fault_id"])
            if entry.get("done"):
                pending.pop(fault_id, None)
            elif "steps" in entry:
                pending.pop(fault_id, None)
                expires_ns = entry.get("expires_ns")
                pending[fault_id] = UndoRecord(fault_id=fault_id, steps=tuple(entry["steps"]), expires_ns=expires_ns)
            elif fault_id in pending:
                pending[fault_id] = replace(pending[fault_id], expires_ns=int(entry["expires_ns"]))
            else:
                int(entry["expires_ns"])  # taken back already by somebody else; anything but this is damaged
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            damaged.append(f"{path}:{number}: not an undo record: {error}; take back by hand what it names")
    return UndoState(pending=tuple(reversed(pending.values())), damaged=tuple(damaged))


def pending(run_dir: Path) -> tuple[UndoRecord, ...]:
    """The records not yet done, newest first.

    Raises:
        HealError: a line in the log makes no sense, so something may be missing.
    """
    state = read_undo(run_dir)
    if state.damaged:
        raise HealError("\n".join(state.damaged))
    return state.pending


def carry_out(step: Step, starter: Starter | None = None) -> str:
    """Carries out one step and says what was done; blocks for at most its `within_s`.

    `starter` starts instances; without it (the target is torn down anyway) such steps are passed over, and said so.

    Raises:
        HealError: it did not work: what remains, and how to clear it.
    """
    carrier = _carrier(step)
    try:
        return carrier(step, starter)
    except HealError:
        raise
    except (HoldfastError, OSError, KeyError, ValueError) as error:
        raise HealError(f"undo step failed: {_told_by_hand(step)}: {type(error).__name__}: {error}") from error


def _carrier(step: Step) -> _Carrier:
    kind = str(step.get("do"))
    module = str(step.get("module", ""))
    if kind not in _carriers and module.startswith("chaos."):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise HealError(f"undo step of kind {kind!r}: {module} cannot be imported: {error}") from error
    if kind not in _carriers:
        raise HealError(f"no way to carry out an undo step of kind {kind!r}; known: {', '.join(known_kinds())}")
    return _carriers[kind]


def _told_by_hand(step: Step) -> str:
    tell = _by_hand.get(str(step.get("do")))
    return json.dumps(dict(step)) if tell is None else tell(step)


def signal_step(identity: Identity, signum: signal.Signals) -> Step:
    """A step that signals one process, if it still lives."""
    name = signum.name.removeprefix("SIG")
    return {"do": "signal", "pid": identity.pid, "start_ticks": identity.start_ticks, "signal": name}


def start_step(instance: str, *, env: Settings | None = None) -> Step:
    """A step that starts an instance again; with `env` also one that runs with other settings."""
    step: dict[str, Any] = {"do": "start", "instance": instance}
    return step if env is None else {**step, "env": dict(env)}


@register("signal", by_hand=lambda step: f"kill -{step.get('signal')} {step.get('pid')}")
def _signal(step: Step, _starter: Starter | None) -> str:
    identity = Identity(pid=int(step["pid"]), start_ticks=int(step["start_ticks"]))
    hit = send(identity, signal.Signals[f"SIG{step['signal']}"])
    return f"SIG{step['signal']} to process {identity.pid}" if hit else f"process {identity.pid} is gone"


@register("start", by_hand=lambda step: f"start {step.get('instance')}")
def _start(step: Step, starter: Starter | None) -> str:
    if starter is None:
        return f"{step['instance']} not started: its target is torn down"
    starter(step["instance"], step.get("env"))
    return f"{step['instance']} started" if step.get("env") is None else f"{step['instance']} runs as before"


@register("command", by_hand=lambda step: " ".join(map(str, step.get("command", ()))))
def _command(step: Step, _starter: Starter | None) -> str:
    command = [str(part) for part in step["command"]]
    run_to_end(
        command,
        env={**own_environment(), **step.get("env", {})},
        cwd=Path(step.get("cwd", "/")),
        within_s=float(step.get("within_s", STEP_LIMIT_S)),
    )
    return f"ran {' '.join(command)}"


@register("sql", by_hand=lambda step: f"the statement {step.get('sql')}")
def _sql(step: Step, _starter: Starter | None) -> str:
    from asyncio import run

    from chaos.targets.database import execute

    run(execute(str(step["dsn"]), str(step["sql"]), within_s=float(step.get("within_s", STEP_LIMIT_S))))
    return f"executed {step['sql']}"


@register("http", by_hand=lambda step: f"{step.get('method', 'POST')} {step.get('url')}")
def _http(step: Step, _starter: Starter | None) -> str:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, Request, build_opener

    url, method = str(step["url"]), str(step.get("method", "POST"))
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"not an http address: {url}")
    body = json.dumps(step["json"]).encode() if step.get("json") is not None else None
    headers = {"Content-Type": "application/json", **step.get("headers", {})}
    request = Request(url, data=body, method=method, headers=headers)  # noqa: S310  # checked to be http above
    # Never through a proxy that the environment names: targets are local or named by address.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(request, timeout=float(step.get("within_s", STEP_LIMIT_S))) as answer:
            return f"{method} {url}: {answer.status}"
    except HTTPError as error:
        with error:
            # Carrying out twice is no error where the step says what "taken back already" looks like.
            if error.code in step.get("accept", ()):
                return f"{method} {url}: {error.code}, taken back already"
            raise
