"""What a run leaves on the machine, looked up in /proc and on disk without any code of the framework.

    before the kill: Traces.of(run_dir)    its processes, their sockets and shared memory, its folders elsewhere
    after it:        remains(traces)       what of all that is still there, in words

The framework's own account (its undo log, the watchdog's report) is not asked: this is what that account is checked by.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Who = tuple[int, int]
"""A process: pid and start time in clock ticks."""
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_GONE = frozenset("ZX")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What a run had when it was looked at."""

    run_dir: Path
    run_id: str
    processes: frozenset[Who]
    sockets: frozenset[str]
    """Inodes of the sockets that its processes held open."""
    files: frozenset[Path]
    """Unix sockets by path, files in shared memory, and folders that instances put elsewhere."""

    @classmethod
    def of(cls, run_dir: Path) -> "Traces":
        """Looks now; what belongs to a run is found by its roster, its mark, where it works, and by descent."""
        run_id = json.loads((run_dir / "guard.json").read_text())["run_id"]
        processes = frozenset({*registered(run_dir), *_marked(run_id), *_working_in(run_dir)})
        whole = frozenset({*processes, *_descendants(processes)})
        sockets = frozenset(inode for pid, _ in whole for inode in _sockets(pid))
        shared = {Path(line) for pid, _ in whole for line in _mapped(pid) if line.startswith("/dev/shm/")}  # noqa: S108
        return cls(
            run_dir=run_dir,
            run_id=run_id,
            processes=whole,
            sockets=sockets,
            files=frozenset({*shared, *_bound_to(sockets), *_outside(run_dir, run_id)}),
        )


def remains(traces: Traces) -> list[str]:
    """What is still there of a run; empty when nothing is."""
    known = {*traces.processes, *registered(traces.run_dir)}
    found = {*(who for who in known if lives(who)), *_marked(traces.run_id), *_working_in(traces.run_dir)}
    left = [f"process {pid}: {_command_line(pid)}" for pid, _ in sorted(found)]
    left += [f"socket {inode}" for inode in sorted(traces.sockets & _all_sockets())]
    left += [f"file {path}" for path in sorted(traces.files) if path.exists()]
    left += [f"file {path}" for path in _outside_marks(traces.run_id)]
    left += [f"folder {name}" for name in ("data", "ready", "outage") if (traces.run_dir / name).exists()]
    left += [f"shared memory {number}" for number in _segments({pid for pid, _ in known})]
    return left or [f"mount of process {pid}" for pid in _who_sees_mounts_of(traces.run_dir)]


def lives(who: Who) -> bool:
    """Whether exactly this process runs."""
    now = _look(who[0])
    return now is not None and now[0] == who and now[1] not in _GONE


def letter(pid: int) -> str | None:
    """The kernel's letter for the state of a process; None when it is gone."""
    now = _look(pid)
    return None if now is None else now[1]


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    now = _look(pid)
    return set() if now is None else {pid, *(one for one, _ in _descendants({now[0]}))}


def registered(run_dir: Path) -> Iterator[Who]:
    """Everything that the run has written down as started, its runner too; a torn last line does not count."""
    runner = json.loads((run_dir / "guard.json").read_text())["runner"]
    yield runner["pid"], runner["start_ticks"]
    roster = run_dir / "processes.ndjson"
    for line in roster.read_text().split("\n")[:-1] if roster.exists() else []:
        entry = json.loads(line)
        yield entry["pid"], entry["start_ticks"]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208  (hundreds, many times)


def _look(pid: int) -> tuple[Who, str, int] | None:
    """Who has the pid, in which state, and its parent; None when nobody has."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return (pid, int(fields[19])), fields[0], int(fields[1])


def _everyone() -> dict[Who, tuple[str, int]]:
    """Every living process: its state and its parent."""
    looked = (_look(pid) for pid in _pids())
    return {one[0]: (one[1], one[2]) for one in looked if one is not None and one[1] not in _GONE}


def _descendants(of: Iterable[Who]) -> set[Who]:
    parents = {who: parent for who, (_, parent) in _everyone().items()}
    found = set(of)
    while more := {who for who, parent in parents.items() if parent in {pid for pid, _ in found}} - found:
        found |= more
    return found


def _marked(run_id: str) -> Iterator[Who]:
    """Those that carry the run's mark in their environment."""
    mark = f"HOLDFAST_RUN_ID={run_id}".encode()
    for who in _everyone():
        try:
            variables = Path(f"/proc/{who[0]}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if mark in variables and lives(who):
            yield who


def _working_in(run_dir: Path) -> Iterator[Who]:
    """Those whose working folder lies in the run's, as that of PostgreSQL, which overwrites its environment."""
    for who in _everyone():
        try:
            here = str(Path(f"/proc/{who[0]}/cwd").readlink())
        except OSError:
            continue  # ended meanwhile
        if here.startswith(str(run_dir.resolve())) and lives(who):
            yield who


def _sockets(pid: int) -> Iterator[str]:
    try:
        open_now = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for one in open_now:
        try:
            held = _SOCKET.fullmatch(str(one.readlink()))
        except OSError:
            continue  # closed meanwhile
        if held:
            yield held[1]


def _table(name: str) -> list[list[str]]:
    return [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]


def _all_sockets() -> set[str]:
    """The inodes of every socket of the machine that a process has open."""
    tcp = {row[9] for name in ("tcp", "tcp6") for row in _table(name)}
    return tcp | {row[6] for row in _table("unix")}


def _bound_to(sockets: frozenset[str]) -> Iterator[Path]:
    """The paths that Unix sockets are bound to; abstract names are no paths."""
    for row in _table("unix"):
        if row[6] in sockets and len(row) > 7 and row[7].startswith("/"):
            yield Path(row[7])


def _mapped(pid: int) -> Iterator[str]:
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        yield line.split(maxsplit=5)[-1].removesuffix(" (deleted)")


def _outside(run_dir: Path, run_id: str) -> Iterator[Path]:
    """Folders elsewhere that instances named, and that carry the run's sign."""
    for listing in run_dir.glob("data/*/outside.txt"):
        for line in listing.read_text().splitlines():
            if (Path(line) / f".holdfast-{run_id}").exists():
                yield Path(line)


def _outside_marks(run_id: str) -> list[Path]:
    return [path for place in ("/tmp", "/var/tmp") for path in Path(place).glob(f"*/.holdfast-{run_id}")]  # noqa: S108


def _segments(creators: set[int]) -> Iterator[str]:
    """System V segments made by processes of the run that nobody uses any more."""
    listing = Path("/proc/sysvipc/shm")
    for line in listing.read_text().splitlines()[1:] if listing.exists() else []:
        fields = line.split()
        if int(fields[4]) in creators and fields[6] == "0":
            yield fields[1]


def _who_sees_mounts_of(run_dir: Path) -> Iterator[int]:
    for pid in _pids():
        try:
            if str(run_dir.resolve()) in Path(f"/proc/{pid}/mountinfo").read_text():
                yield pid
        except OSError:
            continue  # ended meanwhile


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "ended just now"
