"""Processes are known for sure, and nothing else is ever signalled."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos import processes
from chaos.errors import TargetError
from chaos.processes import Belonging, Identity, Process, alive, identify, kill_all, members, myself, send, spawn, state

# The alarm ends them should the test itself be killed.
SLEEPER = "import signal; signal.alarm(60); print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


class Registered:
    """Keeps what it is told, as a roster does."""

    run_id = "run-of-this-test"

    def __init__(self) -> None:
        self.names: dict[str, Identity] = {}

    def add(self, name: str, identity: Identity) -> None:
        self.names[name] = identity


@pytest.fixture
def started(tmp_path: Path) -> "Iterator[Starter]":
    """Starts programs for one test."""
    starter = Starter(tmp_path)
    yield starter
    starter.end()


class Starter:
    """Starts Python programs that are gone when the test is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registered = Registered()
        self._all: list[Process] = []

    def __call__(self, code: str, *args: str, name: str = "it", cwd: Path | None = None) -> Process:
        process = spawn(
            [sys.executable, "-c", code, *args],
            env=dict(os.environ),
            cwd=cwd or self.folder,
            log=self.folder / f"{name}.log",
            name=name,
            registrar=self.registered,
        )
        self._all.append(process)
        return process

    async def up(self, code: str, *args: str, name: str = "it", cwd: Path | None = None) -> Process:
        process = self(code, *args, name=name, cwd=cwd)
        await until(lambda: "up" in self.log(name))
        return process

    def log(self, name: str = "it") -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        for process in self._all:
            send(process.identity, signal.SIGKILL)
            assert process.wait_blocking(within_s=5) is not None


async def until(holds: Callable[[], bool], within_s: float = 5.0) -> None:
    """Returns when a condition holds; it is asked every few milliseconds."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  # other processes set no event of ours
            await asyncio.sleep(0.005)


async def test_exit_statuses_reach_every_waiter(started: Starter) -> None:
    """Two wait at once; a third asks afterwards."""
    process = started("import sys; sys.exit(3)")
    assert list(await asyncio.gather(process.wait(), process.wait())) == [3, 3]
    assert await process.wait() == 3
    assert process.poll() == 3


async def test_a_waiter_that_gives_up_takes_nothing_from_the_others(started: Starter) -> None:
    """One wait is cancelled by its limit; a later one still learns the signal that ended the process."""
    process = await started.up(SLEEPER)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.01)
    assert send(process.identity, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL


async def test_a_spawned_process_has_session_log_mark_and_register_of_its_own(started: Starter) -> None:
    """The child prints its session, standard input and mark."""
    code = "import os, sys; print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()), os.environ['HOLDFAST_RUN_ID'])"
    process = started(code)
    assert await process.wait() == 0
    assert started.log() == "True '' run-of-this-test\n"
    assert started.registered.names == {"it": process.identity}


async def test_a_program_that_cannot_start_is_named_with_the_cause(tmp_path: Path) -> None:
    """Missing, not executable, and a missing folder."""
    plain = tmp_path / "plain"
    plain.write_text("no program")

    def start(program: str, cwd: Path) -> None:
        spawn([program, "x"], env={}, cwd=cwd, log=tmp_path / "log", name="portal-1")

    with pytest.raises(TargetError, match=r"portal-1 cannot be started: /no/such: No such file.*command: /no/such x"):
        start("/no/such", tmp_path)
    with pytest.raises(TargetError, match="Permission denied"):
        start(str(plain), tmp_path)
    with pytest.raises(TargetError, match=f"no such folder: {tmp_path}/gone"):
        start(sys.executable, tmp_path / "gone")


async def test_what_cannot_be_registered_does_not_stay(tmp_path: Path) -> None:
    """A registrar on a full disk: the child, which would run for ever, is ended again."""

    class Full(Registered):
        def add(self, name: str, identity: Identity) -> None:
            super().add(name, identity)
            raise OSError("disk full")

    full = Full()
    with pytest.raises(TargetError, match="it was stopped again, because it could not be registered: disk full"):
        spawn([sys.executable, "-c", SLEEPER], env={}, cwd=tmp_path, log=tmp_path / "log", name="it", registrar=full)
    assert not alive(full.names["it"])


async def test_a_used_again_pid_is_never_signalled(started: Starter) -> None:
    """An identity with another start time, as of a process that had the pid before: the living one is spared."""
    process = await started.up(SLEEPER)
    earlier = Identity(pid=process.pid, start_ticks=process.identity.start_ticks - 1)
    assert not send(earlier, signal.SIGKILL)
    assert not alive(earlier)
    assert state(earlier) is None
    assert alive(process.identity)
    assert kill_all(lambda: (), within_s=1, known=[earlier]) == ()
    assert alive(process.identity)


async def test_a_zombie_is_not_alive(started: Starter) -> None:
    """A child that has ended but was not waited for still has its pid; it counts as dead, and takes no signal."""
    process = started("pass")
    await until(lambda: state(process.identity) == "Z")
    assert identify(process.pid) == process.identity
    assert not alive(process.identity)
    assert not send(process.identity, signal.SIGTERM)
    assert process.poll() == 0
    assert identify(process.pid) is None


async def test_a_stopped_process_says_so(started: Starter) -> None:
    """SIGSTOP and SIGCONT are seen in the kernel's letter."""
    process = await started.up(SLEEPER)
    assert send(process.identity, signal.SIGSTOP)
    await until(lambda: state(process.identity) == "T")
    assert alive(process.identity)
    assert send(process.identity, signal.SIGCONT)
    await until(lambda: state(process.identity) == "S")


def belonging(*roots: Process, folders: tuple[Path, ...] = ()) -> Belonging:
    """What belongs to the run of the tests."""
    return Belonging(
        run_id=Registered.run_id,
        roots=frozenset(root.identity for root in roots),
        since_ticks=myself().start_ticks,
        folders=folders,
    )


LAUNCHER = """
import subprocess, sys
kind, code = sys.argv[1:]
how = {"child": {}, "session": {"start_new_session": True}, "bare": {"env": {}, "start_new_session": True, "cwd": "/"},
       "cwd": {"env": {}, "start_new_session": True}}[kind]
child = subprocess.Popen([sys.executable, "-c", code], **how)
print("up", child.pid, flush=True)
"""
LASTING = LAUNCHER + "\nimport signal; signal.alarm(60); signal.pause()"


async def child_of(started: Starter, name: str) -> Identity:
    """The child that a launcher has told of, once it runs its own program."""
    pid = int(started.log(name).split()[1])
    await until(lambda: started.log(name).count("up") == 2)
    identity = identify(pid)
    assert identity is not None
    return identity


@pytest.mark.parametrize("kind", ["child", "session", "bare"])
async def test_descendants_of_a_root_belong_however_they_hide(started: Starter, kind: str) -> None:
    """A child, one in a session of its own, and one that also dropped its environment and folder."""
    root = await started.up(LASTING, kind, STUBBORN)
    child = await child_of(started, "it")
    found = members(Belonging(run_id="other", roots=frozenset([root.identity]), since_ticks=0))
    assert set(found) == {root.identity, child}
    assert kill_all(lambda: members(belonging(root)), within_s=3) == ()
    assert not alive(child)


@pytest.mark.parametrize("kind", ["session", "cwd"])
async def test_orphans_are_found_by_mark_or_by_folder(started: Starter, tmp_path: Path, kind: str) -> None:
    """The parent ends first. One child carries the run's mark, one only works in the run's data folder."""
    data = tmp_path / "data"
    data.mkdir()
    root = await started.up(LAUNCHER, kind, STUBBORN, cwd=data)
    child = await child_of(started, "it")
    assert await root.wait() == 0
    rules = belonging(root, folders=(data,))
    assert members(rules) == (child,)
    assert kill_all(lambda: members(rules), within_s=3) == ()
    assert not alive(child)


async def test_strangers_do_not_belong(started: Starter, tmp_path: Path) -> None:
    """Another run's process, in another run's folder, and one older than the runner, are left alone."""
    data = tmp_path / "data"
    data.mkdir()
    stranger = await started.up(SLEEPER)
    rules = Belonging(run_id="another-run", roots=frozenset(), since_ticks=0, folders=(data,))
    assert members(rules) == ()
    later = Belonging(run_id=Registered.run_id, roots=frozenset(), since_ticks=stranger.identity.start_ticks + 1)
    assert members(later) == ()
    assert members(belonging()) == (stranger.identity,)
    assert members(belonging(), spare=[stranger.pid]) == ()


async def test_an_instance_is_told_from_another_by_its_mark(started: Starter) -> None:
    """Two processes of a run with the names of two instances."""
    code = "import os, subprocess, sys, signal; print('up', flush=True); signal.alarm(60); signal.pause()"
    found = {}
    for name in ("portal-1", "portal-2"):
        os.environ[processes.INSTANCE_MARK] = name
        try:
            found[name] = (await started.up(code, name=name)).identity
        finally:
            del os.environ[processes.INSTANCE_MARK]
    one = Belonging(run_id=Registered.run_id, roots=frozenset(), since_ticks=0, instance="portal-2")
    assert members(one) == (found["portal-2"],)


async def test_a_short_command_is_ended_at_its_limit_with_all_it_started(tmp_path: Path) -> None:
    """It starts a child and waits for ever: neither is left."""
    note = tmp_path / "pid"
    code = f"import os, time; pid = os.fork(); open({str(note)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(60)"
    with pytest.raises(TargetError, match=r"not finished within 0\.5 s"):
        processes.run_to_end([sys.executable, "-c", code], env={}, cwd=tmp_path, within_s=0.5)
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 2
    await until(lambda: not any((at := identify(pid)) and alive(at) for pid in pids))


def test_a_short_command_that_fails_is_quoted(tmp_path: Path) -> None:
    """The end of its output and its status are in the message."""
    with pytest.raises(TargetError, match=r"exit status 4: no such table"):
        processes.run_to_end(
            [sys.executable, "-c", "import sys; print('no such table'); sys.exit(4)"], env={}, cwd=tmp_path, within_s=5
        )


def test_a_short_command_gives_what_it_printed(tmp_path: Path) -> None:
    """Standard output is the answer; what it complains of is kept for the message of a failure."""
    said = processes.run_to_end(["sh", "-c", "echo answer; echo noise >&2"], env={}, cwd=tmp_path, within_s=5)
    assert said == "answer\n"
    with pytest.raises(TargetError, match=r"exit status 3: answer\nnoise$"):
        processes.run_to_end(["sh", "-c", "echo answer; echo noise >&2; exit 3"], env={}, cwd=tmp_path, within_s=5)
