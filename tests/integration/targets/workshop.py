"""A workshop for tests of drivers: topologies of small real services, and a count of what is left of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chaos.processes import every_process, identify
from chaos.targets.local import LocalTarget
from chaos.targets.opening import OpenTarget, open_own, open_target
from chaos.targets.target import Target
from chaos.targets.topology import load_topology
from metrics.events import Event, EventLog, read_events

SERVICE = Path(__file__).parent / "service.py"
PYTHON_SERVICE = ["${python}", str(SERVICE)]


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    """Returns when a condition holds; it is asked every few milliseconds."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  # other processes set no event of ours
            await asyncio.sleep(0.005)


class Workshop:
    """A folder of runs with topologies in it; its name is in the command line of every process started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs_dir = folder / "runs"
        self.runs_dir.mkdir()
        # Every process is told by an argument that only this test has.
        self.token = f"workshop-{folder.parent.name}-{folder.name}"

    def topology(self, roles: dict[str, Any], **more: Any) -> Path:
        """A topology file with these roles; a role without a command is a service."""
        for role in roles.values():
            if not role.get("external"):
                role.setdefault("command", PYTHON_SERVICE)
                role["command"] = [*role["command"], self.token]
        first = next(iter(roles))
        text = json.dumps({"name": "demo", "url": f"{first}.url", "roles": roles, **more}, indent=1)
        path = self.folder / "topology.yaml"
        path.write_text(text)
        return path

    def run_dir(self, name: str) -> Path:
        """The folder of a run."""
        run_dir = self.runs_dir / name
        run_dir.mkdir()
        return run_dir

    @asynccontextmanager
    async def opened(
        self, path: Path, *, run: str = "run-1", overrides: dict[str, Any] | None = None
    ) -> AsyncIterator[OpenTarget[LocalTarget]]:
        """A target of our own, stopped and closed at the end."""
        run_dir = self.run_dir(run)
        events = EventLog(run_dir)
        try:
            topology = load_topology(path, overrides)
            opened = await open_own(topology, run_dir=run_dir, run_id=f"{self.token}-{run}", events=events)
            try:
                yield opened
            finally:
                left = await opened.target.stop()
                await opened.close()
                assert left == ()
        finally:
            events.close()

    @asynccontextmanager
    async def attached(self, path: Path, *, run: str = "run-1") -> AsyncIterator[OpenTarget[Target]]:
        """The target that is up, used by a run."""
        run_dir = self.run_dir(run)
        events = EventLog(run_dir)
        try:
            opened = await open_target(
                load_topology(path),
                run_dir=run_dir,
                run_id=f"{self.token}-{run}",
                events=events,
                runs_dir=self.runs_dir,
                attach="always",
            )
            try:
                yield opened
            finally:
                assert await opened.target.stop() == ()
                await opened.close()
        finally:
            events.close()

    def events(self, kind: str, run: str = "run-1") -> list[Event]:
        """The events of a kind."""
        return [event for event in read_events(self.runs_dir / run) if event.kind == kind]

    def has_data(self, run: str) -> bool:
        """Whether data of a run's instances is still there."""
        return (self.runs_dir / run / "data").exists()

    def left(self) -> list[int]:
        """The living processes that any topology of this workshop started, and their watchdogs."""
        return [pid for pid in every_process() if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            variables = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        token = self.token.encode()
        ours = token in command or token in variables or str(self.folder).encode() in command
        return ours and identify(pid) is not None
