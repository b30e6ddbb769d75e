"""System V shared memory that killed processes leave: it outlives them, and only a boot or somebody removes it.

PostgreSQL holds a small segment as a lock on its data folder; a postmaster that dies by SIGKILL leaves it behind.
Only the standard library is imported: the watchdog uses this module.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.processes import Identity

_LISTING: Final = Path("/proc/sysvipc/shm")
_IPC_RMID: Final = 0
_CLOCK_MARGIN_S: Final = 2
"""The listing's times are whole seconds of a clock that may have been set since the process started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment as the kernel lists it; `created_s` is seconds since 1970."""

    number: int
    creator: int
    attached: int
    created_s: int


def segments() -> Iterator[Segment]:
    """All segments of the machine; none where the kernel has no System V shared memory."""
    if not _LISTING.exists():
        return
    header, *lines = _LISTING.read_text().splitlines()
    names = header.split()
    for line in lines:
        row = dict(zip(names, line.split(), strict=True))
        yield Segment(
            number=int(row["shmid"]),
            creator=int(row["cpid"]),
            attached=int(row["nattch"]),
            created_s=int(row["ctime"]),
        )


def orphaned_by(creators: Iterable[Identity]) -> list[Segment]:
    """What these processes created and nobody uses any more.

    A segment that is older than the process with its creator's pid was made by another process of that pid.
    """
    born_s = {it.pid: _started_s(it) for it in creators}
    return [
        one
        for one in segments()
        if one.attached == 0 and one.creator in born_s and one.created_s >= born_s[one.creator] - _CLOCK_MARGIN_S
    ]


def remove_orphaned(creators: Iterable[Identity]) -> tuple[str, ...]:
    """Removes them; gives back what could not be removed, and how to do it."""
    libc = ctypes.CDLL(None, use_errno=True)
    left = []
    for segment in orphaned_by(creators):
        if libc.shmctl(segment.number, _IPC_RMID, None) != 0:
            why = os.strerror(ctypes.get_errno())
            left.append(f"shared memory {segment.number}: {why}; ipcrm -m {segment.number}")
    return tuple(left)


def _started_s(identity: Identity) -> float:
    """When the process started, in seconds since 1970."""
    boot_s = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line[:5] == "btime")
    return boot_s + identity.start_ticks / os.sysconf("SC_CLK_TCK")
