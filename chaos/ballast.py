"""A file that takes all room of a small file system, and of none but such a one; written, found, and removed again.

The file system is seen through its keeper (see `chaos.small_disk`): `/proc/KEEPER/root/...`. An undo step `ballast`
removes the file: `{"do": "ballast", "module": "chaos.ballast", "pid", "start_ticks", "folder"}`.
"""

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.errors import TargetError
from chaos.processes import Identity, alive
from chaos.small_disk import KEEPER_FILE, MOUNT_SOURCE
from chaos.undo import Starter, Step, register

_BALLAST: Final = ".holdfast-ballast"
_PROBE: Final = ".holdfast-probe"
_PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDisk:
    """The small file system of an instance: who keeps it, and the folder that it is mounted on."""

    keeper: Identity
    folder: Path

    @property
    def seen(self) -> Path:
        """The folder as anybody can reach it who may look into the keeper."""
        return Path(f"/proc/{self.keeper.pid}/root", *self.folder.parts[1:])

    @property
    def ballast(self) -> Path:
        """The file that takes the room."""
        return self.seen / _BALLAST

    @property
    def free_bytes(self) -> int:
        """Room for anybody."""
        found = os.statvfs(self.seen)
        return found.f_bavail * found.f_frsize

    def fill(self, limit_bytes: int) -> int:
        """Writes until there is no room left; how many bytes that took.

        Raises:
            TargetError: what is there is not the small file system, but something that others need.
        """
        found = os.statvfs(self.seen)
        size_bytes = found.f_blocks * found.f_frsize
        on_a_real_disk = self.seen.stat().st_dev == self.folder.stat().st_dev
        if not alive(self.keeper) or on_a_real_disk or size_bytes > limit_bytes:
            raise TargetError(
                f"{self.folder} is not on a small file system of at most {limit_bytes} bytes; nothing is written there"
            )
        piece = bytes(_PIECE_BYTES)
        written = 0
        with self.ballast.open("wb", buffering=0) as file:
            while written <= limit_bytes:
                try:
                    written += file.write(piece)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    if len(piece) == 1:
                        return written
                    piece = piece[: len(piece) // 2]  # the last pages, too
        raise TargetError(f"{self.folder} took more than it has room for; it is no file system of a fixed size")

    def refuses(self) -> bool:
        """Whether a new file there fails for lack of room, as it does for the instance."""
        probe = self.seen / _PROBE
        try:
            with probe.open("wb", buffering=0) as file:
                file.write(b"1")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return True
            raise
        finally:
            with suppress(FileNotFoundError):
                probe.unlink()
        return False

    def empty(self) -> None:
        """Removes the ballast; harmless when there is none, and when the whole file system is gone."""
        if alive(self.keeper):
            self.ballast.unlink(missing_ok=True)

    def step(self) -> Step:
        """The undo step that removes the ballast."""
        known = {"pid": self.keeper.pid, "start_ticks": self.keeper.start_ticks}
        return {"do": "ballast", "module": "chaos.ballast", **known, "folder": str(self.folder)}


def small_disk_of(process: Identity) -> SmallDisk:
    """The small file system that a process was started with.

    Raises:
        TargetError: it has none, or may not be looked into.
    """
    try:
        mounts = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
        folder = next(
            (Path(fields[4]) for fields in mounts if fields[fields.index("-") + 1 :][:2] == ["tmpfs", MOUNT_SOURCE]),
            None,
        )
        if folder is None:
            raise TargetError(f"process {process.pid} was not started with a small file system for its data")
        record = json.loads((folder / KEEPER_FILE).read_text())
    except OSError as error:
        raise TargetError(f"the small file system of process {process.pid} cannot be found: {error}") from error
    return SmallDisk(keeper=Identity(pid=record["pid"], start_ticks=record["start_ticks"]), folder=folder)


@register("ballast", by_hand=lambda step: f"rm /proc/{step.get('pid')}/root{step.get('folder')}/{_BALLAST}")
def _remove(step: Step, _starter: Starter | None) -> str:
    keeper = Identity(pid=int(step["pid"]), start_ticks=int(step["start_ticks"]))
    SmallDisk(keeper=keeper, folder=Path(step["folder"])).empty()
    return f"ballast removed from {step['folder']}" if alive(keeper) else f"{step['folder']} is gone with its run"
