"""What a dead run has left behind, and how it is cleared: by its watchdog at once, by `holdfast heal` later."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from chaos.errors import HealError, TargetError
from chaos.processes import INSTANCE_MARK, Identity, alive, freeze, kill_all, send, settings_of
from chaos.roster import GUARD_FILE, Guarded, read_guarded, remove_data
from chaos.shared_memory import remove_orphaned
from chaos.undo import STEP_LIMIT_S, Settings, Starter, Step, UndoLog, UndoRecord, carry_out, read_undo
from metrics.events import EventLog

INJECTING_LIMIT_S: Final = 0.3
HEAL_LIMIT_S: Final = 2.0
ASK_LIMIT_S: Final = 0.7
KILL_LIMIT_S: Final = 1.5
"""Together below the 5 s within which nothing of a dead run may be left."""
AGAIN_LIMIT_S: Final = 8.0
"""How long a target that is up is waited for, after all that, where an instance of it is not ready again so soon."""
_FREEZE_LIMIT_S: Final = 0.3
_SETTLE_S: Final = 0.1
_POLL_S: Final = 0.01
_STEP_AT_LEAST_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A dead run that left something: faults not taken back, living processes, damaged lines of its undo log."""

    run_dir: Path
    run_id: str
    faults: tuple[str, ...]
    processes: tuple[tuple[str, Identity], ...]
    damaged: tuple[str, ...]


def leftovers(runs_dir: Path) -> tuple[Leftover, ...]:
    """Every dead run below `runs_dir` that left something, in order of name."""
    return tuple(left for run_dir in run_dirs(runs_dir) if (left := leftover(run_dir)))


def refuse_in_force(runs_dir: Path, topology: Path) -> None:
    """Looks for faults that dead runs left in force on the target which a topology file describes.

    Raises:
        HealError: there are some: which, and how to clear them.
    """
    found = [left for left in leftovers(runs_dir) if (left.faults or left.damaged) and _target_of(left) == topology]
    if found:
        told = "; ".join(f"{left.run_id}: {', '.join(left.faults) or 'its undo log is damaged'}" for left in found)
        raise HealError(
            f"faults of an earlier run may still be in force on {topology} ({told}); clear them with "
            f"`holdfast heal --out {runs_dir}` first"
        )


def _target_of(left: Leftover) -> Path | None:
    """The topology file of a run, as its run.json names it; None where that cannot be told."""
    try:
        return Path(json.loads((left.run_dir / "run.json").read_text())["target"]).resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_dirs(runs_dir: Path) -> tuple[Path, ...]:
    """The folders of runs below `runs_dir`, also of targets that `up` held; links (`latest`) are not followed."""
    guards = (*runs_dir.glob(f"*/{GUARD_FILE}"), *runs_dir.glob(f"up/*/*/{GUARD_FILE}"))
    return tuple(sorted(guard.parent for guard in guards if not guard.parent.is_symlink()))


def leftover(run_dir: Path) -> Leftover | None:
    """What a run left; None when nothing, when it still goes on, or when its watchdog is at work."""
    guarded = read_guarded(run_dir)
    if guarded is None or guarded.runner_alive or guarded.watchdogs:
        return None
    names = {it.identity: it.name for it in guarded.started}
    processes = tuple((names.get(identity, "a child"), identity) for identity in guarded.members())
    undo = read_undo(run_dir)
    if not (processes or undo.pending or undo.damaged):
        return None
    return Leftover(
        run_dir=run_dir,
        run_id=guarded.run_id,
        faults=tuple(record.fault_id for record in undo.pending),
        processes=processes,
        damaged=undo.damaged,
    )


def heal_run(run_dir: Path) -> tuple[str, ...]:
    """Clears what a dead run left, as its watchdog would have; gives back what is still left, in words.

    Raises:
        HealError: there is no run, it still goes on, or its watchdog is at work.
    """
    guarded = _guarded(run_dir)
    if guarded.runner_alive:
        raise HealError(f"{run_dir}: the run still goes on (process {guarded.runner.pid}); end it with Ctrl-C there")
    if guarded.watchdogs:
        raise HealError(
            f"{run_dir}: its watchdog (process {guarded.watchdogs[0].pid}) is clearing it; ask again in 5 s"
        )
    return clean_up(run_dir, by="heal")


def clean_up(run_dir: Path, *, by: str) -> tuple[str, ...]:
    """Takes back every pending fault, ends every process, removes data, and says in the event log what is left.

    The runner must be dead. Goes on whatever fails: each failure is one text of the result.
    """
    guarded = _guarded(run_dir)
    in_force: list[str] = []
    left: list[str] = []
    taken_back: list[str] = []
    killed: list[Identity] = []
    with _going_on(left, "ending injections"):
        _end_injections(guarded, killed)
    with _going_on(in_force, "taking back faults"):
        _take_back(guarded, taken_back, in_force, within_s=HEAL_LIMIT_S)
    with _going_on(left, "ending processes"):
        survivors = _end_processes(guarded, killed)
        left += [f"process {it.pid} would not end; kill -9 {it.pid}" for it in survivors]
    with _going_on(left, "removing shared memory"):
        left += remove_orphaned([*(one.identity for one in guarded.started), *killed])
    with _going_on(left, "removing data"):
        if guarded.socket is None:
            # A run attached to an `up` target has no data of its own.
            left += remove_data(run_dir, guarded.run_id)
    if in_force and guarded.socket is not None:
        # Its instances start meanwhile, and nothing of the run is in their way any more.
        in_force.clear()
        with _going_on(in_force, "taking back faults"):
            _take_back(guarded, taken_back, in_force, within_s=AGAIN_LIMIT_S)
    left[:0] = in_force
    with _going_on(left, "writing events"):
        events = EventLog(run_dir)
        try:
            events.append("watchdog.acted", by=by, undone=taken_back, killed=len(killed))
            events.append("run.ended", outcome="error", signal=None, left=left)
        finally:
            events.close()
    return tuple(left)


@contextlib.contextmanager
def _going_on(left: list[str], what: str) -> Iterator[None]:
    """Turns any failure inside into a text: nobody comes after us to do the rest."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # see above
        left.append(f"{what}: {type(error).__name__}: {error}; run `holdfast heal` when that is mended")


def _end_injections(guarded: Guarded, killed: list[Identity]) -> None:
    """Ends commands that still inject: what they did after the heal would be taken back by nobody.

    What the command of a finished injection has left running is left to the heal, which may be there to end it.
    """
    roots = {it.name: it.identity for it in guarded.started}

    def goes_on(identity: Identity) -> bool:
        # Of one that has overwritten its environment this cannot be told: it is no command that has just begun.
        with contextlib.suppress(TargetError):
            name = settings_of(identity, [INSTANCE_MARK])[INSTANCE_MARK] or ""
            injects = (name.startswith("fault/") and name.endswith("/inject")) or name.startswith("action-")
            return injects and (name not in roots or alive(roots[name]))
        return False

    found = freeze(lambda: tuple(filter(goes_on, guarded.members())), within_s=_FREEZE_LIMIT_S)
    survivors = kill_all(lambda: (), within_s=INJECTING_LIMIT_S, known=found)
    killed += set(found) - set(survivors)


def _take_back(guarded: Guarded, did: list[str], left: list[str], *, within_s: float) -> None:
    """Carries out pending records, newest first; says what was done and what is left."""
    state = read_undo(guarded.run_dir)
    left += state.damaged
    if not state.pending:
        return
    deadline = time.monotonic() + within_s
    starter = _starter(guarded.socket, deadline) if guarded.socket else None
    log = UndoLog(guarded.run_dir)
    try:
        for record in state.pending:
            failed = _carry_out_record(record, starter, deadline, did)
            left += failed
            if not failed:
                with _going_on(left, record.fault_id):
                    log.done(record.fault_id)
    finally:
        log.close()


def _carry_out_record(record: UndoRecord, starter: Starter | None, deadline: float, did: list[str]) -> list[str]:
    """Takes one fault back and adds to `did` what was done; gives what failed."""
    failed: list[str] = []

    def carry(step: Step) -> None:
        with _going_on(failed, record.fault_id):
            did.append(carry_out(_bounded(step, deadline), starter))

    for batch in _batches(record.steps):
        _all_at_once(carry, batch)
    return failed


def take_back_expired(run_dir: Path, fault_id: str, *, expires_ns: int) -> None:
    """Takes back one fault that has outlived its time because its runner hangs, and writes down what came of it.

    Nothing happens to one that has been taken back or prolonged meanwhile. Instances of a target of the runner's own
    cannot be started by anybody else: that is then among what is left.
    """
    guarded = _guarded(run_dir)
    asked = (it for it in read_undo(run_dir).pending if (it.fault_id, it.expires_ns) == (fault_id, expires_ns))
    record = next(asked, None)
    if record is None:
        return
    deadline = time.monotonic() + HEAL_LIMIT_S
    starter = _starter(guarded.socket, deadline) if guarded.socket else _only_the_runner
    did: list[str] = []
    left = _carry_out_record(record, starter, deadline, did)
    if not left:
        with _going_on(left, record.fault_id):
            log = UndoLog(run_dir, alone=False)
            try:
                log.done(record.fault_id)
            finally:
                log.close()
    events = EventLog(run_dir)
    try:
        events.append("watchdog.expired", fault_id=record.fault_id, undone=did, left=left)
    finally:
        events.close()


def _only_the_runner(instance: str, _env: Settings | None) -> None:
    raise HealError(f"{instance} can only be started by the runner, which hangs; end that and run again")


def _batches(steps: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
    """Like the records, the steps of one go from the last to the first; starts side by side go at the same time.

    Each of these takes long, and together they have no more time than one.
    """
    for are_starts, group in groupby(
        reversed(steps), key=lambda step: isinstance(step, dict) and step.get("do") == "start"
    ):
        batch = tuple(group)
        yield from (batch,) if are_starts else ((step,) for step in batch)


def _all_at_once(work: Callable[[Step], None], batch: Sequence[Step]) -> None:
    if len(batch) == 1:
        work(batch[0])
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=len(batch)) as pool:
        list(pool.map(work, batch))


def _bounded(step: Step, deadline: float) -> Step:
    """The step with a limit that keeps the whole within its time."""
    rest_s = max(_STEP_AT_LEAST_S, deadline - time.monotonic())
    return {**step, "within_s": min(float(step.get("within_s", STEP_LIMIT_S)), rest_s)}


def _end_processes(guarded: Guarded, killed: list[Identity]) -> tuple[Identity, ...]:
    """Ends every process of the run and lists them in `killed`; gives those that would not end.

    It looks once more after a moment: a process forked by the runner just before its death may not have become
    recognisable at the first look.
    """
    seen = set(freeze(guarded.members, within_s=_FREEZE_LIMIT_S))
    _ask_to_end(guarded)

    def find() -> tuple[Identity, ...]:
        found = guarded.members()
        seen.update(found)
        return found

    survivors = kill_all(find, within_s=KILL_LIMIT_S, known=tuple(seen))
    if not survivors:
        time.sleep(_SETTLE_S)
        survivors = kill_all(find, within_s=KILL_LIMIT_S)
    killed += seen - set(survivors)
    return survivors


def _ask_to_end(guarded: Guarded) -> None:
    """Gives instances a moment to end in order: a database that is killed leaves its shared memory behind."""
    if not guarded.same_boot:
        return
    asked = [it for it in guarded.started if it.stop is not None and alive(it.identity)]
    for it in asked:
        # Whoever belongs to another user cannot be asked; it is reported when it cannot be killed either.
        with contextlib.suppress(TargetError):
            send(it.identity, signal.Signals[f"SIG{it.stop}"])
            send(it.identity, signal.SIGCONT)
    deadline = time.monotonic() + ASK_LIMIT_S
    while time.monotonic() < deadline and any(alive(it.identity) for it in asked):
        time.sleep(_POLL_S)


def _starter(socket_name: str, deadline: float) -> Starter:
    """Starts instances of the target that `up` holds, by asking it."""

    def start(instance: str, env: Settings | None) -> None:
        import socket

        question = {"ask": "ensure_started", "instance": instance, "env": env}
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(max(_STEP_AT_LEAST_S, deadline - time.monotonic()))
            connection.connect(socket_name)
            connection.sendall(json.dumps(question).encode() + b"\n")
            try:
                with connection.makefile("rb") as lines:
                    answer = json.loads(lines.readline() or b'{"error": "the target that was up is gone"}')
            except TimeoutError as error:
                raise HealError(
                    f"{instance} is not ready again yet; its target goes on with it, and `holdfast heal` looks again"
                ) from error
        if "error" in answer:
            raise HealError(answer["error"])

    return start


def end_run(run_dir: Path, *, known: Iterable[Identity] = ()) -> tuple[str, ...]:
    """For the runner itself at its end: kills whatever of the run still lives, removes data, says what is left.

    `known` are processes of the run seen earlier.
    """
    guarded = _guarded(run_dir)
    survivors = kill_all(guarded.members, within_s=KILL_LIMIT_S, known=known)
    left = [f"process {it.pid} would not end; kill -9 {it.pid}" for it in survivors]
    left += remove_orphaned(one.identity for one in guarded.started)
    return (*left, *remove_data(run_dir, guarded.run_id))


def members_of(run_dir: Path, instance: str | None = None) -> tuple[Identity, ...]:
    """All living processes of a run, or of one of its instances, except runner and watchdog."""
    return _guarded(run_dir).members(instance)


def _guarded(run_dir: Path) -> Guarded:
    guarded = read_guarded(run_dir)
    if guarded is None:
        raise HealError(f"{run_dir} is no folder of a run: it has no {GUARD_FILE}")
    return guarded
