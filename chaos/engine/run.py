"""One experiment, from its plan to its verdict: folder, target and watchdog are opened, the run lives, it is judged."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from chaos.engine.clients import ClientCommand, python_command
from chaos.engine.folder import RunFolder, describe_run, make_run_folder, note_attached
from chaos.engine.life import CLIENTS_READY_WITHIN_S, Equipment, Life
from chaos.engine.progress import Progress, show
from chaos.engine.switch import Reason, Switch
from chaos.errors import HoldfastError, TargetError
from chaos.experiment import Experiment
from chaos.leftovers import refuse_in_force
from chaos.planner import Plan
from chaos.targets.opening import Attach, OpenTarget, open_target
from chaos.targets.target import Target
from chaos.targets.topology import Topology
from chaos.targets.upstate import find_up
from chaos.undo import UndoLog
from metrics.events import EventLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from structlog.typing import FilteringBoundLogger

    from metrics.verdict import Verdict

_HEADSTART_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to run; everything in it has been checked."""

    experiment: Experiment
    topology: Topology
    plan: Plan
    runs_dir: Path
    replay: str | None
    """The command that repeats it; None: `holdfast replay` of its own folder."""
    attach: Attach = "auto"
    max_duration_s: float | None = None
    clients: Sequence[ClientCommand] | None = None
    """The client processes; None: what the plan's load and probe ask for."""
    state: str | None = None
    """A reading that is taken each time a fault is seen to bite, besides when all of them are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has been judged; `interrupted` is the name of the signal that ended it early, if one did."""

    run_dir: Path
    verdict: "Verdict"
    interrupted: str | None
    problem: str | None
    """Why it ended early, in a sentence."""


async def run_experiment(request: Request, *, progress: Progress | None = None, quiet: bool = False) -> Finished:
    """Runs an experiment and judges it; `quiet` shows no progress.

    Raises:
        ExperimentError: the run's folder cannot be made.
        TargetError: it cannot be written. Whatever else goes wrong is part of the verdict.
        HealError: it cannot be written, and something is left; or an earlier run's faults are still in force on the
            target, and nothing is started.
    """
    refuse_in_force(request.runs_dir, request.topology.path)
    folder = make_run_folder(request.runs_dir, name=request.experiment.source.stem)
    describe_run(
        folder,
        experiment=request.experiment,
        plan=request.plan,
        overrides=request.topology.overrides,
        replay=request.replay,
    )
    progress = progress or Progress()
    showing = None if quiet else asyncio.create_task(show(progress))
    switch = Switch(tell=progress.notes.append)
    try:
        with switch.on_signals():
            reason = await _live(request, folder, switch, progress)
            progress.begin("judging")
            verdict = await asyncio.to_thread(_judge, folder.path)
            # A signal that came while judging changes nothing of this run, but the user wants no further one.
            reason = reason or switch.reason
    finally:
        if showing is not None:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    return Finished(
        run_dir=folder.path,
        verdict=verdict,
        interrupted=None if reason is None else reason.signal,
        problem=None if reason is None else reason.text,
    )


async def _live(request: Request, folder: RunFolder, switch: Switch, progress: Progress) -> Reason | None:
    """Lives the run with everything it needs, and seals its history; why it ended early, if it did."""
    async with AsyncExitStack() as stack:
        log = stack.enter_context(_runner_log(folder.path))
        events = EventLog(folder.path)
        stack.callback(events.close)
        undo = UndoLog(folder.path)
        stack.callback(undo.close)
        try:
            opened = await _open(request, folder, events)
        except HoldfastError as error:
            events.append("run.ended", outcome="error", signal=None, left=[], error=str(error))
            return Reason(outcome="error", text=str(error))
        stack.push_async_exit(_closing(opened))
        if opened.attached:
            note_attached(folder)
            progress.notes.append(f"using {opened.target.name} as `holdfast up` holds it")
        elif find_up(request.topology.path, request.runs_dir) is not None:
            progress.notes.append("not using the target that is up: its overrides are others; starting one beside it")
        life = Life(
            plan=request.plan,
            equipment=Equipment(
                run_dir=folder.path,
                events=events,
                undo=undo,
                log=log,
                roster=opened.roster,
                watchdog=opened.watchdog,
                target=opened.target,
                switch=switch,
                progress=progress,
            ),
            clients=client_commands(request.plan) if request.clients is None else request.clients,
            readings=tuple(request.topology.file.observe),
            state=request.state,
            guardrails=request.experiment.guardrails,
            max_duration_s=request.max_duration_s,
        )
        reason = await life.live()
    await asyncio.to_thread(_seal, folder.path, life.phases)
    return reason


def _closing(opened: OpenTarget[Target]) -> "Callable[..., Awaitable[None]]":
    """Closes a target at the end; the watchdog is told that all is in order only where that is known."""

    async def close(_kind: object, error: BaseException | None, _trace: object) -> None:
        await opened.close(in_order=error is None)

    return close


async def _open(request: Request, folder: RunFolder, events: EventLog) -> OpenTarget[Target]:
    return await open_target(
        request.topology,
        run_dir=folder.path,
        run_id=folder.run_id,
        events=events,
        runs_dir=request.runs_dir,
        attach=request.attach,
    )


def client_commands(plan: Plan) -> tuple[ClientCommand, ...]:
    """The processes that play the clients of a plan: the prober first, so that it sees the load begin."""
    commands = []
    if plan.probe is not None:
        probe = ("--path", plan.probe["path"], "--interval", f"{plan.probe['interval_s']:g}")
        commands.append(python_command("prober", "loadtests.prober", probe))
    if plan.load is not None:
        load = {
            "--locustfile": plan.load["locustfile"],
            "--arrivals": json.dumps(plan.load["arrivals"]),
            "--users": str(plan.load["users"]),
            # A little sooner than the runner gives up: who could not log in, and why, is told by the load itself.
            "--ready-within": f"{CLIENTS_READY_WITHIN_S - _HEADSTART_S:g}",
        }
        commands.append(python_command("load", "loadtests.run", [word for pair in load.items() for word in pair]))
    return tuple(commands)


@contextlib.contextmanager
def _runner_log(run_dir: Path) -> "Iterator[FilteringBoundLogger]":
    # Unbuffered: what cannot be written fails where it is said, not once more when the file is closed.
    with (run_dir / "logs" / "runner.log").open("ab", buffering=0) as file:
        yield structlog.wrap_logger(
            structlog.BytesLogger(file),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(_json_bytes, default=str),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        )


def _json_bytes(entry: object, **options: Any) -> bytes:
    return json.dumps(entry, **options).encode()


def _seal(run_dir: Path, phases: Mapping[str, tuple[int, int]]) -> None:
    """Imported here: pyarrow is large, and nothing of it is needed while the run goes on."""
    from metrics.history import seal

    seal(run_dir, phases)


def _judge(run_dir: Path) -> "Verdict":
    from metrics.judge import check

    try:
        return check(run_dir)
    except OSError as error:
        raise TargetError(
            f"{run_dir}: the outcome cannot be written: {error}; then `holdfast check` the run"
        ) from error
