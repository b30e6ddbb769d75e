"""The experiment file: what load, which faults when, and what must hold meanwhile.

experiment.yaml -> Document -> Salvaged, with every problem -> Experiment
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, create_model

from chaos.crosschecks import beside, cross_check
from chaos.documents import load
from chaos.faults.fault import FAULTS
from chaos.guardrails import GUARDRAILS
from chaos.parameters import Strict, written_as
from chaos.salvage import Salvaged, salvage
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


class Schedule(Strict):
    """When a fault plays: first `at`, then `every`, at most `times` (needs `every`), each up to `jitter` later."""

    at: Seconds = 0.0
    every: PositiveSeconds | None = None
    times: Annotated[int, Field(ge=1, le=10_000)] | None = None
    jitter: Seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEntry:
    """One entry under `faults`: which fault, with what parameters, when."""

    index: int
    """Its position in the file."""
    name: str
    fault: "Fault"
    params: Mapping[str, Any]
    """As written."""
    schedule: Schedule


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
    faults: tuple[FaultEntry, ...]
    expect: tuple[Mapping[str, Any], ...]
    guardrails: "tuple[tuple[str, Guardrail], ...]"
    overrides: Mapping[str, Any]
    tags: tuple[str, ...]

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
    document = load(path)
    written = salvage(
        document,
        _file(checked=True),
        unchecked=_file(checked=False),
        spare={"title": "untitled", "target": "nowhere", "expect": [None]},
    )
    return _resolve(path, written.also(cross_check(written)), target)


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
    fault_entry: Any = _any_of("FaultEntry", Schedule, faults)
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
        faults=tuple(_fault_entries(model.faults, written)),
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


def _fault_entries(entries: Sequence[Any], written: Salvaged[Any]) -> Iterator[FaultEntry]:
    """The faults, at the positions that they have in the file."""
    for kept, entry in enumerate(entries):
        index = int(written.original(("faults", kept))[-1])
        schedule = Schedule.model_construct(at=entry.at, every=entry.every, times=entry.times, jitter=entry.jitter)
        for name in FAULTS:
            if (fault := getattr(entry, name)) is not None:
                params = written.document.data["faults"][index][name]
                yield FaultEntry(index=index, name=name, fault=fault, params=params, schedule=schedule)
