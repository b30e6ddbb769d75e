"""The experiment file: what load, which faults when, and what must hold meanwhile.

experiment.yaml -> Document -> Experiment, or every problem at once with its line
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import BaseModel, Field, create_model, model_validator

from chaos.documents import Document, load, validate
from chaos.errors import ExperimentError
from chaos.faults.fault import FAULTS
from chaos.guardrails import GUARDRAILS
from chaos.parameters import Strict, written_as
from metrics.units import PerSecond, PositiveSeconds, Seconds

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
    """What clients do: Locust users of `locustfile`, with arrivals on schedule whatever earlier requests do."""

    locustfile: str | None = None
    arrivals: PerSecond | None = None
    users: Annotated[int, Field(ge=1, le=50_000)] = 100
    """The most operations in flight at a time."""
    probe: Probe = Probe()

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if (self.locustfile is None) != (self.arrivals is None):
            raise ValueError("locustfile and arrivals go together: give both, or neither to have only probes")
        return self


class Phases(Strict):
    """How long each phase lasts; `warmup` is a lower bound and `quiet` an upper one."""

    warmup: Seconds = 5.0
    baseline: PositiveSeconds = 10.0
    faults: PositiveSeconds = 30.0
    recovery: PositiveSeconds = 10.0
    quiet: PositiveSeconds = 30.0


class Schedule(Strict):
    """When a fault plays: first `at`, then `every`, at most `times`, each up to `jitter` later."""

    at: Seconds = 0.0
    every: PositiveSeconds | None = None
    times: Annotated[int, Field(ge=1, le=10_000)] | None = None
    jitter: Seconds = 0.0

    @model_validator(mode="after")
    def _repeats_have_a_distance(self) -> Self:
        if self.every is None and (self.times or 1) > 1:
            raise ValueError("times needs every: how far the occurrences are apart")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEntry:
    """One entry under `faults`: which fault, with what parameters, when."""

    name: str
    fault: "Fault"
    params: Mapping[str, Any]
    """As written."""
    schedule: Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A valid experiment; paths are absolute, `seed` is None where the file gives none."""

    title: str
    description: str
    source: Path
    document: Document
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
        return None if self.load.locustfile is None else _beside(self.source, self.load.locustfile)


def load_experiment(path: Path, *, target: Path | None = None) -> Experiment:
    """The experiment in the file `path`; `target` takes the place of the file's own.

    Raises:
        ExperimentError: with every problem, each naming file, line, what was expected and what to do.
    """
    document = load(path)
    problems = [*_expectation_problems(document), *_missing_files(document, path)]
    try:
        model = validate(document, _file_model())
    except ExperimentError as error:
        raise ExperimentError([*error.problems, *problems]) from error
    if problems:
        raise ExperimentError(problems)
    return _resolve(path, document, model, target)


def experiment_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an experiment file, for editors."""
    from metrics.checkers import expectation_schema

    schema = _file_model().model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Holdfast experiment"
    schema["properties"]["expect"]["items"] = expectation_schema()
    return schema


def _expectation_problems(document: Document) -> list[str]:
    """What is wrong with the entries of `expect`, which their checkers know best."""
    from metrics.checkers import ExpectationError, parse_expectation

    entries = document.data.get("expect")
    problems = []
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        try:
            parse_expectation(entry)
        except ExpectationError as error:
            problems += [
                document.problem(("expect", index, *problem.path), problem.message) for problem in error.problems
            ]
    return problems


def _missing_files(document: Document, path: Path) -> list[str]:
    """A locustfile that is not there would only be noticed when the target runs."""
    load = document.data.get("load")
    locustfile = load.get("locustfile") if isinstance(load, dict) else None
    if not isinstance(locustfile, str) or _beside(path, locustfile).is_file():
        return []
    return [document.problem(("load", "locustfile"), f"no such file: {_beside(path, locustfile)}")]


@cache
def _file_model() -> type[BaseModel]:
    """Built on first use, since it lists every registered fault and guardrail."""
    fault_entry: Any = _one_of("FaultEntry", Schedule, {name: FAULTS[name] for name in FAULTS})
    guardrail_entry: Any = _one_of("GuardrailEntry", Strict, {name: GUARDRAILS[name] for name in GUARDRAILS})
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
    return create_model("ExperimentFile", __base__=Strict, **fields)


def _one_of(name: str, base: type[BaseModel], choices: Mapping[str, type[Any]]) -> type[BaseModel]:
    """A model in which exactly one of `choices` is given, beside the fields of `base`."""

    def exactly_one(self: BaseModel) -> BaseModel:
        given = [choice for choice in choices if getattr(self, choice) is not None]
        if len(given) != 1:
            wrong = f"has {' and '.join(given)}" if given else "names none"
            raise ValueError(f"an entry names exactly one of {', '.join(choices)}; this one {wrong}")
        return self

    fields = {choice: (written_as(cls) | None, None) for choice, cls in choices.items()}
    validators = {"exactly_one": model_validator(mode="after")(exactly_one)}
    return create_model(name, __base__=base, __validators__=cast("Any", validators), **cast("Any", fields))


def _resolve(path: Path, document: Document, model: Any, target: Path | None) -> Experiment:
    raw = document.data
    return Experiment(
        title=model.title,
        description=model.description,
        source=path,
        document=document,
        target=_beside(path, model.target) if target is None else target.absolute(),
        seed=model.seed,
        load=model.load or Load(),
        phases=model.phases,
        faults=tuple(
            _entry(entry, written) for entry, written in zip(model.faults, raw.get("faults", []), strict=True)
        ),
        expect=tuple(raw["expect"]),
        guardrails=tuple(
            (name, guardrail)
            for entry in model.guardrails
            for name in GUARDRAILS
            if (guardrail := getattr(entry, name)) is not None
        ),
        overrides=dict(model.set),
        tags=tuple(model.tags),
    )


def _entry(entry: Any, written: Mapping[str, Any]) -> FaultEntry:
    name = next(name for name in FAULTS if getattr(entry, name) is not None)
    schedule = Schedule.model_construct(at=entry.at, every=entry.every, times=entry.times, jitter=entry.jitter)
    return FaultEntry(name=name, fault=getattr(entry, name), params=written[name], schedule=schedule)


def _beside(source: Path, relative: str) -> Path:
    return (source.absolute().parent / relative).resolve()
