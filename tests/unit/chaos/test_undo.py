"""The undo log: on disk before the fault, readable whatever happened, carried out by anybody."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.errors import HealError, TargetError
from chaos.processes import identify, state
from chaos.undo import FILE_NAME, Settings, UndoLog, UndoRecord, carry_out, pending, read_undo, signal_step, start_step

STEP = {"do": "start", "instance": "portal-1"}


def logged(run_dir: Path, *fault_ids: str) -> UndoLog:
    """A log with a record for each fault."""
    log = UndoLog(run_dir)
    for fault_id in fault_ids:
        log.record(fault_id, [STEP])
    return log


def test_what_is_not_done_is_pending_newest_first(tmp_path: Path) -> None:
    """Three recorded, the middle one done."""
    log = logged(tmp_path, "a", "b", "c")
    log.done("b")
    log.done("b")
    log.close()
    assert [record.fault_id for record in pending(tmp_path)] == ["c", "a"]
    assert pending(tmp_path)[0] == UndoRecord(fault_id="c", steps=(STEP,))


def test_a_record_is_synced_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When fsync is called the whole line is in the file already, and the folder was synced before."""
    synced = []
    real = os.fsync

    def watching(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115  # a name of the kernel's
        synced.append((name, name.read_text() if name.is_file() else ""))
        real(fd)

    monkeypatch.setattr(os, "fsync", watching)
    logged(tmp_path, "a").close()
    assert [name for name, _ in synced] == [tmp_path, tmp_path / FILE_NAME]
    assert json.loads(synced[1][1]) == {"fault_id": "a", "steps": [STEP]}


def test_a_disk_that_takes_nothing_stops_the_injection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync fails: record raises, and the half-written record does not count later."""
    log = logged(tmp_path, "a")
    with monkeypatch.context() as patch:

        def failing(_fd: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="No space left"):
            log.record("b", [STEP])
    log.close()
    assert [record.fault_id for record in pending(tmp_path)] == ["a"]


def test_a_step_nobody_could_carry_out_is_refused_at_once(tmp_path: Path) -> None:
    """Before anything is written."""
    log = UndoLog(tmp_path)
    with pytest.raises(HealError, match=r"no way to carry out an undo step of kind 'pray'; known: .*command, http"):
        log.record("a", [{"do": "pray"}])
    with pytest.raises(HealError, match=r"chaos\.no_such cannot be imported"):
        log.record("a", [{"do": "toxic", "module": "chaos.no_such"}])
    log.close()
    assert pending(tmp_path) == ()


@given(cut=st.integers(min_value=0, max_value=400))
def test_whatever_the_length_of_a_torn_tail_whole_records_stay(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """The file is cut anywhere; what is read are the whole lines; a new log goes on after them."""
    run_dir = tmp_path_factory.mktemp("run")
    logged(run_dir, "a", "b", "c").close()
    path = run_dir / FILE_NAME
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = ["a", "b", "c"][: data.count(b"\n")]
    assert [record.fault_id for record in reversed(pending(run_dir))] == whole
    logged(run_dir, "d").close()
    assert [record.fault_id for record in reversed(pending(run_dir))] == [*whole, "d"]


def test_damage_in_the_middle_is_told_and_the_rest_still_read(tmp_path: Path) -> None:
    """A line of garbage between two records."""
    logged(tmp_path, "a", "b").close()
    path = tmp_path / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00garbage\n[]\n" + lines[1])
    undo = read_undo(tmp_path)
    assert [record.fault_id for record in undo.pending] == ["b", "a"]
    assert [text.split(": ")[0] for text in undo.damaged] == [f"{path}:2", f"{path}:3"]
    with pytest.raises(HealError, match="not an undo record"):
        pending(tmp_path)


def test_a_run_without_faults_has_nothing_to_undo(tmp_path: Path) -> None:
    """No file at all."""
    assert pending(tmp_path) == ()


def test_a_stopped_process_goes_on_and_a_gone_one_is_no_error() -> None:
    """The step is carried out twice on a living process, then on its identity after death."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.alarm(60); signal.pause()"]) as child:
        identity = identify(child.pid)
        assert identity is not None
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert state(identity) == "T"
        step = signal_step(identity, signal.SIGCONT)
        assert json.loads(json.dumps(step)) == step
        assert carry_out(step) == f"SIGCONT to process {child.pid}"
        os.waitpid(child.pid, os.WCONTINUED)
        assert carry_out(step) == f"SIGCONT to process {child.pid}"
        child.kill()
        child.wait()
        assert carry_out(step) == f"process {child.pid} is gone"


def test_instances_are_started_by_whoever_can() -> None:
    """With a starter it is asked; without one the step is passed over and says so; a failure is a HealError."""
    asked: list[tuple[str, Settings | None]] = []

    def keep(instance: str, env: Settings | None) -> None:
        asked.append((instance, env))

    assert carry_out(start_step("portal-2"), keep) == "portal-2 started"
    rollback = start_step("portal-3", env={"VERSION": "v1", "EXTRA": None})
    assert carry_out(json.loads(json.dumps(rollback)), keep) == "portal-3 runs as before"
    assert asked == [("portal-2", None), ("portal-3", {"VERSION": "v1", "EXTRA": None})]
    assert carry_out(start_step("portal-2")) == "portal-2 not started: its target is torn down"

    def refuse(_instance: str, _env: Settings | None) -> None:
        raise TargetError("no such port")

    with pytest.raises(HealError, match=r"portal-2.*no such port"):
        carry_out(start_step("portal-2"), refuse)


def test_a_command_is_run_and_its_failure_names_it(tmp_path: Path) -> None:
    """One that leaves a file, one that fails."""
    code = "import os; open('done', 'w').write(os.environ['WHAT'])"
    step = {"do": "command", "command": [sys.executable, "-c", code], "cwd": str(tmp_path), "env": {"WHAT": "x"}}
    carry_out(step)
    assert (tmp_path / "done").read_text() == "x"
    with pytest.raises(HealError, match="exit status 1"):
        carry_out({"do": "command", "command": ["false"]})
    with pytest.raises(HealError, match=r"not finished within 0\.2 s"):
        carry_out({"do": "command", "command": ["sleep", "60"], "within_s": 0.2})


def test_a_request_that_is_refused_remains() -> None:
    """Nobody listens on the port: the address is in the message, so that somebody can send it by hand."""
    with pytest.raises(HealError, match=r"undo step failed: POST http://127\.0\.0\.1:1/x: URLError"):
        carry_out({"do": "http", "url": "http://127.0.0.1:1/x"})
    with pytest.raises(HealError, match="not an http address"):
        carry_out({"do": "http", "url": "file:///etc/passwd"})
