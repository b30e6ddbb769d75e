"""What planning an experiment has to know of its target: also of one whose file has mistakes, as far as that goes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chaos.faults.fault import RoleShape
from chaos.salvage import Salvaged
from chaos.targets.models import Extent
from chaos.targets.templates import BUILT_IN
from chaos.targets.topology import Draft, Topology
from chaos.wording import Place

_SOME_PATH: Final = "/"
"""Taken for a path of the prober that may or may not be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The target as `chaos.planner.plan` takes it: None, or absent from `names`, is what is not known."""

    roles: Mapping[str, RoleShape | None] | None
    names: Mapping[str, Collection[str]]
    """what can be referred to: each `reading`, `dump` and `output` (`role.output`), each `action` with an effect, those
    of them with an `undo`"""
    probe_path: str | None


UNKNOWN: Final = Outline(roles=None, names={}, probe_path=_SOME_PATH)


def outline(draft: Draft, *, overrides_known: bool = True) -> Outline:
    """What is known of a target; unless all `overrides` are, none of its roles is sure to be what its file says."""
    written = draft.salvaged
    roles = written.document.data.get("roles")
    known = isinstance(roles, Mapping) and written.meant(("roles",))
    certain = overrides_known and not draft.lost
    return Outline(
        roles=_shapes(written, roles, certain=certain) if known and isinstance(roles, Mapping) else None,
        names=_names(written),
        probe_path=_probe_path(written),
    )


def shapes(topology: Topology) -> dict[str, RoleShape]:
    """The roles of a target that faults can choose from: all but tasks, which have ended when the run begins."""
    return {name: _shape(name, role) for name, role in topology.roles.items() if not role.task}


def _shape(name: str, role: Extent) -> RoleShape:
    return RoleShape(name=name, zones=role.members(name), external=role.external)


def _shapes(written: Salvaged[Any], roles: Mapping[str, Any], *, certain: bool) -> dict[str, RoleShape | None]:
    found: dict[str, RoleShape | None] = {}
    for name, role in roles.items():
        places = [("roles", name, key) for key in Extent.model_fields]
        if certain and isinstance(role, Mapping) and all(map(written.whole, places)):
            extent = Extent.model_validate({key: role[key] for key in Extent.model_fields if key in role})
            if not extent.task:
                found[name] = _shape(name, extent)
        else:
            found[name] = None
    return found


def _names(written: Salvaged[Any]) -> dict[str, Collection[str]]:
    """The names that the file defines, also those whose own entry has a problem."""
    data = written.document.data
    names: dict[str, Collection[str]] = {}
    readings = data.get("observe", {})
    if written.meant(("observe",)) and isinstance(readings, Mapping):
        names["reading"] = list(readings)
    dumps = data.get("final", [])
    if written.meant(("final",)) and isinstance(dumps, list):
        found = [str(dump["name"]) for dump in dumps if isinstance(dump, Mapping) and "name" in dump]
        if len(found) == len(dumps):
            names["dump"] = found
    outputs, roles = data.get("outputs", {}), data.get("roles")
    if written.whole(("outputs",)) and written.meant(("roles",)) and isinstance(roles, Mapping):
        built_in = [f"{role}.{name}" for role in roles for name in sorted(BUILT_IN)]
        names["output"] = [*(f"{role}.{name}" for role, of_role in outputs.items() for name in of_role), *built_in]
    actions = data.get("actions", {})
    if written.meant(("actions",)) and isinstance(actions, Mapping):
        names["action"] = {name for name in actions if _may_have(written, ("actions", name, "effect"))}
        names["undo"] = {name for name in names["action"] if _may_have(written, ("actions", name, "undo"))}
    return names


def _may_have(written: Salvaged[Any], place: Place) -> bool:
    """Whether a key is there, or may be meant to be."""
    return place in written.document.lines or not written.meant(place)


def _probe_path(written: Salvaged[Any]) -> str | None:
    if not written.whole(("probe",)):
        return _SOME_PATH
    probe = written.document.data.get("probe")
    return None if probe is None else str(probe["path"])
