"""A process that uses up what others want: a share of a core, or memory. It is told to begin, and ends with its runner.

    python -m chaos.hog cpu SHARE NICENESS           burns SHARE (0..1) of one core
    python -m chaos.hog memory SIZE_BYTES REST_BYTES takes SIZE_BYTES, unless fewer than REST_BYTES would be left

It does nothing before a line comes on standard input, so that it can be written down first; it ends when standard
input does, which is when its runner dies by whatever signal. Only the standard library is imported.
"""

import mmap
import os
import select
import sys
import time
from pathlib import Path
from typing import Final

GO: Final = b"go\n"
TOO_LITTLE_LEFT: Final = 3
"""The exit status of one that would have taken from the rest."""
PERIOD_S: Final = 0.05
_BURN_ROUNDS: Final = 2_000
"""Rounds of arithmetic between two looks at the clock: well below a thousandth of a second."""
_STEP_BYTES: Final = 16 * 2**20


def main(arguments: list[str]) -> int:
    """Stands by, then does what it was started for; 0 when it was ended by its runner's end."""
    what, first, second = arguments
    if what == "memory":
        # Should the machine run out of memory against all care, the kernel ends this process and nobody else.
        Path("/proc/self/oom_score_adj").write_text("1000")
    if os.read(0, len(GO)) != GO:
        return 0
    if what == "cpu":
        os.nice(int(second))
        return burn(float(first))
    return hold(int(first), int(second))


def burn(share_ratio: float) -> int:
    """Uses its share of each period at its beginning, and sleeps for the rest."""
    ends_s = time.monotonic()
    while True:
        # What another process kept from us in one period is not made up for in the next: a share is a share.
        ends_s = max(ends_s, time.monotonic()) + PERIOD_S
        until_s = time.thread_time() + share_ratio * PERIOD_S
        while time.thread_time() < until_s and time.monotonic() < ends_s:
            for _ in range(_BURN_ROUNDS):
                pass
        if _runner_gone(max(0.0, ends_s - time.monotonic())):
            return 0


def hold(size_bytes: int, rest_bytes: int) -> int:
    """Takes memory step by step, each page written to, and holds it; gives up when too little would be left."""
    held: list[mmap.mmap] = []
    while (missing := size_bytes - sum(map(len, held))) > 0:
        step = min(_STEP_BYTES, missing)
        if available_bytes() - step < rest_bytes:
            return TOO_LITTLE_LEFT
        if _runner_gone(0.0):
            return 0
        region = mmap.mmap(-1, step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, step, mmap.PAGESIZE):
            region[page] = 1
        held.append(region)
    while not _runner_gone(60.0):
        pass
    return 0


def available_bytes() -> int:
    """How much memory could be taken without swapping: of the machine as the kernel estimates it, and of our cgroup."""
    of_machine = _number_after("MemAvailable:", Path("/proc/meminfo")) * 1024
    return min([of_machine, *_left_in_cgroups()])


def _left_in_cgroups() -> list[int]:
    """What is left of each limit that holds for this process; file pages that are just kept count as left."""
    left = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            folder = Path("/sys/fs/cgroup/memory", path.lstrip("/"))
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        elif controllers == "":
            folder = Path("/sys/fs/cgroup", path.lstrip("/"))
            names = ("memory.max", "memory.current", "inactive_file ")
        else:
            continue
        try:
            limit, used = ((folder / name).read_text().strip() for name in names[:2])
            kept = _number_after(names[2], folder / "memory.stat")
        except OSError:
            continue  # the root of all has no limit, and a container may not see its own
        if limit.isdigit():
            left.append(int(limit) - int(used) + kept)
    return left


def _number_after(name: str, path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.removeprefix(name).split()[0])
    raise OSError(f"{path} has no {name.strip()}")


def _runner_gone(within_s: float) -> bool:
    """Waits for the end of standard input, no longer than `within_s`."""
    return bool(select.select([0], [], [], within_s)[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
