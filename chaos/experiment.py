"""The experiment file: what load, which faults when, and what must hold meanwhile.

experiment.yaml -> Document -> Salvaged, with every problem -> Experiment
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, create_model

from chaos.crosschecks import GROUPS, beside, cross_check
from chaos.documents import Document, load
from chaos.faults.fault import FAULTS
from chaos.guardrails import GUARDRAILS
from chaos.parameters import Strict, written_as
from chaos.salvage import Salvaged, salvage
from chaos.schedule import BlastRadius, Schedule, Step
from chaos.wording import Place
from metrics.arrivals import Written
from metrics.units import PositiveSeconds, Seconds

if TYPE_CHECKING:
    from chaos.faults.fault import Fault
    from chaos.guardrails import Guardrail

SEED_MAX = 2**63 - 1


class Probe(Strict):
    """What the fixed-rate prober asks, and how often."""

    path: Annotated[str, Field(pattern=r"^/")] | None = None
    """None: what the topology says."""
    interval: PositiveSeconds = 0.02


class Load(Strict):
    """What clients do: Locust users of `locustfile`, with arrivals on schedule whatever earlier requests do.

    These two go together, or there are only probes.
    """

    locustfile: str | None = None
    arrivals: Written | None = None
    """A rate, or a schedule of them; see `metrics.arrivals`."""
    users: Annotated[int, Field(ge=1, le=50_000)] = 100
    """The most operations in flight at a time."""
    probe: Probe = Probe()


class Phases(Strict):
    """How long each phase lasts; `warmup` is a lower bound and `quiet` an upper one."""

    warmup: Seconds = 5.0
    baseline: PositiveSeconds = 10.0
    faults: PositiveSeconds = 30.0
    recovery: PositiveSeconds = 10.0
    quiet: PositiveSeconds = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEntry:
    """One fault of the file, alone or in a group, with what is written under its name."""

    place: Place
    """Where it stands: `("faults", 2)`, or `("faults", 2, "sequence", 0)` in a group."""
    name: str
    fault: "Fault"
    params: Mapping[str, Any]
    """As written."""
    begins_s: float = 0.0
    """In a group: how long after the group, or in a sequence after the fault before it."""

    @property
    def key(self) -> str:
        """What tells it from any other: `2`, `2.sequence.0`."""
        return ".".join(map(str, self.place[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One entry under `faults`: a fault, or several `sequence` (one after the other) or `parallel` ones; and when."""

    place: Place
    kind: Literal["single", "sequence", "parallel"]
    schedule: Schedule
    entries: tuple[FaultEntry, ...]

    @property
    def key(self) -> str:
        """Its position in the file."""
        return str(self.place[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment; paths are absolute, `seed` is None where the file gives none.

    `written` tells what its file says; where that has findings, this is what could be made of the rest.
    """

    title: str
    description: str
    source: Path
    written: Salvaged[Any]
    target: Path
    seed: int | None
    load: Load
    phases: Phases
    units: tuple[Unit, ...]
    blast_radius: BlastRadius | None
    expect: tuple[Mapping[str, Any], ...]
    guardrails: "tuple[tuple[str, Guardrail], ...]"
    overrides: Mapping[str, Any]
    tags: tuple[str, ...]

    @property
    def faults(self) -> tuple[FaultEntry, ...]:
        """Every fault, those of groups too, in the order of the file."""
        return tuple(entry for unit in self.units for entry in unit.entries)

    @property
    def locustfile(self) -> Path | None:
        """The file with the users, absolute."""
        return None if self.load.locustfile is None else beside(self.source, self.load.locustfile)


def read_experiment(path: Path, *, target: Path | None = None) -> Experiment:
    """The experiment in the file `path` as far as it can be understood: `written` has everything that is wrong with it.

    `target` takes the place of the file's own.

    Raises:
        ExperimentError: it is no YAML file.
    """
    return understand(load(path), target=target)


def understand(document: Document, *, target: Path | None = None) -> Experiment:
    """The experiment in a document, which need not be a file any more: paths in it are relative to `document.path`."""
    written = salvage(
        document,
        _file(checked=True),
        unchecked=_file(checked=False),
        spare={"title": "untitled", "target": "nowhere", "expect": [None]},
    )
    return _resolve(document.path, written.also(cross_check(written)), target)


def experiment_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an experiment file, for editors."""
    from metrics.checkers import expectation_schema

    schema = _file(checked=True).json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Holdfast experiment"
    schema["properties"]["expect"]["items"] = expectation_schema()
    return schema


@cache
def _file(*, checked: bool) -> TypeAdapter[Any]:
    """Built on first use, since it lists every registered fault and guardrail."""
    faults = {name: written_as(FAULTS[name], checked=checked) for name in FAULTS}
    guardrails = {name: written_as(GUARDRAILS[name], checked=checked) for name in GUARDRAILS}
    item: Any = _any_of("FaultItem", Step, faults)
    groups: dict[str, Any] = {kind: Annotated[list[item], Field(min_length=1)] for kind in GROUPS}
    fault_entry: Any = _any_of("FaultEntry", Schedule, {**faults, **groups})
    guardrail_entry: Any = _any_of("GuardrailEntry", Strict, guardrails)
    fields: dict[str, Any] = {
        "title": (str, Field(min_length=1, max_length=200)),
        "description": (str, ""),
        "target": (str, Field(min_length=1, description="the topology file, relative to this one")),
        "seed": (int | None, Field(default=None, ge=0, le=SEED_MAX, description="absent: drawn, and printed")),
        "load": (Load | None, None),
        "phases": (Phases, Phases()),
        "faults": (list[fault_entry], []),
        "expect": (list[Any], Field(min_length=1, description="what must hold; see `holdfast list checkers`")),
        "guardrails": (list[guardrail_entry], Field(default=[], description="when to stop early")),
        "blast_radius": (
            BlastRadius | None,
            Field(default=None, description="how much of a role faults may take at once"),
        ),
        "set": (dict[str, Any], Field(default={}, description="changes to the target: portal.env.VERSION: v2")),
        "tags": (list[str], []),
    }
    return TypeAdapter(create_model("ExperimentFile", __base__=Strict, **fields))


def _any_of(name: str, base: type[BaseModel], choices: Mapping[str, Any]) -> type[BaseModel]:
    """A model with each of `choices` beside the fields of `base`; `cross_check` sees that exactly one is given."""
    fields: dict[str, Any] = {choice: (model | None, None) for choice, model in choices.items()}
    return create_model(name, __base__=base, **fields)


def _resolve(path: Path, written: Salvaged[Any], target: Path | None) -> Experiment:
    model = written.model
    if model is None:
        raise AssertionError("for whatever a file cannot do without, there is something spare")
    expect = written.document.data.get("expect")
    return Experiment(
        title=model.title,
        description=model.description,
        source=path,
        written=written,
        target=beside(path, model.target) if target is None else target.absolute(),
        seed=model.seed,
        load=model.load or Load(),
        phases=model.phases,
        units=tuple(_units(model.faults, written)),
        blast_radius=model.blast_radius,
        expect=tuple(expect) if isinstance(expect, list) else (),
        guardrails=tuple(
            (name, guardrail)
            for entry in model.guardrails
            for name in GUARDRAILS
            if (guardrail := getattr(entry, name)) is not None
        ),
        overrides=dict(model.set),
        tags=tuple(model.tags),
    )


def _units(entries: Sequence[Any], written: Salvaged[Any]) -> Iterator[Unit]:
    """The entries under `faults`, each with its position in the file."""
    for kept, entry in enumerate(entries):
        place = written.original(("faults", kept))
        kind = next((kind for kind in GROUPS if getattr(entry, kind)), None)
        if kind is None:
            found = tuple(_fault_of(entry, place, written))
        else:
            found = tuple(
                one
                for inner, item in enumerate(getattr(entry, kind))
                for one in _fault_of(item, written.original(("faults", kept, kind, inner)), written, begins_s=item.at)
            )
        if found:
            yield Unit(place=place, kind=kind or "single", schedule=entry, entries=found)


def _fault_of(entry: Any, place: Place, written: Salvaged[Any], *, begins_s: float = 0.0) -> Iterator[FaultEntry]:
    """The fault that an entry names; none where it has mistakes."""
    here: Any = written.document.data
    for part in place:
        here = here[part]
    for name in FAULTS:
        if (fault := getattr(entry, name)) is not None:
            yield FaultEntry(place=place, name=name, fault=fault, params=here[name], begins_s=begins_s)
            return
