"""A run whose folder takes no more bytes: everything is healed and stopped, and the user is told why in one line.

The runner, and only it, gets a limit on the size of files while it runs; to it that is what a full disk is.
"""

import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chaos.processes import Identity, alive, state
from chaos.roster import Guarded, read_guarded
from chaos.undo import pending
from metrics.events import Event
from tests.integration.engine.bench import LIMIT_S, SYSTEM, Bench, await_event

if TYPE_CHECKING:
    import subprocess

PAUSE_LONG = {"pause": {"role": "portal", "count": 1, "for": "20s"}}
KILL_LONG = {"kill": {"role": "portal", "count": 1, "restart_after": "20s"}}
SOON = {"faults": "25s"}


def fill_up(process: "subprocess.Popen[str]") -> None:
    """From now on no file of the process grows."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, hard))


def guarded_in(run_dir: Path) -> Guarded:
    """The run in a folder."""
    found = read_guarded(run_dir)
    assert found is not None
    return found


def in_force(event: Event) -> bool:
    """Whether the fault has been seen to bite."""
    return event.kind == "fault.effect"


@pytest.mark.parametrize(("fault", "returncode"), [(PAUSE_LONG, 2), (KILL_LONG, 5)], ids=["pause", "kill"])
def test_a_run_that_cannot_write_its_events_stops_its_target_and_says_why(
    bench: Bench, fault: dict[str, object], returncode: int
) -> None:
    """Full while a fault is in force, and then a signal: no process of the run is left, and there is no traceback.

    What was killed is not started again where that cannot be written down, and so the fault counts as not healed.
    """
    process = bench.start("run", bench.write(faults=[fault], phases=SOON))
    await_event(process, bench, in_force)
    fill_up(process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=LIMIT_S)

    assert process.returncode == returncode, stderr
    assert "Traceback" not in stdout + stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("holdfast: ")]
    assert "File too large" in line
    assert str(bench.latest) in line
    assert guarded_in(bench.latest).members() == ()
    assert guarded_in(bench.latest).watchdogs == ()


def test_a_run_that_runs_full_by_itself_ends(bench: Bench) -> None:
    """No signal: the next event, at the latest a second later, is what ends it, long before the fault would heal."""
    process = bench.start("run", bench.write(faults=[PAUSE_LONG], phases=SOON))
    await_event(process, bench, in_force)
    fill_up(process)
    began_s = time.monotonic()
    _, stderr = process.communicate(timeout=LIMIT_S)

    assert time.monotonic() - began_s < 15
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    assert guarded_in(bench.latest).members() == ()


def test_what_a_full_run_did_to_a_target_that_is_up_is_taken_back(bench: Bench) -> None:
    """The watchdog has room to write where the runner has none: nothing is stopped, and nothing is left to heal."""
    up = bench.start("up", SYSTEM)
    try:
        assert up.stdout is not None
        assert "tiny is up at" in up.stdout.readline()
        process = bench.start("run", bench.write(faults=[PAUSE_LONG], phases=SOON))
        await_event(process, bench, in_force)
        frozen = stopped_by(bench)
        fill_up(process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=LIMIT_S)

        assert process.returncode == 2, stderr
        assert state(frozen) not in {"T", None}
        assert alive(frozen)
        assert pending(bench.latest) == ()
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=LIMIT_S)


def stopped_by(bench: Bench) -> Identity:
    """The process that the pending fault has stopped."""
    (record,) = pending(bench.latest)
    (step,) = record.steps
    identity = Identity(pid=step["pid"], start_ticks=step["start_ticks"])
    assert state(identity) == "T"
    return identity
