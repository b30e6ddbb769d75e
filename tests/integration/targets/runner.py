"""A runner of its own for tests that kill it: starts a target, records an undo, freezes an instance, says so, waits.

python runner.py TOPOLOGY RUNS_DIR RUN_ID [attach]
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

from chaos.processes import own_environment, send, spawn
from chaos.targets.opening import open_target
from chaos.targets.topology import load_topology
from chaos.undo import UndoLog, signal_step, start_step
from metrics.events import EventLog


async def main(topology: Path, runs_dir: Path, run_id: str, *, attach: bool) -> None:
    """Comes as far as a fault in force, and stays there."""
    run_dir = _made(runs_dir / run_id)
    opened = await open_target(
        load_topology(topology),
        run_dir=run_dir,
        run_id=run_id,
        events=EventLog(run_dir),
        runs_dir=runs_dir,
        attach="always" if attach else "never",
    )
    target = opened.target
    await target.start()
    undo = UndoLog(run_dir)
    frozen, killed = target.identity("web-1"), target.identity("web-2")
    if frozen is None or killed is None:
        raise AssertionError("both run after the start")
    # A process of the run beside the target, as load is.
    load = spawn(
        ["sleep", "300"],
        env=own_environment(),
        cwd=Path("/"),
        log=run_dir / "logs" / "load.log",
        name="load",
        registrar=opened.roster,
    )
    undo.record("pause-1", [signal_step(frozen, signal.SIGCONT)])
    send(frozen, signal.SIGSTOP)
    undo.record("kill-1", [start_step("web-2")])
    send(killed, signal.SIGKILL)
    await target.expect_exit("web-2", within_s=5)
    said = {"frozen": frozen.pid, "load": load.pid, "watchdog": opened.watchdog.process.pid}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    if await opened.watchdog.lost() is not None:
        sys.stdout.write("watchdog lost\n")
        left = await target.stop()
        await opened.close()
        sys.stdout.write(f"stopped {list(left)}\n")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], attach="attach" in sys.argv))
