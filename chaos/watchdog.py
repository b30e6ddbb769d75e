"""The process that cleans up when the runner dies by any signal, and the runner's hold on it.

    runner --pipe--> python -m chaos.watchdog RUN_DIR        (own session; INT, TERM, HUP, QUIT are ignored)
       a fault outlives its time: the runner hangs -> take that fault back, write it down, go on watching
       "done": the run has ended in order, leave
       end of file: the runner is dead, or could not make sure that all is stopped
                    -> heal what is pending, end every process, remove data, write it down

The watchdog starts before the target, holds the lock of the run's ports, and imports the standard library only.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chaos.errors import TargetError
from chaos.leftovers import clean_up, take_back_expired
from chaos.processes import Process, python_environment, send, spawn
from chaos.roster import WATCHDOG, Roster, read_guarded
from chaos.undo import read_undo

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

READY: Final = b"ready\n"
DONE: Final = b"done\n"
LOOK_EVERY_S: Final = 0.5
_START_LIMIT_S: Final = 10.0
_FINISH_LIMIT_S: Final = 5.0
_CLEAR_LIMIT_S: Final = 15.0
"""Well above what it needs for clearing up, see `chaos.leftovers`."""


class Watchdog:
    """The runner's side: start it before anything else, `finish` it after everything else."""

    def __init__(self, process: Process, pipe: int) -> None:
        self._process = process
        self._pipe = pipe

    @classmethod
    async def start(cls, roster: Roster, *, lock_fds: "Sequence[int]" = ()) -> "Watchdog":
        """Starts the watchdog of a run and waits until it stands by; it also holds `lock_fds` open.

        Raises:
            TargetError: it did not come up, so nothing may be injected; with its log.
        """
        import asyncio

        their_stdin, our_pipe = os.pipe()
        our_stdout, their_stdout = os.pipe()
        log = roster.run_dir / "logs" / "watchdog.log"
        try:
            process = spawn(
                [sys.executable, "-m", "chaos.watchdog", str(roster.run_dir)],
                env=python_environment(),
                cwd=Path("/"),
                log=log,
                name=WATCHDOG,
                registrar=roster,
                stdin=their_stdin,
                stdout=their_stdout,
                pass_fds=lock_fds,
            )
        except BaseException:
            os.close(our_pipe)
            os.close(our_stdout)
            raise
        finally:
            os.close(their_stdin)
            os.close(their_stdout)
        watchdog = cls(process, our_pipe)
        try:
            said = await asyncio.wait_for(_read_some(our_stdout), _START_LIMIT_S)
        except TimeoutError:
            said = b""
        except BaseException:
            await watchdog.finish()
            raise
        finally:
            os.close(our_stdout)
        if said != READY:
            await watchdog.finish()
            raise TargetError(f"the watchdog did not come up, and without it nothing may be broken; log: {log}")
        return watchdog

    @property
    def process(self) -> Process:
        """The watchdog process."""
        return self._process

    def alive(self) -> bool:
        """Whether it still stands by."""
        return self._process.poll() is None

    async def lost(self) -> int:
        """Returns its exit status when it ends; before `finish` that means: stop the run, nobody watches it."""
        return await self._process.wait()

    async def finish(self, *, in_order: bool = True) -> None:
        """Waits until it is gone, told that the run has ended; not `in_order` it clears up first. May be repeated."""
        import asyncio

        if self._pipe >= 0:
            if in_order:
                # It may be dead already: then there is nobody to tell.
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._pipe, DONE)
            os.close(self._pipe)
            self._pipe = -1
        try:
            await asyncio.wait_for(self._process.wait(), _FINISH_LIMIT_S if in_order else _CLEAR_LIMIT_S)
        except TimeoutError:
            send(self._process.identity, signal.SIGKILL)
            await self._process.wait()


async def _read_some(fd: int) -> bytes:
    """What comes next out of a pipe; empty when its writer has gone."""
    import asyncio

    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _set, came)
    try:
        await came
    finally:
        loop.remove_reader(fd)
    return os.read(fd, len(READY))


def _set(came: "asyncio.Future[None]") -> None:
    if not came.done():
        came.set_result(None)


def main(run_dir: Path) -> int:
    """Stands by until the runner has ended; 0 when there was nothing to do or all of it worked, else 1."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    guarded = read_guarded(run_dir)
    if guarded is None:
        sys.stderr.write(f"{run_dir} holds no run to watch\n")
        return 1
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    if _stand_by(run_dir) == DONE:
        return 0
    left = clean_up(run_dir, by="watchdog")
    return 1 if left else 0


def _stand_by(run_dir: Path) -> bytes:
    """What the runner says at its end; empty when it died. Meanwhile takes back every fault that outlives its time."""
    tried: set[tuple[str, int]] = set()
    while not select.select([sys.stdin.buffer], [], [], LOOK_EVERY_S)[0]:
        for record in _overdue(run_dir):
            if record not in tried:
                tried.add(record)
                _take_back(run_dir, *record)
    return sys.stdin.buffer.readline()


def _overdue(run_dir: Path) -> list[tuple[str, int]]:
    """The faults in force whose time has run out, newest first, each with when."""
    try:
        found = read_undo(run_dir).pending
    except OSError as error:
        # Whatever the disk says now: the runner may still die, and then somebody has to be there.
        sys.stderr.write(f"the undo log cannot be read: {error}\n")
        return []
    now_ns = time.monotonic_ns()
    return [(it.fault_id, it.expires_ns) for it in found if it.expires_ns is not None and it.expires_ns <= now_ns]


def _take_back(run_dir: Path, fault_id: str, expires_ns: int) -> None:
    try:
        take_back_expired(run_dir, fault_id, expires_ns=expires_ns)
    except Exception as error:  # noqa: BLE001  # whatever it is: who stands by must go on standing by
        sys.stderr.write(f"{fault_id} has outlived its time and could not be taken back: {error!r}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
