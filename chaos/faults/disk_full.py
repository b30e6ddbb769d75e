"""No space left: an instance's data folder is full, and every write that needs room fails with ENOSPC.

The folder lies on a small file system of its own from the start, in memory; the machine's disks are never filled. What
an instance keeps elsewhere has all the room it had.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos import small_disk
from chaos.ballast import SmallDisk, small_disk_of
from chaos.errors import TargetError
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.restart import restart_missing, who_runs
from chaos.faults.victims import Victims, find_role
from chaos.hog import available_bytes
from chaos.processes import own_environment, run_to_end
from chaos.requirement import Requirement, capability
from chaos.undo import Step
from metrics.units import Bytes, PositiveSeconds, format_size

CAPABILITY: Final = "small file systems of one's own"
_LAUNCHER: Final = str(Path(small_disk.__file__).resolve())
_CHECK_LIMIT_S: Final = 20.0
_LEAST_REST_BYTES: Final = 128 * 2**20
_DISKS: Final = "disks"


@capability(CAPABILITY)
def _can_have_small_disks() -> str | None:
    """Tries it, in a namespace that ends with the try."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = [sys.executable, _LAUNCHER, "check", folder]
            run_to_end(command, env=own_environment(), cwd=Path(folder), within_s=_CHECK_LIMIT_S)
        except TargetError as error:
            return (
                f"{error}. Run as root, or allow users their own namespaces: sysctl user.max_user_namespaces=1000, and "
                "where they exist kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0"
            )
    return None


@FAULTS.register("disk_full")
@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(Victims):
    """Leave no room in the data folders of instances `for` a while.

    Every instance of the role starts with its data folder on a file system of `size`, which outlives its restarts, but
    not the run. Two faults on one role must name one size.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "database", "size": "4MiB", "for": "3s", "all": True}

    size_bytes: Annotated[Bytes, Field(alias="size", ge=2**20, le=2**34)]
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until there is room again."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as there is no room."""
        return self.for_s

    def requires(self, roles: Mapping[str, RoleShape]) -> Requirement:
        """The launcher before the role's command, and a kernel that lets it work."""
        find_role(roles, self.role)
        command = ("${python}", _LAUNCHER, str(self.size_bytes), "${data_dir}")
        return Requirement(wrap={self.role: (command,)}, capabilities=(CAPABILITY,))

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Remove the ballast of each.

        Raises:
            TargetError: one was started without its small file system, or the machine lacks the memory to fill it.
        """
        disks = _disks(scene)
        needed_bytes = sum(disk.free_bytes for disk in disks.values())
        if available_bytes() - needed_bytes < _LEAST_REST_BYTES:
            raise TargetError(
                f"{scene.fault_id}: filling takes {format_size(needed_bytes)} of memory, and of "
                f"{format_size(available_bytes())} too little would be left: choose a smaller `size`"
            )
        return [disk.step() for disk in disks.values()]

    async def inject(self, scene: Scene) -> None:
        """Fills each with a file."""
        for disk in _disks(scene).values():
            disk.fill(self.size_bytes)

    async def effect(self, scene: Scene) -> Proof:
        """A new file in each data folder fails with ENOSPC."""
        disks = _disks(scene)
        full = [name for name, disk in disks.items() if disk.ballast.exists() and disk.refuses()]
        free = {name: disk.free_bytes for name, disk in disks.items()}
        return Proof(proven=len(full) == len(scene.instances), evidence={"no_space_left": full, "free_bytes": free})

    async def heal(self, scene: Scene) -> None:
        """Removes the ballast; an instance that ended for lack of room is started."""
        for disk in _disks(scene).values():
            disk.empty()
        await restart_missing(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """There is room in each data folder, and every instance is ready."""
        disks = _disks(scene)
        full = [name for name, disk in disks.items() if disk.ballast.exists() or disk.refuses()]
        ready = [] if full else [name for name in scene.instances if await scene.target.is_ready(name)]
        free = {name: disk.free_bytes for name, disk in disks.items()}
        proven = not full and len(ready) == len(scene.instances)
        return Proof(proven=proven, evidence={"still_full": full, "free_bytes": free, "ready": ready})


def _disks(scene: Scene) -> dict[str, SmallDisk]:
    """The small file system of each instance, as found when it was first asked for."""
    if _DISKS not in scene.notes:
        scene.notes[_DISKS] = {name: small_disk_of(identity) for name, identity in who_runs(scene).items()}
    disks: dict[str, SmallDisk] = scene.notes[_DISKS]
    return disks
