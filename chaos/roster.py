"""Which processes a run has started, written down at once: `processes.ndjson` and `guard.json` in the run's folder.

    guard.json        {"schema", "run_id", "boot_id", "runner": {pid, start_ticks}, "socket": text | null}
    processes.ndjson  {"name": "portal-2", "pid": 81, "start_ticks": 7100}, one line at each start

Whoever has to clean up after a dead runner - its watchdog, or `holdfast heal` - reads both.
"""

import json
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from chaos.processes import Belonging, Identity, alive, members, myself

GUARD_FILE: Final = "guard.json"
ROSTER_FILE: Final = "processes.ndjson"
OUTSIDE_FILE: Final = "outside.txt"
WATCHDOG: Final = "watchdog"


def boot_id() -> str:
    """What tells this boot of the machine from any other; start times count from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Roster:
    """Appends every process of a run to its roster; one `write` a line."""

    def __init__(self, run_dir: Path, *, run_id: str, socket: str | None = None) -> None:
        """Opens the roster with this process as the runner; `socket` is where an attached run finds its target."""
        self._run_id = run_id
        self.run_dir = run_dir.resolve()
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
        """Writes down that `name` is this process now."""
        line = {"name": name, "pid": identity.pid, "start_ticks": identity.start_ticks}
        self._file.write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Closes the file; adding afterwards is an error."""
        self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A run as its folder tells it: who ran it, what it started; `socket` where its target is another `up`."""

    run_dir: Path
    run_id: str
    runner: Identity
    started: tuple[tuple[str, Identity], ...]
    same_boot: bool
    socket: str | None

    @property
    def runner_alive(self) -> bool:
        """Whether the run still goes on."""
        return self.same_boot and alive(self.runner)

    @property
    def watchdogs(self) -> tuple[Identity, ...]:
        """The watchdog processes of the run that still live."""
        return tuple(it for name, it in self.started if name == WATCHDOG and self.same_boot and alive(it))

    def belonging(self) -> Belonging:
        """What makes a process part of this run; watchdogs are no part of what they watch."""
        return Belonging(
            run_id=self.run_id,
            roots=frozenset(identity for name, identity in self.started if name != WATCHDOG),
            since_ticks=self.runner.start_ticks,
            folders=(self.run_dir.resolve() / "data", *outside_folders(self.run_dir, self.run_id)),
        )

    def members(self) -> tuple[Identity, ...]:
        """All living processes of the run except its runner, its watchdog and us."""
        if not self.same_boot:
            return ()
        spare = [self.runner.pid, *(identity.pid for identity in self.watchdogs)]
        return members(self.belonging(), spare=spare)


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
        started.append((str(entry["name"]), Identity(pid=entry["pid"], start_ticks=entry["start_ticks"])))
    return Guarded(
        run_dir=run_dir,
        run_id=guard["run_id"],
        runner=Identity(**guard["runner"]),
        started=tuple(started),
        same_boot=guard["boot_id"] == boot_id(),
        socket=guard["socket"],
    )


def outside_folders(run_dir: Path, run_id: str) -> tuple[Path, ...]:
    """Folders elsewhere that instances named in `<data_dir>/outside.txt` and that carry this run's mark file.

    Without the file `.holdfast-<run id>` in it a folder is not ours, whatever the list says.
    """
    folders = []
    for listing in sorted((run_dir / "data").glob(f"*/{OUTSIDE_FILE}")):
        for line in listing.read_text().splitlines():
            folder = Path(line.strip())
            marked = (folder / f".holdfast-{run_id}").is_file()
            if folder.is_absolute() and not folder.is_symlink() and folder.is_dir() and marked:
                folders.append(folder.resolve())
    return tuple(folders)


def remove_data(run_dir: Path, run_id: str) -> tuple[str, ...]:
    """Removes the data folders of a run, also those elsewhere; gives back what could not be removed, and why."""
    import shutil

    left = []
    for folder in (*outside_folders(run_dir, run_id), run_dir / "data"):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            left.append(f"data folder {folder}: {error}; remove it by hand")
    return tuple(left)
