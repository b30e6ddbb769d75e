"""How many files a running process may have open: read, lowered, and raised again, without root.

The soft limit of a process of one's own may be changed from outside; its hard limit stays, so that the soft one can be
raised again. An undo step `nofile` does that: `{"do": "nofile", "module": "chaos.descriptors", "pid", "start_ticks",
"soft"}`. Only the standard library is imported.
"""

import itertools
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.errors import TargetError
from chaos.processes import Identity, alive
from chaos.undo import Starter, Step, register

_UNLIMITED: Final = "unlimited"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """What the kernel tells of a process: its soft limit, how many it has open, and the lowest number that is free."""

    soft_limit: int
    open: int
    lowest_free: int

    @property
    def room(self) -> int:
        """How many more it could open if none of those in between were free: 0 when the next one fails."""
        return max(0, self.soft_limit - self.lowest_free)


def open_files(identity: Identity) -> OpenFiles | None:
    """The descriptors of a process now; None when it is gone.

    Raises:
        TargetError: it belongs to another user, who alone may look.
    """
    folder = Path(f"/proc/{identity.pid}")
    try:
        limits = (folder / "limits").read_text().splitlines()
        numbers = {int(entry.name) for entry in (folder / "fd").iterdir()}
    except PermissionError as error:
        raise TargetError(f"the open files of process {identity.pid} cannot be seen: it is another user's") from error
    except OSError:
        return None
    if not alive(identity):
        return None
    soft = next(line.split()[3] for line in limits if line.startswith("Max open files"))
    return OpenFiles(
        soft_limit=resource.RLIM_INFINITY if soft == _UNLIMITED else int(soft),
        open=len(numbers),
        lowest_free=next(number for number in itertools.count() if number not in numbers),
    )


def limit_open_files(identity: Identity, soft_limit: int) -> bool:
    """Sets the soft limit of a running process; False when it is gone. Files that are open stay open.

    Raises:
        TargetError: it belongs to another user.
    """
    # There is no call that takes a process for sure; a pid is not used again between this look and the next line,
    # unless all others were used meanwhile.
    if not alive(identity):
        return False
    try:
        _, hard = resource.prlimit(identity.pid, resource.RLIMIT_NOFILE)
        # A hard limit that was lowered meanwhile is kept: raising it needs a privilege.
        soft = soft_limit if hard == resource.RLIM_INFINITY else min(soft_limit, hard)
        resource.prlimit(identity.pid, resource.RLIMIT_NOFILE, (soft, hard))
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise TargetError(
            f"the open files of process {identity.pid} cannot be limited: it belongs to another user"
        ) from error
    return True


def limit_step(identity: Identity, soft_limit: int) -> Step:
    """An undo step that gives a process its soft limit, if it still lives."""
    return {
        "do": "nofile",
        "module": "chaos.descriptors",
        "pid": identity.pid,
        "start_ticks": identity.start_ticks,
        "soft": soft_limit,
    }


@register("nofile", by_hand=lambda step: f"prlimit --pid={step.get('pid')} --nofile={step.get('soft')}:")
def _limit(step: Step, _starter: Starter | None) -> str:
    identity = Identity(pid=int(step["pid"]), start_ticks=int(step["start_ticks"]))
    there = limit_open_files(identity, int(step["soft"]))
    return f"process {identity.pid} may open {step['soft']} files" if there else f"process {identity.pid} is gone"
