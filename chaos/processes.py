"""The only module that spawns or signals processes; a process is known by pid and start time, never by pid alone.

    spawn -> Process (our child) -> Identity (pid, start time) -> send / alive / state
                                                    |
    members(...)  everything that belongs to a run, also orphans -> kill_all -> what is left

Only the standard library is imported: the watchdog, which must stay small, uses this module too.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from chaos.errors import TargetError

if TYPE_CHECKING:
    import asyncio

RUN_MARK: Final = "HOLDFAST_RUN_ID"
"""Every process of a run has this in its environment, so that orphans are found by it."""
INSTANCE_MARK: Final = "HOLDFAST_INSTANCE"

_PR_SET_CHILD_SUBREAPER: Final = 36
_DEAD_STATES: Final = frozenset("ZX")
_KILL_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process for sure: pids are used again, a pid with its start time (clock ticks since boot) is not."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What /proc tells about a process; `terminal` is 0 without a controlling terminal."""

    identity: Identity
    state: str
    parent: int
    session: int
    terminal: int


def read_stat(pid: int) -> Stat | None:
    """The line of /proc/PID/stat; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name (field 2) may hold spaces and brackets: fields are counted from behind its last bracket.
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(
        identity=Identity(pid=pid, start_ticks=int(fields[19])),
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        terminal=int(fields[4]),
    )


def identify(pid: int) -> Identity | None:
    """The identity of the process that has `pid` now; None when there is none."""
    stat = read_stat(pid)
    return stat.identity if stat else None


def _identify_unreaped(pid: int) -> Identity:
    """The identity of ourselves or of a child that only we can reap: even if it has ended, /proc still has it."""
    identity = identify(pid)
    if identity is None:
        raise AssertionError(f"/proc does not list process {pid}; is /proc mounted?")
    return identity


def myself() -> Identity:
    """The identity of this process."""
    return _identify_unreaped(os.getpid())


def state(identity: Identity) -> str | None:
    """The kernel's letter for the process (R, S, D, T, Z, ...); None when it is gone, its pid used again or not."""
    stat = read_stat(identity.pid)
    return stat.state if stat and stat.identity == identity else None


def alive(identity: Identity) -> bool:
    """Whether the process still runs; one that has ended and was not reaped (a zombie) does not."""
    letter = state(identity)
    return letter is not None and letter not in _DEAD_STATES


def send(identity: Identity, signum: signal.Signals) -> bool:
    """Signals exactly this process; False when it is gone. Another process with its pid is never hit.

    Raises:
        TargetError: we may not signal it.
    """
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # Looked up after the pidfd was opened: if the start time fits now, the pidfd holds this very process.
        if not alive(identity):
            return False
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise TargetError(
            f"may not send {signum.name} to process {identity.pid}: it belongs to another user"
        ) from error
    finally:
        os.close(fd)
    return True


def become_subreaper() -> None:
    """Makes orphaned descendants children of this process, instead of init's, so that they stay findable."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


class Registrar(Protocol):
    """Where a spawned process is written down before anything else can go wrong; `chaos.roster.Roster` is one."""

    @property
    def run_id(self) -> str:
        """The run that the process belongs to."""

    def add(self, name: str, identity: Identity) -> None:
        """Writes down that `name` is this process now."""


_children: set[int] = set()
"""Pids of our own unreaped children; whoever else has us as parent is an orphan that we adopted."""


class Process:
    """A child that this process started, in a session of its own. Reaped by `wait` or `poll`."""

    def __init__(self, popen: "subprocess.Popen[bytes]", identity: Identity) -> None:
        self.identity = identity
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._ended: asyncio.Future[int] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self.identity.pid

    def poll(self) -> int | None:
        """The exit status (negative: the signal that ended it); None while it runs."""
        returncode = self._popen.poll()
        if returncode is not None:
            _children.discard(self.pid)
            if self._pidfd >= 0 and self._ended is None:
                self._close()
        return returncode

    async def wait(self) -> int:
        """Waits for the end and gives the exit status; any number may wait at once."""
        import asyncio

        returncode = self.poll()
        if returncode is not None:
            return returncode
        if self._ended is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            loop.add_reader(self._pidfd, self._on_end, loop, self._ended)
        return await asyncio.shield(self._ended)

    def wait_blocking(self, *, within_s: float) -> int | None:
        """Waits without an event loop; None when it still runs after `within_s`."""
        if self.poll() is None and self._pidfd >= 0:
            select.select([self._pidfd], [], [], within_s)
        return self.poll()

    def _on_end(self, loop: "asyncio.AbstractEventLoop", ended: "asyncio.Future[int]") -> None:
        loop.remove_reader(self._pidfd)
        returncode = self._popen.wait()
        _children.discard(self.pid)
        self._close()
        if not ended.done():
            ended.set_result(returncode)

    def _close(self) -> None:
        os.close(self._pidfd)
        self._pidfd = -1


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    name: str,
    registrar: Registrar | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Starts `argv` in a session of its own, its output appended to `log`, and registers it as `name`.

    `env` is the whole environment; the mark of the registrar's run is added. `stdout` is a descriptor that takes
    standard output instead of the log (standard error always goes there).

    Raises:
        TargetError: the program cannot be started: missing, not executable, wrong format, no such folder.
    """
    whole_env = {**env, RUN_MARK: registrar.run_id} if registrar else dict(env)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            popen = subprocess.Popen(
                list(argv),
                env=whole_env,
                cwd=cwd,
                stdin=stdin,
                stdout=output if stdout is None else stdout,
                stderr=output,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        except OSError as error:
            missing_folder = "" if cwd.is_dir() else f" (no such folder: {cwd})"
            raise TargetError(
                f"{name} cannot be started: {argv[0]}: {os.strerror(error.errno or 0)}{missing_folder}; "
                f"command: {' '.join(argv)}"
            ) from error
    _children.add(popen.pid)
    identity = _identify_unreaped(popen.pid)
    if registrar:
        try:
            registrar.add(name, identity)
        except OSError as error:
            popen.kill()
            popen.wait()
            _children.discard(popen.pid)
            raise TargetError(f"{name} was stopped again, because it could not be registered: {error}") from error
    return Process(popen, identity)


def every_process() -> dict[int, Stat]:
    """All processes that /proc shows, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := read_stat(int(entry.name))):
            found[stat.identity.pid] = stat
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Belonging:
    """What makes a process part of a run, or with `instance` of one instance of it.

    `roots` are processes known for certain; `folders` are folders that only processes of the run work in.
    `since_ticks` is the start time of the runner: nothing older belongs to the run.
    """

    run_id: str
    roots: frozenset[Identity]
    since_ticks: int
    folders: tuple[Path, ...] = ()
    instance: str | None = None


def members(belonging: Belonging, *, spare: Iterable[int] = ()) -> tuple[Identity, ...]:
    """All living processes of a run, in order of pid; never this process, nor pids in `spare`.

    A process belongs when it is a root; lives in the session that a living root leads; carries the run's mark in its
    environment; works in one of the folders without a terminal (PostgreSQL overwrites its environment and its
    backends leave the session); is an orphan that we adopted from a root's session; or descends from such a one.
    """
    stats = every_process()
    spared = {os.getpid(), *spare}
    sessions = {root.pid for root in belonging.roots}
    living_sessions = {root.pid for root in belonging.roots if (at := stats.get(root.pid)) and at.identity == root}

    def belongs(stat: Stat) -> bool:
        if stat.identity.start_ticks < belonging.since_ticks:
            return False
        adopted = stat.parent == os.getpid() and stat.identity.pid not in _children and stat.session in sessions
        return (
            stat.identity in belonging.roots
            or stat.session in living_sessions
            or adopted
            or _carries_mark(stat.identity.pid, belonging)
            or (stat.terminal == 0 and _works_in(stat.identity.pid, belonging.folders))
        )

    chosen = {pid for pid, stat in stats.items() if pid not in spared and belongs(stat)}
    while True:
        children = {pid for pid, stat in stats.items() if stat.parent in chosen} - chosen - spared
        if not children:
            break
        chosen |= children
    return tuple(stats[pid].identity for pid in sorted(chosen) if stats[pid].state not in _DEAD_STATES)


def _carries_mark(pid: int, belonging: Belonging) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        # Gone meanwhile, or another user's: what may not be read was not started by this run under our name.
        return False
    if f"{RUN_MARK}={belonging.run_id}".encode() not in variables:
        return False
    return belonging.instance is None or f"{INSTANCE_MARK}={belonging.instance}".encode() in variables


def _works_in(pid: int, folders: Sequence[Path]) -> bool:
    if not folders:
        return False
    try:
        cwd = Path(str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)"))
    except OSError:
        return False
    return any(cwd.is_relative_to(folder) for folder in folders)


def settings_of(identity: Identity, names: Iterable[str]) -> dict[str, str | None]:
    """What an instance's process was started with, as the kernel tells it; None: the variable was not set.

    Raises:
        TargetError: the kernel does not tell.
    """
    raw = b""
    with contextlib.suppress(OSError):
        raw = Path(f"/proc/{identity.pid}/environ").read_bytes()
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    found = {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
    # A process that has overwritten its environment, as PostgreSQL does, has lost our mark too.
    if INSTANCE_MARK not in found or not alive(identity):
        raise TargetError(f"the settings of process {identity.pid} cannot be read: it has ended or overwritten them")
    return {name: found.get(name) for name in names}


def freeze(find: Callable[[], tuple[Identity, ...]], *, within_s: float) -> tuple[Identity, ...]:
    """Stops what `find` finds until it finds nothing new, and gives all of it: stopped processes have no children.

    Without it a child that is forked between a look and its parent's death, and hides, would be found by nobody.
    """
    deadline = time.monotonic() + within_s
    seen: set[Identity] = set()
    while new := set(find()) - seen:
        for identity in new:
            # Another user's process cannot be stopped; whether it can be ended is seen by whoever tries.
            with contextlib.suppress(TargetError):
                send(identity, signal.SIGSTOP)
        seen |= new
        if time.monotonic() > deadline:
            break
    return tuple(sorted(seen, key=lambda it: it.pid))


def kill_all(
    find: Callable[[], tuple[Identity, ...]], *, within_s: float, known: Iterable[Identity] = ()
) -> tuple[Identity, ...]:
    """Kills what `find` finds, and what of `known` lives, until nothing does; gives back what is left after `within_s`.

    SIGKILL also ends stopped processes. `known` are those seen before their parents ended: an orphan that changed
    its session and environment is found in no other way.
    """
    deadline = time.monotonic() + within_s
    seen = set(known)
    while True:
        seen.update(freeze(find, within_s=within_s / 2))
        found = tuple(sorted((it for it in seen if alive(it)), key=lambda it: it.pid))
        if not found or time.monotonic() > deadline:
            return found
        for identity in found:
            # Another user's process stays in `found`, and so among what is left.
            with contextlib.suppress(TargetError):
                send(identity, signal.SIGKILL)
        _await_ends(found, deadline)
        reap_adopted(found)


def _await_ends(identities: Iterable[Identity], deadline: float) -> None:
    """Returns when all have ended, or after a twentieth of a second: one in an uninterruptible state takes longer."""
    pause_until = min(deadline, time.monotonic() + 0.05)
    while time.monotonic() < pause_until and any(alive(identity) for identity in identities):
        time.sleep(_KILL_POLL_S)


def reap_adopted(identities: Iterable[Identity]) -> None:
    """Takes the exit status of ended orphans that we adopted, so that no zombie of theirs stays with us."""
    for identity in identities:
        if identity.pid in _children:
            continue
        stat = read_stat(identity.pid)
        if stat and stat.identity == identity and stat.parent == os.getpid() and stat.state in _DEAD_STATES:
            # Whoever shares this process with us may have reaped it just now.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(identity.pid, os.WNOHANG)


def own_environment() -> dict[str, str]:
    """Our environment as children inherit it: without the marks and settings of a run that we may be part of."""
    return {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}


def python_environment() -> dict[str, str]:
    """`own_environment`, in which `python -m chaos...` finds this very package wherever it is started."""
    env = own_environment()
    home = str(Path(__file__).resolve().parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (home, env.get("PYTHONPATH"))))
    return env


def run_to_end(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, within_s: float) -> str:
    """What a short command prints, without an event loop; its session is killed when it takes longer than `within_s`.

    Raises:
        TargetError: it could not be started, failed, or took too long; with the end of what it printed.
    """
    import tempfile

    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            popen = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(f"{argv[0]} cannot be started: {os.strerror(error.errno or 0)}") from error
        try:
            returncode = popen.wait(timeout=within_s)
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"{' '.join(argv)}: not finished within {within_s:g} s") from error
        finally:
            if popen.poll() is None:
                # Unreaped, so the number of its session is still its own.
                os.killpg(popen.pid, signal.SIGKILL)
                popen.wait()
        said, complained = (_text(file) for file in (output, errors))
        if returncode != 0:
            said = (said + complained)[-2000:].strip()
            raise TargetError(f"{' '.join(argv)}: exit status {returncode}: {said}")
        return said


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
