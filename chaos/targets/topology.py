"""A topology file, loaded: `load_topology(path, overrides) -> Topology`, or every problem at once with its line."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chaos.documents import Document, load, problems_of
from chaos.errors import ExperimentError
from chaos.targets.crosschecks import Names, cross_check, dependencies
from chaos.targets.models import Role, TopologyFile
from chaos.targets.overrides import apply_overrides
from chaos.targets.target import Instance
from chaos.wording import relevant

_ADAPTER = TypeAdapter(TopologyFile)
_SALVAGE_ROUNDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A valid system description; `overrides` is what was changed from outside, as it was given."""

    path: Path
    file: TopologyFile
    overrides: Mapping[str, Any]

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
            Instance(
                name=f"{name}-{number}",
                role=name,
                port=0,
                zone=rule.zones[(number - 1) % len(rule.zones)] if rule.zones else None,
                external=rule.external,
            )
            for name, rule in self.file.roles.items()
            if role in (None, name)
            for number in range(1, rule.count + 1)
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


def load_topology(path: Path, overrides: Mapping[str, Any] | None = None) -> Topology:
    """The system described by a file, changed by `overrides`.

    Raises:
        ExperimentError: every problem found, each with file, line, what was expected and what there is.
    """
    document = load(path)
    if overrides:
        document = apply_overrides(document, overrides, topology_schema())
    file: TopologyFile | None
    problems: list[str] = []
    try:
        file = _ADAPTER.validate_python(document.data)
    except ValidationError as error:
        file = _salvage(document.data)
        problems = problems_of(document, _ADAPTER, error)
    if file is not None:
        found = cross_check(file, Names(document.data))
        problems += [document.problem(place, text) for place, text in found]
    if problems or file is None:
        raise ExperimentError(sorted(problems, key=lambda text: _order(document, text)))
    return Topology(path=path.resolve(), file=file, overrides=dict(overrides or {}))


def topology_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a topology file, for editors."""
    schema = _ADAPTER.json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Holdfast topology"
    return schema


def _salvage(data: Mapping[str, Any]) -> TopologyFile | None:
    """The model of what remains when every wrong part is left out, so that the rest is checked as well."""
    rest = copy.deepcopy(dict(data))
    for _ in range(_SALVAGE_ROUNDS):
        try:
            return _ADAPTER.validate_python(rest)
        except ValidationError as error:
            for place, details in relevant(rest, error):
                # A missing key cannot be left out; what lacks it can.
                wrong = place[:-1] if details["type"] == "missing" else place
                if not wrong:
                    return None
                _leave_out(rest, wrong)
    return None


def _leave_out(data: Any, place: tuple[str | int, ...]) -> None:
    for part in place[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError):
            return
    if isinstance(data, dict):
        data.pop(place[-1], None)
    elif isinstance(data, list) and isinstance(place[-1], int) and place[-1] < len(data):
        del data[place[-1]]


def _order(document: Document, problem: str) -> tuple[int, str]:
    line, _, text = problem.removeprefix(f"{document.path}:").partition(":")
    return int(line), text
