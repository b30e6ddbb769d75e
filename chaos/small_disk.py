"""Starts a program with its data folder on a small file system of its own, without root where the kernel allows that.

    python small_disk.py SIZE_BYTES FOLDER PROGRAM [ARGUMENT ...]

    first:  new namespace -> tmpfs of that size on FOLDER -> a keeper that holds the namespace -> the program
    later:  the keeper's namespace, with all that was written -> the program

Nobody else sees the mount. The program keeps the pid. The keeper belongs to the run, not to the instance, so that files
outlive a program that is killed; `.keeper.json` in FOLDER, below the mount, says who it is. Only the standard library
is imported, and nothing of ours: it runs in the instance's own environment.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Final, NoReturn

KEEPER_FILE: Final = ".keeper.json"
MOUNT_SOURCE: Final = "holdfast-disk"
FAILED: Final = 77
_OUTSIDE_FILE: Final = "outside.txt"
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> int:
    """Becomes the program; comes back only by an error, or after `check`."""
    try:
        if arguments[0] == "keep":
            while True:
                signal.pause()
        if arguments[0] == "check":
            make(Path(arguments[1]), 2**20)
            return 0
        size_bytes, folder, command = int(arguments[0]), Path(arguments[1]), arguments[2:]
        keeper = read_keeper(folder)
        if keeper is None:
            below = make(folder, size_bytes)
            _leave_keeper(folder, below)
        else:
            join(keeper)
        os.execvp(command[0], command)  # noqa: S606  # becoming the program is the purpose
    except OSError as error:
        sys.stderr.write(f"no small file system for {arguments[-1] if len(arguments) < 3 else arguments[1]}: {error}\n")
    return FAILED


def make(folder: Path, size_bytes: int) -> int:
    """Puts a tmpfs on the folder, seen by this process and its children only; a descriptor of what lies below it.

    `outside.txt`, by which others know what the program keeps elsewhere, stays theirs to read.

    Raises:
        OSError: the kernel refuses one of the steps; it says which.
    """
    owner = folder.stat()
    _unshare()
    # Nothing that is mounted from here on may reach the namespace that we come from.
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    outside = os.open(_OUTSIDE_FILE, os.O_RDWR | os.O_CREAT, 0o644, dir_fd=below)
    options = f"size={size_bytes},mode={owner.st_mode & 0o7777:o},uid={owner.st_uid},gid={owner.st_gid}"
    flags = _MS_NOSUID | _MS_NODEV
    _call("mount", MOUNT_SOURCE.encode(), bytes(folder), b"tmpfs", flags, options.encode())
    (folder / _OUTSIDE_FILE).touch()
    _call("mount", f"/proc/self/fd/{outside}".encode(), bytes(folder / _OUTSIDE_FILE), None, _MS_BIND, None)
    os.close(outside)
    return below


def _unshare() -> None:
    """A mount namespace; within a user namespace, in which we stay who we are, where we lack the privilege."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNS)
    except PermissionError:
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _leave_keeper(folder: Path, below: int) -> None:
    """Starts the keeper and writes it down, below the mount."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _become_keeper(folder, writing)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        pid = int(said.readline())
    record = {"pid": pid, "start_ticks": start_ticks(pid)}
    partial = f"{KEEPER_FILE}.partial"
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=below), "w") as file:
        json.dump(record, file)
    os.rename(partial, KEEPER_FILE, src_dir_fd=below, dst_dir_fd=below)
    os.close(below)


def _become_keeper(folder: Path, said: int) -> NoReturn:
    """In a session of its own and no child of the program: it is no part of the instance, only of the run."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(said, f"{os.getpid()}\n".encode())
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.chdir("/")
    marks = {"HOLDFAST_RUN_ID": os.environ.get("HOLDFAST_RUN_ID", ""), "HOLDFAST_INSTANCE": f"disk/{folder.name}"}
    os.execve(sys.executable, [sys.executable, str(Path(__file__).resolve()), "keep"], marks)  # noqa: S606  # see above


def read_keeper(folder: Path) -> int | None:
    """The pid of the folder's keeper; None where there was never one.

    Raises:
        OSError: it has ended, and all that was written with it.
    """
    try:
        record = json.loads((folder / KEEPER_FILE).read_text())
    except FileNotFoundError:
        return None
    pid = int(record["pid"])
    if start_ticks(pid) != record["start_ticks"]:
        raise OSError(f"its keeper, process {pid}, has ended, and its files are gone; start the target anew")
    return pid


def join(keeper: int) -> None:
    """Goes where the keeper is; the working folder stays the same one by name."""
    here = Path.cwd()
    kinds = {"user": _CLONE_NEWUSER, "mnt": _CLONE_NEWNS}
    others = {kind: Path(f"/proc/{keeper}/ns/{kind}") for kind in kinds}
    files = {
        kind: os.open(path, os.O_RDONLY)
        for kind, path in others.items()
        if path.stat().st_ino != Path(f"/proc/self/ns/{kind}").stat().st_ino
    }
    for kind, file in files.items():  # first the user namespace, which gives the right to the other one
        _call("setns", file, kinds[kind])
        os.close(file)
    os.chdir(here)


def start_ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text[text.rindex(")") + 2 :].split()[19])


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
