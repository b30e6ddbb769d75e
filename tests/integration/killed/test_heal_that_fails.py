"""A fault that cannot be taken back: `holdfast heal` ends with 5, says what remains and what a person types instead.

Each kind of undo step meets what really keeps it from working: nobody listens, nobody answers, no right to do it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chaos.cli import execute
from chaos.faults.fault import FAULTS
from chaos.processes import identify
from chaos.undo import known_kinds
from tests.integration.killed.moments import LEFT_DIRTY

NOBODY = 65_534
LIMIT_S = 30.0
DIES = """
import json, sys
from pathlib import Path
from chaos.roster import Roster
from chaos.undo import UndoLog
for name, (steps, socket) in json.loads(sys.argv[2]).items():
    run_dir = Path(sys.argv[1], "runs", name)
    run_dir.mkdir(parents=True)
    Roster(run_dir, run_id=name, socket=socket).close()
    UndoLog(run_dir).record(f"{name}-1", steps)
"""
"""Dead runs, each with a fault in force: whoever wrote all this has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """An undo step that cannot work, and what has to be told of it."""

    step: dict[str, Any]
    told: tuple[str, ...]
    socket: str | None = None
    """Where the run is attached to a target that was up."""


def closed_port() -> int:
    """A port that nobody listens on: it was free a moment ago, and is not given away again so soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def deaf() -> Iterator[int]:
    """The port of a server that takes connections and never says anything."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


@contextmanager
def another(user: int | None = None) -> Iterator[dict[str, int]]:
    """A process of our own, or of another user, as undo steps name it."""
    child = subprocess.Popen(["sleep", f"{LIMIT_S:g}"], user=user, cwd="/", start_new_session=True)
    try:
        identity = identify(child.pid)
        assert identity is not None
        yield {"pid": identity.pid, "start_ticks": identity.start_ticks}
    finally:
        child.kill()
        child.wait()


def nobody_starts(_folder: Path, _stack: ExitStack) -> Broken:
    """The target that was up has gone, and its holder with it."""
    step = {"do": "start", "instance": "portal-1"}
    return Broken(step=step, told=("start portal-1", "refused"), socket="\0holdfast-nobody-holds-this")


def command_fails(_folder: Path, _stack: ExitStack) -> Broken:
    """The command says no."""
    return Broken(step={"do": "command", "command": ["false", "again"]}, told=("false again", "exit status 1"))


def statement_reaches_nobody(_folder: Path, _stack: ExitStack) -> Broken:
    """No server is there that could be asked."""
    step = {"do": "sql", "dsn": f"postgres://x@127.0.0.1:{closed_port()}/x", "sql": "update limits set n = 9"}
    return Broken(step=step, told=("the statement update limits set n = 9",))


def request_reaches_nobody(_folder: Path, _stack: ExitStack) -> Broken:
    """No server is there that could be asked."""
    url = f"http://127.0.0.1:{closed_port()}/stage/open"
    return Broken(step={"do": "http", "url": url}, told=(f"POST {url}", "refused"))


def server_never_answers(_folder: Path, stack: ExitStack) -> Broken:
    """The database hangs."""
    dsn = f"postgres://x@127.0.0.1:{stack.enter_context(deaf())}/x"
    step = {"do": "pg_release", "module": "chaos.targets.backends", "dsn": dsn, "application": "holdfast pg_lock-1 x"}
    told = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'holdfast pg_lock-1 x'"
    return Broken(step=step, told=(told,))


def ballast_is_no_file(folder: Path, stack: ExitStack) -> Broken:
    """Somebody has put a folder in its place."""
    disk = folder / "disk"
    (disk / ".holdfast-ballast").mkdir(parents=True)
    keeper = stack.enter_context(another())
    step = {"do": "ballast", "module": "chaos.ballast", **keeper, "folder": str(disk)}
    return Broken(step=step, told=(f"rm /proc/{keeper['pid']}/root{disk}/.holdfast-ballast",))


BREAKING: dict[str, Callable[[Path, ExitStack], Broken]] = {
    "start": nobody_starts,
    "command": command_fails,
    "sql": statement_reaches_nobody,
    "http": request_reaches_nobody,
    "pg_release": server_never_answers,
    "ballast": ballast_is_no_file,
}
FORBIDDEN = ("signal", "nofile")
"""What fails only where a process is another user's."""


def leave(folder: Path, steps: dict[str, Broken]) -> None:
    """Dead runs in a folder, one for each step."""
    runs = {name: ([one.step], one.socket) for name, one in steps.items()}
    subprocess.run([sys.executable, "-c", DIES, str(folder), json.dumps(runs)], check=True, timeout=LIMIT_S)


def test_each_kind_of_undo_step_that_fails_is_told_with_what_to_do_instead_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead run for each kind, healed all together; `status` goes on telling of all."""
    with ExitStack() as stack:
        broken = {kind: breaks(tmp_path / kind, stack) for kind, breaks in BREAKING.items()}
        leave(tmp_path, broken)
        runs_dir = ["--out", str(tmp_path / "runs"), "--json"]
        assert execute(["heal", *runs_dir]) == LEFT_DIRTY
        remains = json.loads(capsys.readouterr().out)
        assert set(remains) == set(broken)
        for kind, one in broken.items():
            (text,) = remains[kind]
            assert text.startswith(f"{kind}-1: "), "the fault is named"
            assert all(part in text for part in one.told), text
            assert "holdfast heal" in text
        assert execute(["status", *runs_dir]) == LEFT_DIRTY
        assert {left["faults"][0] for left in json.loads(capsys.readouterr().out)["left"]} == {
            f"{kind}-1" for kind in broken
        }


def test_what_may_not_be_done_to_another_users_process_is_told_with_what_to_do_instead(tmp_path: Path) -> None:
    """Their process, and a `holdfast heal` that has lost root's rights over others."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.getuid() != 0:
        pytest.skip("needs root, to start a process of another user, and setpriv, to lose root's rights over it")
    with another(user=NOBODY) as theirs:
        steps = {
            "signal": Broken(step={"do": "signal", **theirs, "signal": "CONT"}, told=()),
            "nofile": Broken(step={"do": "nofile", "module": "chaos.descriptors", **theirs, "soft": 64}, told=()),
        }
        leave(tmp_path, steps)
        ours = [sys.executable, "-c", "from chaos.cli import main; main()", "heal", "--json"]
        powerless = [setpriv, "--bounding-set=-kill,-sys_resource", "--inh-caps=-kill,-sys_resource", "--", *ours]
        healing = subprocess.run(powerless, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert healing.returncode == LEFT_DIRTY, healing.stderr
        remains = json.loads(healing.stdout)
        assert f"kill -CONT {theirs['pid']}: TargetError: may not send" in remains["signal"][0]
        assert f"prlimit --pid={theirs['pid']} --nofile=64:: TargetError" in remains["nofile"][0]
        able = subprocess.run(ours, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert json.loads(able.stdout)["signal"] == [], "what it may do is done, and then it is right"


@pytest.mark.prove
def test_no_kind_of_undo_step_is_left_out() -> None:
    """Every kind that the registered faults bring with them is broken above."""
    assert list(FAULTS)
    assert set(known_kinds()) == {*BREAKING, *FORBIDDEN}
