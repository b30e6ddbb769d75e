"""A topology file, loaded: `load_topology(path, overrides) -> Topology`, or every problem at once with its line."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from chaos.documents import load
from chaos.errors import ExperimentError
from chaos.requirement import Requirement
from chaos.salvage import Salvaged, salvage, schema_of
from chaos.targets.crosschecks import Names, cross_check, dependencies
from chaos.targets.models import Role, TopologyFile
from chaos.targets.overrides import apply_overrides
from chaos.targets.target import Instance
from chaos.wording import nearest

_ADAPTER = TypeAdapter(TopologyFile)
_SPARE: Final = {"name": "unnamed", "url": "http://127.0.0.1"}
"""Stand in where the file lacks them, so that the rest is checked all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A valid system description; `overrides` is what was changed from outside, as it was given."""

    path: Path
    file: TopologyFile
    overrides: Mapping[str, Any]
    requirement: Requirement = field(default_factory=Requirement)
    """What faults need of it: no part of the description, but of how its processes start."""

    @property
    def name(self) -> str:
        """The system's name."""
        return self.file.name

    @property
    def folder(self) -> Path:
        """Where the file lies: what its relative paths are relative to."""
        return self.path.parent

    @property
    def roles(self) -> Mapping[str, Role]:
        """The roles by name, in the order of the file."""
        return self.file.roles

    @property
    def digest(self) -> str:
        """What tells this description, overrides included, from any other."""
        return hashlib.sha256(self.file.model_dump_json(by_alias=True).encode()).hexdigest()

    def instances(self, role: str | None = None) -> tuple[Instance, ...]:
        """All instances, or one role's, in the order of file and number; their ports are not allotted yet (0)."""
        return tuple(
            Instance(name=instance, role=name, port=0, zone=zone, external=rule.external)
            for name, rule in self.file.roles.items()
            if role in (None, name)
            for instance, zone in rule.members(name).items()
        )

    def needs(self) -> dict[str, set[str]]:
        """Role -> the roles that must be ready before it starts."""
        return dependencies(self.file)

    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Roles in the order of their start: those of one level need only those of earlier levels."""
        sorter = TopologicalSorter(self.needs())
        sorter.prepare()
        levels = []
        while sorter.is_active():
            ready = sorter.get_ready()
            levels.append(tuple(name for name in self.file.roles if name in ready))
            sorter.done(*ready)
        return tuple(levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A topology file as far as it can be understood."""

    path: Path
    salvaged: Salvaged[TopologyFile]
    overrides: Mapping[str, Any]
    lost: Mapping[str, str] = field(default_factory=dict)
    """Overrides whose path leads nowhere, with what there is instead; `salvaged` is without them."""

    def problems(self) -> list[str]:
        """Everything that is wrong with it: overrides that lead nowhere, then the file in order of lines."""
        path = self.salvaged.document.path
        return [
            *(f"{path}: override {name}: {text}" for name, text in self.lost.items()),
            *self.salvaged.problems(),
        ]

    def topology(self) -> Topology:
        """The system described, when it is valid.

        Raises:
            ExperimentError: every problem found, each with file, line, what was expected and what there is.
        """
        file, problems = self.salvaged.model, self.problems()
        if file is None or problems:
            raise ExperimentError(problems)
        return Topology(path=self.path.resolve(), file=file, overrides=dict(self.overrides))


def load_topology(path: Path, overrides: Mapping[str, Any] | None = None) -> Topology:
    """The system described by a file, changed by `overrides`.

    Raises:
        ExperimentError: every problem found, each with file, line, what was expected and what there is.
    """
    return draft_topology(path, overrides or {}).topology()


def draft_topology(path: Path, overrides: Mapping[str, Any]) -> Draft:
    """What a file says, changed by `overrides`, and everything that is wrong with it.

    Raises:
        ExperimentError: it is no YAML file.
    """
    document = load(path)
    lost: Mapping[str, str] = {}
    if overrides:
        document, lost = apply_overrides(document, overrides, schema_of(_ADAPTER))
    salvaged = salvage(document, _ADAPTER, spare=_SPARE)
    if not salvaged.meant(("roles",)):
        lost = {}  # most overrides change roles, and that there are none is told already
    if salvaged.model is not None:
        found = cross_check(salvaged.model, Names(_as_meant(salvaged)))
        salvaged = salvaged.also((salvaged.original(place), text) for place, text in found)
    return Draft(path=path, salvaged=salvaged, overrides=overrides, lost=lost)


def _as_meant(salvaged: Salvaged[TopologyFile]) -> dict[str, Any]:
    """The data with its parts under the names that they are meant to have: what a misspelt one defines can be named."""
    data = salvaged.document.data
    absent = TopologyFile.model_fields.keys() - data.keys()
    meant = {key: nearest(key, absent) for key in data if (key,) in salvaged.unknown}
    return {meant.get(key) or key: value for key, value in data.items()}


def topology_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a topology file, for editors."""
    schema = _ADAPTER.json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Holdfast topology"
    return schema
