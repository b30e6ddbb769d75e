"""A busy neighbour: processes of our own that burn a stated share of some cores."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.hogging import ended, hogs_of, kill_steps, living, put_down, set_loose
from chaos.undo import Step
from metrics.units import PositiveSeconds, Ratio

_SAMPLES: Final = "samples"
_WINDOW_S: Final = 0.5
"""Ten periods of a hog: what is measured over less depends on where in a period it begins."""
_TOLERANCE_RATIO: Final = 0.10
_NEVER_RESTS_RATIO: Final = 0.9
"""A hog that runs or waits for so much of the time cannot get more than others leave it."""


@FAULTS.register("cpu_hog")
@dataclass(frozen=True, slots=True, kw_only=True)
class CpuHog:
    """Burn `share` of `cores` cores `for` a while, at normal priority or with `nice`.

    The kernel divides a core among all who want it: on one that is busy at equal priority a hog gets less than it asks
    for, and others feel it all the same. Then it is enough that the hog never rested.
    """

    example: ClassVar[Mapping[str, Any]] = {"cores": 1, "share": "50%", "for": "3s"}

    cores: Annotated[int, Field(ge=1, le=1024)] = 1
    share_ratio: Annotated[Ratio, Field(alias="share", ge=0.05)] = 1.0
    nice: Annotated[int, Field(ge=0, le=19)] = 0
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the hogs are killed."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """No instance is taken."""
        return 0.0

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Nobody: it acts on the machine."""
        return ()

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Kill the hogs, should they outlive us."""
        there = len(os.sched_getaffinity(0))
        if self.cores > there:
            raise TargetError(
                f"{scene.fault_id}: cores: {self.cores} of them are to burn, and this machine has {there}"
            )
        return kill_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Starts a hog for each core."""
        set_loose(scene, [("cpu", f"{self.share_ratio:.4f}", str(self.nice))] * self.cores)
        scene.notes[_SAMPLES] = []

    async def effect(self, scene: Scene) -> Proof:
        """Each hog has got the asked share of a core, within ten points, or less because others kept it waiting.

        Measured from one look to another, half a second or more after it.
        """
        samples: list[_Sample] | None = scene.notes.get(_SAMPLES)
        if samples is None:
            return Proof(proven=False, evidence={})
        now = _sample(scene)
        samples.append(now)
        earlier = [one for one in samples if now.at_s - one.at_s >= _WINDOW_S]
        if not earlier:
            return Proof(proven=False, evidence={"ended": ended(scene)})
        passed_s = now.at_s - earlier[-1].at_s
        got = {pid: (used_s - earlier[-1].got_s.get(pid, 0.0)) / passed_s for pid, used_s in now.got_s.items()}
        waited = {pid: (wait_s - earlier[-1].waited_s.get(pid, 0.0)) / passed_s for pid, wait_s in now.waited_s.items()}
        least = self.share_ratio - _TOLERANCE_RATIO
        enough = [pid for pid in got if got[pid] >= least or got[pid] + waited[pid] >= _NEVER_RESTS_RATIO]
        bounded = all(share <= self.share_ratio + _TOLERANCE_RATIO for share in got.values())
        evidence = {
            "asked_ratio": self.share_ratio,
            "got_ratio": {pid: round(share, 3) for pid, share in got.items()},
            "waited_ratio": {pid: round(share, 3) for pid, share in waited.items()},
            "measured_s": round(passed_s, 3),
            "ended": ended(scene),
        }
        return Proof(proven=len(enough) == self.cores and bounded, evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Kills the hogs."""
        await put_down(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """None of them lives."""
        left = living(scene)
        return Proof(proven=not left, evidence={"ended": ended(scene), "left": left})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What each living hog had used by a time, by pid: seconds on a core, and seconds waiting for one."""

    at_s: float
    got_s: Mapping[str, float]
    waited_s: Mapping[str, float]


def _sample(scene: Scene) -> _Sample:
    """As the kernel counts now."""
    got_s, waited_s = {}, {}
    for hog in hogs_of(scene):
        try:
            ran_ns, waited_ns, _ = Path(f"/proc/{hog.identity.pid}/schedstat").read_text().split()
        except OSError:
            continue  # it has ended, and is missed where they are counted
        got_s[str(hog.identity.pid)] = int(ran_ns) / 1e9
        waited_s[str(hog.identity.pid)] = int(waited_ns) / 1e9
    return _Sample(at_s=time.monotonic(), got_s=got_s, waited_s=waited_s)
