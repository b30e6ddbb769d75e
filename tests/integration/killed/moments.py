"""A runner, killed while faults of many kinds are in force, and what is left of its run.

    own target        the run starts it, so with the run all of it must go
    a target held up  the run attaches to it, so every fault must be taken back, and the target serve as before

Every folder is the test's own, and only runners that were started here are killed, by their handle.
"""

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos.processes import send
from chaos.roster import read_guarded
from metrics.events import Event, read_events
from tests.integration.killed.drawing import TARGET, draw, every_kind
from tests.integration.killed.soundness import Sound, unsound
from tests.integration.killed.traces import Traces, remains

GONE_WITHIN_S = 5.0
"""What the project promises of a killed runner."""
LEFT_DIRTY = 5
_UP_WITHIN_S = 90.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one kill."""

    number: int
    attached: bool
    both: bool
    """Whether the watchdog died with the runner."""
    kinds: tuple[str, ...]
    in_force: tuple[str, ...]
    """The kinds that had begun and were not healed when the runner died."""
    after_s: float
    """How long it took until nothing was left; of one that left something, how long it was given."""
    left: tuple[str, ...]
    """What was seen to be left, and what whoever cleaned up said of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """A target that is held up for the runs of one folder."""

    state_file: Path
    sound: Sound
    holder: "subprocess.Popen[str]"


def holdfast(folder: Path, *arguments: str | Path) -> "subprocess.Popen[str]":
    """The command line, in a process and a session of its own; what it says goes to files beside its folder."""
    with (folder / f"{arguments[0]}.out").open("ab") as out, (folder / f"{arguments[0]}.err").open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-c", "from chaos.cli import main; main()", *map(str, arguments)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
        )


@contextmanager
def ended_afterwards(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Whatever happens inside, the process has ended afterwards: asked with SIGTERM, or by its own end."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=_UP_WITHIN_S)


@contextmanager
def held_up(folder: Path) -> Iterator[Up]:
    """The system, up with what every kind of fault needs of it."""
    wish = folder / "every-kind.yaml"
    every_kind(wish)
    with ended_afterwards(holdfast(folder, "up", TARGET, "--for", wish)) as holder:
        state_file = folder / "runs" / "up" / "harmed" / "up.json"
        await_that(state_file.exists, holder)
        sound = Sound.of(state_file)
        await_that(lambda: not unsound(state_file, sound), holder)
        yield Up(state_file=state_file, sound=sound, holder=holder)


def await_that(
    holds: Callable[[], bool],
    while_lives: "subprocess.Popen[str]",
    *,
    within_s: float = _UP_WITHIN_S,
    every_s: float = _LOOK_EVERY_S,
) -> None:
    """Returns when a condition holds, and fails when the process ends before, or time runs out."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert while_lives.poll() is None, f"it ended before (exit status {while_lives.returncode})"
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s"
        time.sleep(every_s)


def run_dir_of(folder: Path, experiment: Path) -> Path | None:
    """The folder of the run of an experiment; None before it has said who runs it."""
    found = [guard.parent for guard in (folder / "runs").glob(f"*-{experiment.stem}-*/guard.json")]
    return found[0] if found else None


def has(run_dir: Path | None, matches: Callable[[Event], bool]) -> bool:
    """Whether an event that matches stands in the run's log."""
    return run_dir is not None and (run_dir / "events.ndjson").exists() and any(map(matches, read_events(run_dir)))


def await_event(
    process: "subprocess.Popen[str]",
    folder: Path,
    experiment: Path,
    matches: Callable[[Event], bool],
    *,
    every_s: float = _LOOK_EVERY_S,
) -> Path:
    """The folder of the run, as soon as such an event stands in its log."""
    await_that(lambda: has(run_dir_of(folder, experiment), matches), process, every_s=every_s)
    run_dir = run_dir_of(folder, experiment)
    assert run_dir is not None
    return run_dir


def begins(phase: str) -> Callable[[Event], bool]:
    """Matches the start of a phase."""
    return lambda event: event.kind == "phase.started" and event.data["phase"] == phase


def play(folder: Path, number: int, *, up: Up | None, both: bool = False, within_s: float = GONE_WITHIN_S) -> Outcome:
    """Draws, runs, kills at a moment drawn from the first two seconds of the faults, and looks.

    `both`: the watchdog dies with the runner, and `holdfast heal` does what it would have done.
    """
    experiment = folder / f"moment-{number}.yaml"
    kinds = draw(experiment, number)
    moment_s = random.Random(f"{number}: moment").uniform(0.0, 2.0)  # noqa: S311
    with ended_afterwards(holdfast(folder, "run", experiment)) as runner:
        run_dir = await_event(runner, folder, experiment, begins("faults"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            returncode = runner.wait(timeout=moment_s)
            raise AssertionError(f"the run ended by itself ({returncode}): {run_dir}")
        traces = Traces.of(run_dir)
        if both:
            kill_watchdog_of(runner, run_dir)
        runner.kill()
        runner.wait()
    began_s = time.monotonic()
    if both:
        heal(folder)
    left, after_s = look(traces, up, began_s=began_s, within_s=within_s)
    return Outcome(
        number=number,
        attached=up is not None,
        both=both,
        kinds=kinds,
        in_force=in_force(run_dir),
        after_s=round(after_s, 2),
        left=(*left, *told(run_dir)),
    )


def kill_watchdog_of(runner: "subprocess.Popen[str]", run_dir: Path) -> None:
    """Stops the runner, so that it cannot notice, and kills the watchdog that it has started."""
    guarded = read_guarded(run_dir)
    assert guarded is not None
    runner.send_signal(signal.SIGSTOP)
    for watchdog in guarded.watchdogs:
        send(watchdog, signal.SIGKILL)


def heal(folder: Path) -> None:
    """Has everything cleared by hand: nothing may be left, and it is known to be a lot before."""
    status = holdfast(folder, "status")
    assert status.wait(timeout=_UP_WITHIN_S) == LEFT_DIRTY
    healing = holdfast(folder, "heal")
    assert healing.wait(timeout=_UP_WITHIN_S) == 0, (folder / "heal.out").read_text()


def look(traces: Traces, up: Up | None, *, began_s: float, within_s: float) -> tuple[list[str], float]:
    """What is left, and when nothing was: looked for again and again; who is late has left something."""
    while True:
        left = remains(traces)
        left += unsound(up.state_file, up.sound) if up is not None and not left else []
        took_s = time.monotonic() - began_s
        if took_s > within_s:
            return left or [f"nothing, but only after {took_s:.1f} s"], took_s
        if not left:
            return left, took_s
        time.sleep(_LOOK_EVERY_S)


def in_force(run_dir: Path) -> tuple[str, ...]:
    """The kinds that had begun to play and were not proven to be healed."""
    begun: dict[str | None, str] = {}
    for event in read_events(run_dir):
        if event.kind == "fault.undo_recorded" and event.fault_id is not None:
            begun[event.fault_id] = event.fault_id.rpartition("-")[0]
        if event.kind == "fault.heal_proven":
            begun.pop(event.fault_id, None)
    return tuple(begun.values())


def told(run_dir: Path) -> tuple[str, ...]:
    """What whoever cleaned up says is left; or that nobody has said anything."""
    ends = [event for event in read_events(run_dir) if event.kind == "run.ended"]
    return tuple(ends[-1].data["left"]) if ends else ("nobody wrote the end of the run",)
