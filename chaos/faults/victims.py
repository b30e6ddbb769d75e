"""Whom a fault on instances takes: chosen purely from the topology, the seed and who is free at the time."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.fault import NotThereError, RoleShape
from chaos.requirement import Requirement
from chaos.targets.target import Target
from metrics.units import Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Victims:
    """Instances of `role`: one, or as many as `count`, `percent`, `all`, `one_per_zone` or `instance` say.

    `zone` narrows the choice; alone it means every instance of that zone. `leader` names a reading of the target's
    `observe` that says which instance leads when the fault plays; until then the whole role is kept free for it. The
    last instances of a role are taken only when that is written down: `all`, `percent: 100%`, `leader`, or their names.

    A fault that has a `requires` of its own merges this one's into it.
    """

    role: str
    count: Annotated[int, Field(ge=1)] | None = None
    percent: Annotated[Ratio, Field(gt=0)] | None = None
    all: bool = False
    one_per_zone: bool = False
    zone: str | None = None
    instance: str | None = None
    leader: Annotated[str, Field(min_length=1)] | None = None

    def __post_init__(self) -> None:
        chosen = [name for name, given in self._selections().items() if given]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other: keep one")
        if self.zone is not None and (self.one_per_zone or self.instance is not None or self.leader is not None):
            raise ValueError(f"zone and {chosen[0]} exclude each other: keep one")

    def requires(self, roles: Mapping[str, RoleShape]) -> Requirement:  # noqa: ARG002
        """The reading that says who leads, where that is asked for."""
        return Requirement(readings=() if self.leader is None else (self.leader,))

    def takes_at_once(self, victims: int) -> int:
        """All of them, but of the role that is kept free for its leader only one."""
        return victims if self.leader is None else 1

    async def narrow(self, target: Target, instances: tuple[str, ...]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
        """The leader of now, where that is asked for; see `chaos.faults.fault.DecidedLate`."""
        if self.leader is None:
            return instances, {}
        value = await target.observe(self.leader)
        leading = tuple(name for name in instances if _names(str(value), name))
        if not leading:
            raise TargetError(f"nobody of {', '.join(instances)} leads: {self.leader} says {value!r}")
        return leading, {"reading": self.leader, "value": value}

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:
        """The victims in the order of their numbers; see `chaos.faults.fault.Fault.choose`."""
        shape = find_role(roles, self.role)
        if missing := list(self._not_there(shape)):
            raise NotThereError(missing)
        candidates = self._candidates(shape)
        free = [name for name in candidates if name not in busy]
        chosen = self._choose(shape, candidates, free, rng)
        untouched = [name for name in shape.zones if name not in busy and name not in chosen]
        if not untouched and not self._whole_role_is_meant():
            raise ValueError(
                f"that takes the last {self.role} of {len(shape.zones)} at a time; write `all: true` if it is meant"
            )
        return tuple(name for name in shape.zones if name in chosen)

    def _choose(self, shape: RoleShape, candidates: list[str], free: list[str], rng: Random) -> set[str]:
        if self.instance is not None:
            return {_named(self.instance, free)}
        if self.leader is not None:
            if taken := [name for name in candidates if name not in free]:
                raise ValueError(f"who leads is known only then, and {', '.join(taken)} would be in other hands")
            return set(candidates)
        if self.one_per_zone:
            return _one_per_zone(shape, free, rng)
        wanted = self._wanted(len(candidates))
        if wanted > len(free):
            raise ValueError(f"of {self._where()} only {len(free)} of {len(candidates)} are free then, not {wanted}")
        return set(rng.sample(free, wanted))

    def _not_there(self, shape: RoleShape) -> Iterator[str]:
        """What is asked for and the role does not have, whoever is free."""
        zones = sorted({zone for zone in shape.zones.values() if zone is not None})
        candidates = self._candidates(shape)
        if not candidates:
            known = f"its zones are {', '.join(zones)}" if zones else "it has no zones"
            yield f"role {self.role!r} has nobody in zone {self.zone!r}; {known}"
        if self.one_per_zone and not zones:
            yield f"one_per_zone needs zones, and role {self.role!r} has none"
        if self.instance is not None and self.instance not in shape.zones:
            yield f"role {self.role!r} has no {self.instance!r}; it has {', '.join(shape.zones)}"
        if self.count is not None and self.count > len(candidates or shape.zones):
            where = self._where() if candidates else f"role {self.role!r}"
            yield f"{where} has {len(candidates or shape.zones)} instances, not {self.count}"

    def _candidates(self, shape: RoleShape) -> list[str]:
        return [name for name, zone in shape.zones.items() if self.zone in (None, zone)]

    def _where(self) -> str:
        return f"role {self.role!r}" if self.zone is None else f"zone {self.zone!r} of role {self.role!r}"

    def _wanted(self, candidates: int) -> int:
        if self.count is not None:
            return self.count
        if self.percent is not None:
            return max(1, math.floor(self.percent * candidates + 1e-9))
        if self.all or self.zone is not None:
            return candidates
        return 1

    def _whole_role_is_meant(self) -> bool:
        return self.all or self.percent == 1 or self.instance is not None or self.leader is not None

    def _selections(self) -> dict[str, bool]:
        return {
            "count": self.count is not None,
            "percent": self.percent is not None,
            "all": self.all,
            "one_per_zone": self.one_per_zone,
            "instance": self.instance is not None,
            "leader": self.leader is not None,
        }


def find_role(roles: Mapping[str, RoleShape], name: str) -> RoleShape:
    """The role `name`, whose processes may be signalled.

    Raises:
        NotThereError: no such role (with the known ones), or one that is not ours.
    """
    if name not in roles:
        known = ", ".join(sorted(roles))
        raise NotThereError([f"the target has no role {name!r}. Known: {known}"])
    if roles[name].external:
        raise NotThereError([f"role {name!r} is external: its processes are not ours to signal"])
    return roles[name]


def _names(value: str, instance: str) -> bool:
    """Whether a reading names an instance: its name alone, or with something behind it (`settlement-1/3fa9`)."""
    return re.fullmatch(rf"{re.escape(instance)}(?:[^\w-].*)?", value) is not None


def _one_per_zone(shape: RoleShape, free: list[str], rng: Random) -> set[str]:
    zones = sorted({zone for zone in shape.zones.values() if zone is not None})
    chosen = set()
    for zone in zones:
        members = [name for name in free if shape.zones[name] == zone]
        if not members:
            raise ValueError(f"zone {zone!r} of role {shape.name!r} has nobody free then")
        chosen.add(rng.choice(members))
    return chosen


def _named(instance: str, free: list[str]) -> str:
    if instance not in free:
        raise ValueError(f"{instance} is in the hands of another fault then")
    return instance
