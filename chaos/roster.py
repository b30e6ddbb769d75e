"""Which processes a run has started, written down at once: `processes.ndjson` and `guard.json` in the run's folder.

    guard.json        {"schema", "run_id", "boot_id", "runner": {pid, start_ticks}, "socket": text | null}
    processes.ndjson  {"name": "portal-2", "pid": 81, "start_ticks": 7100, "stop": "TERM"}, one line at each start

Whoever has to clean up after a dead runner - its watchdog, or `holdfast heal` - reads both.
"""

import json
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from chaos.appending import append_whole
from chaos.processes import Belonging, Identity, alive, members, myself

GUARD_FILE: Final = "guard.json"
ROSTER_FILE: Final = "processes.ndjson"
OUTSIDE_FILE: Final = "outside.txt"
READY_FOLDER: Final = "ready"
"""Where launchers report their outputs, one file an instance."""
WATCHDOG: Final = "watchdog"
CHILD: Final = "/child"
"""After the name of an instance: a process that the instance started itself."""


def boot_id() -> str:
    """What tells this boot of the machine from any other; start times count from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Roster:
    """Appends every process of a run to its roster; one `write` a line."""

    def __init__(self, run_dir: Path, *, run_id: str, socket: str | None = None) -> None:
        """Opens the roster with this process as the runner; `socket` is where an attached run finds its target."""
        self._run_id = run_id
        self.run_dir = run_dir.resolve()
        self.stop_signals: dict[str, str] = {}
        """How processes are asked to end, by name, when their runner has died; others are killed at once."""
        runner = myself()
        guard = {
            "schema": "guard/1",
            "run_id": run_id,
            "boot_id": boot_id(),
            "runner": {"pid": runner.pid, "start_ticks": runner.start_ticks},
            "socket": socket,
        }
        partial = run_dir / f"{GUARD_FILE}.partial"
        partial.write_text(json.dumps(guard))
        partial.rename(run_dir / GUARD_FILE)
        self._file = FileIO(run_dir / ROSTER_FILE, "a")

    @property
    def run_id(self) -> str:
        """The run that all of them belong to."""
        return self._run_id

    def add(self, name: str, identity: Identity) -> None:
        """Writes down that `name` is this process now; an OSError says that it is not written."""
        stop = self.stop_signals.get(name)
        line = {"name": name, "pid": identity.pid, "start_ticks": identity.start_ticks, "stop": stop}
        append_whole(self._file.fileno(), json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Closes the file; adding afterwards is an error."""
        self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A line of the roster; `stop` is the signal that asks the process to end, None where it is just killed."""

    name: str
    identity: Identity
    stop: str | None

    @property
    def instance(self) -> str:
        """The instance, or the command, that the process belongs to."""
        return self.name.removesuffix(CHILD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A run as its folder tells it: who ran it, what it started; `socket` where its target is another `up`."""

    run_dir: Path
    run_id: str
    runner: Identity
    started: tuple["Started", ...]
    same_boot: bool
    socket: str | None

    @property
    def runner_alive(self) -> bool:
        """Whether the run still goes on."""
        return self.same_boot and alive(self.runner)

    @property
    def watchdogs(self) -> tuple[Identity, ...]:
        """The watchdog processes of the run that still live."""
        return tuple(
            it.identity for it in self.started if it.name == WATCHDOG and self.same_boot and alive(it.identity)
        )

    def belonging(self, instance: str | None = None) -> Belonging:
        """What makes a process part of this run, or of one instance; watchdogs are no part of what they watch."""
        data = self.run_dir.resolve() / "data"
        return Belonging(
            run_id=self.run_id,
            roots=frozenset(
                it.identity for it in self.started if it.name != WATCHDOG and instance in {None, it.instance}
            ),
            since_ticks=self.runner.start_ticks,
            folders=(
                data if instance is None else data / instance,
                *outside_folders(self.run_dir, self.run_id, instance),
            ),
            instance=instance,
        )

    def members(self, instance: str | None = None) -> tuple[Identity, ...]:
        """All living processes of the run, or of one instance, except its runner, its watchdog and us."""
        if not self.same_boot:
            return ()
        spare = [self.runner.pid, *(identity.pid for identity in self.watchdogs)]
        return members(self.belonging(instance), spare=spare)


def read_guarded(run_dir: Path) -> Guarded | None:
    """What is known of the run in `run_dir`; None where there is none. A torn last line is left out."""
    try:
        guard: dict[str, Any] = json.loads((run_dir / GUARD_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    started = []
    roster = run_dir / ROSTER_FILE
    lines = roster.read_bytes().split(b"\n")[:-1] if roster.exists() else []
    for line in lines:
        entry = json.loads(line)
        identity = Identity(pid=entry["pid"], start_ticks=entry["start_ticks"])
        started.append(Started(name=entry["name"], identity=identity, stop=entry["stop"]))
    return Guarded(
        run_dir=run_dir,
        run_id=guard["run_id"],
        runner=Identity(**guard["runner"]),
        started=tuple(started),
        same_boot=guard["boot_id"] == boot_id(),
        socket=guard["socket"],
    )


def outside_folders(run_dir: Path, run_id: str, instance: str | None = None) -> tuple[Path, ...]:
    """Folders elsewhere that instances (or one) named in `<data_dir>/outside.txt` and that are this run's for sure.

    Two independent conditions hold for each, since it will be removed: it lies directly in a temporary folder of the
    system, and it carries the file `.holdfast-<run id>`.
    """
    folders = []
    for listing in sorted((run_dir / "data").glob(f"{instance or '*'}/{OUTSIDE_FILE}")):
        for line in listing.read_text().splitlines():
            folder = Path(line.strip())
            if _lies_in_temporary(folder) and (folder / f".holdfast-{run_id}").is_file():
                folders.append(folder)
    return tuple(folders)


def _lies_in_temporary(folder: Path) -> bool:
    """Whether it is a plain folder, no link and no mount, directly in a temporary folder of the system.

    Whatever a listing says and whatever else goes wrong, nothing else on the machine can then be removed.
    """
    import tempfile

    temporary = {Path(name).resolve() for name in (tempfile.gettempdir(), "/tmp", "/var/tmp")}  # noqa: S108  # compared
    temporary.discard(Path("/"))
    return (
        folder.is_absolute()
        and ".." not in folder.parts
        and folder.parent.resolve() in temporary
        and folder.is_dir()
        and not folder.is_symlink()
        and not folder.is_mount()
    )


def remove_data(run_dir: Path, run_id: str) -> tuple[str, ...]:
    """Removes the data folders of a run, also those elsewhere, and what launchers reported.

    Gives back what could not be removed, and why.
    """
    import shutil

    left = []
    for folder in (*outside_folders(run_dir, run_id), run_dir / "data", run_dir / READY_FOLDER):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            left.append(f"data folder {folder}: {error}; remove it by hand")
    return tuple(left)
