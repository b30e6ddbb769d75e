"""The swarm file: an experiment whose faults are drawn, within the limits that it gives.

swarm.yaml -> Document -> what is checked of it -> Swarm --seed--> Document of an experiment -> Prepared

    title, target, load, phases, expect, ...    as in an experiment
    swarm: {at_once: 2, in_all: 4}              how many faults, and the reading that names the states of the system
    faults:                                     what may be drawn; any parameter may be a range
      - kill: {role: {any_of: [portal, settlement]}, restart_after: {between: [1s, 3s]}}

Whether it is valid is asked of the planner: with the ends of each range, and each of its values, every fault by itself.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import Field, TypeAdapter

from chaos.documents import Document, load, parse
from chaos.errors import ExperimentError
from chaos.experiment import Experiment, Phases, experiment_schema, understand
from chaos.faults.fault import FAULTS
from chaos.outline import outline
from chaos.parameters import Strict
from chaos.planner import Plan, plan
from chaos.preparing import Prepared, prepare_document
from chaos.salvage import salvage
from chaos.swarm.anchoring import anchored, anchored_fault
from chaos.swarm.drawing import Drawn, Kind, Limits, Span, draw
from chaos.swarm.ranges import ANY_OF, BETWEEN, AnyOf, Range, range_of
from chaos.targets.topology import draft_topology
from chaos.wording import Finding, Place, suggest
from metrics.units import format_duration, parse_duration

SWARM: Final = "swarm"
_SLOT_S: Final = 1_000_000.0
"""While a file is checked each fault has a time of its own, so that none is in the way of another."""
_OF_SLOT: Final = re.compile(r"at \d+ s of the phase: ")


class Bounds(Strict):
    """How many faults are drawn: at most `in_all`, of which at most `at_once` in force at a time.

    `state` is a reading of the target that names the state it is in when a fault is seen to bite; `states` are those
    in which each fault should have been seen.
    """

    at_once: Annotated[int, Field(ge=1, le=20)] = 2
    in_all: Annotated[int, Field(ge=1, le=100)] = 4
    state: Annotated[str, Field(min_length=1)] | None = None
    states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """A valid swarm file with its target."""

    path: Path
    document: Document
    base: Mapping[str, Any]
    """What all its experiments have in common; paths are absolute."""
    bounds: Bounds
    kinds: tuple[Kind, ...]
    target: Path | None
    overrides: Mapping[str, Any]
    topology_text: str
    room_s: float

    @property
    def digest(self) -> str:
        """What tells it, with its target and overrides, from any other: the results of one are not those of another."""
        parts = (self.document.text, self.topology_text, json.dumps(dict(self.overrides), sort_keys=True, default=str))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def experiment(self, seed: int) -> tuple[Prepared, tuple[Drawn, ...]]:
        """The experiment of a seed, ready to be run, and what was drawn for it; the same seed gives the same.

        Raises:
            ExperimentError: the files it names are no longer as they were when it was read.
        """
        planner = _Planner(self, seed)
        limits = Limits(at_once=self.bounds.at_once, in_all=self.bounds.in_all, room_s=self.room_s)
        drawn = draw(self.kinds, limits, seed, planner.fits)
        text = yaml.safe_dump(self.written(seed, drawn), sort_keys=False, allow_unicode=True, width=100)
        document = parse(self.place(seed), text)
        return prepare_document(document, target=self.target, overrides=self.overrides, seed=seed), drawn

    def place(self, seed: int) -> Path:
        """Beside which file the experiment of a seed would lie; there is none."""
        return self.path.with_name(f"{self.path.stem}-{seed}.yaml")

    def written(self, seed: int, drawn: Sequence[Drawn]) -> dict[str, Any]:
        """An experiment with these faults, as its file would say it."""
        data = {**self.base, "seed": seed, "title": f"{self.base['title']} (seed {seed})"}
        data["faults"] = [one.entry for one in drawn]
        data["expect"] = _asked_of({one.kind.name for one in drawn}, data["expect"])
        return data


def read_swarm(path: Path, *, target: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Swarm:
    """The swarm in the file `path`; `target` takes the place of its own, `overrides` come on top of its `set`.

    Raises:
        ExperimentError: everything that is wrong with it and its target, each once, with its line.
    """
    document = load(path)
    bounds, problems = _own(document)
    ranges, findings = _ranges(document)
    problems += [document.problem(place, text) for place, text in findings]
    wrong = {place[1] for place, _ in findings if len(place) > 1}
    kept = [index for index in range(len(_faults(document))) if index not in wrong]
    ready, told = _checked(document, kept, ranges, target, overrides or {})
    problems += told
    if problems or ready is None or bounds is None:
        raise ExperimentError(document.in_order(problems))
    problems = [document.problem(place, text) for place, text in _beyond(document, ready, ranges, bounds)]
    if problems:
        raise ExperimentError(document.in_order(problems))
    source = path.absolute()
    base = anchored({key: value for key, value in document.data.items() if key not in {SWARM, "faults"}}, source.parent)
    return Swarm(
        path=source,
        document=document,
        base=base,
        bounds=bounds,
        kinds=tuple(_kinds(document, ready, ranges)),
        target=target,
        overrides=dict(overrides or {}),
        topology_text=ready.topology.path.read_text(),
        room_s=parse_duration(document.data["phases"]["faults"]) if _room_written(document) else Phases().faults,
    )


def swarm_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a swarm file, for editors."""
    schema = experiment_schema()
    schema["title"] = "Holdfast swarm"
    definitions = schema["$defs"]
    both: dict[str, Any] = {
        BETWEEN: {"type": "array", "minItems": 2, "maxItems": 2},
        ANY_OF: {"type": "array", "minItems": 1},
    }
    definitions["Range"] = {
        "anyOf": [
            {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}
            for key, value in both.items()
        ]
    }
    for name in FAULTS:
        model = definitions[FAULTS[name].__name__]
        model["properties"] = {
            key: {"anyOf": [value, {"$ref": "#/$defs/Range"}]} for key, value in model["properties"].items()
        }
    entry = definitions["FaultEntry"]
    entry["properties"] = {key: value for key, value in entry["properties"].items() if key in list(FAULTS)}
    definitions["Bounds"] = Bounds.model_json_schema()
    schema["properties"] = {key: value for key, value in schema["properties"].items() if key != "seed"}
    schema["properties"][SWARM] = {"$ref": "#/$defs/Bounds"}
    schema["properties"]["faults"] = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/FaultEntry"}}
    schema["required"] = sorted({*schema["required"], SWARM, "faults"})
    return schema


class _Planner:
    """Asks the planner, for one seed, whether faults can be played together on the swarm's target."""

    def __init__(self, swarm: Swarm, seed: int) -> None:
        self._swarm = swarm
        self._seed = seed
        one = self._understand(())
        self._known = outline(draft_topology(one.target, {**one.overrides, **swarm.overrides}), overrides_known=True)

    def fits(self, drawn: Sequence[Drawn]) -> list[Span] | None:
        """See `chaos.swarm.drawing.Fits`."""
        try:
            planned = plan(
                self._understand(drawn),
                self._known.roles,
                self._seed,
                probe_path=self._known.probe_path,
                names=self._known.names,
            )
        except ExperimentError:
            return None
        return spans_of(planned)

    def _understand(self, drawn: Sequence[Drawn]) -> Experiment:
        swarm = self._swarm
        data = swarm.written(self._seed, drawn)
        return understand(Document(path=swarm.place(self._seed), data=data, lines={}), target=swarm.target)


def spans_of(planned: Plan) -> list[Span]:
    """From when until when each fault of a plan is in force, as far as can be known beforehand."""
    return [
        (
            one.at_s,
            one.at_s
            + (one.fault.takes_s(len(one.instances)) if one.fault.heal_after_s is None else one.fault.heal_after_s),
        )
        for one in planned.timeline
    ]


def _own(document: Document) -> tuple[Bounds | None, list[str]]:
    """What stands under `swarm`, and what is wrong with it and with what only experiments have."""
    own = {SWARM: document.data[SWARM]} if SWARM in document.data else {}
    read = salvage(replace(document, data=own, flaws=()), TypeAdapter(_OwnPart))
    findings: list[Finding] = []
    if "seed" in document.data:
        findings.append((("seed",), "a swarm has many seeds; give --seeds N, and --first-seed N"))
    faults = document.data.get("faults")
    if not isinstance(faults, list) or not faults:
        findings.append((("faults",), "expected a list of the faults that may be drawn"))
    for index, entry in enumerate(_faults(document)):
        extra = [key for key in entry if key not in list(FAULTS)] if isinstance(entry, Mapping) else []
        if extra and len(entry) > 1:
            text = f"when a fault plays is drawn: write the fault alone; {suggest(extra[0], FAULTS)}"
            findings.append((("faults", index, extra[0]), text))
    expect = document.data.get("expect")
    if isinstance(expect, list) and expect and not _asked_of(set(), expect):
        findings.append((("expect",), "each is asked `during` some fault; give one that every draw has to keep"))
    problems = read.problems() + [document.problem(place, text) for place, text in findings]
    return (None if read.model is None else read.model.swarm), problems


class _OwnPart(Strict):
    swarm: Bounds


def _faults(document: Document) -> list[Any]:
    faults = document.data.get("faults")
    return faults if isinstance(faults, list) else []


def _ranges(document: Document) -> tuple[dict[Place, Range], list[Finding]]:
    """Every range by its place, and what is wrong with those that cannot be understood."""
    ranges: dict[Place, Range] = {}
    findings: list[Finding] = []
    for index, entry in enumerate(_faults(document)):
        for name, params in entry.items() if isinstance(entry, Mapping) else ():
            for key, value in params.items() if isinstance(params, Mapping) else ():
                place = ("faults", index, name, key)
                try:
                    found = range_of(value)
                except ValueError as error:
                    findings.append((place, str(error)))
                else:
                    if found is not None:
                        ranges[place] = found
    return ranges, findings


def _checked(
    document: Document,
    kept: Sequence[int],
    ranges: Mapping[Place, Range],
    target: Path | None,
    overrides: Mapping[str, Any],
) -> tuple[Prepared | None, list[str]]:
    """The file as experiments with the ends and values of its ranges: the first, and what is wrong with any of them."""
    ready: Prepared | None = None
    problems: dict[str, None] = {}
    tries = max([2, *(len(one.values) for one in ranges.values() if isinstance(one, AnyOf))])
    for number in range(tries):
        sample = _sample(document, kept, ranges, number)
        try:
            one = prepare_document(sample, target=target, overrides=overrides, spare_seed=number)
        except ExperimentError as error:
            problems |= dict.fromkeys(_OF_SLOT.sub("", problem) for problem in error.problems)
        else:
            ready = ready or one
    return ready, list(problems)


def _sample(document: Document, kept: Sequence[int], ranges: Mapping[Place, Range], number: int) -> Document:
    """The file as an experiment with all its faults, each in a time of its own."""
    entries: list[Any] = []
    for index, entry in enumerate(_faults(document)):
        if index not in kept or not isinstance(entry, Mapping):
            continue
        written: dict[str, Any] = {"at": f"{_SLOT_S * len(entries):.0f}s"}
        for name, params in entry.items():
            if name in {"at", "every", "times", "jitter", "random", "after", "when", "as", "sequence", "parallel"}:
                continue
            plain = isinstance(params, Mapping)
            written[name] = (
                {
                    key: ranges[place].sample(number) if (place := ("faults", index, name, key)) in ranges else value
                    for key, value in params.items()
                }
                if plain
                else params
            )
        entries.append(written)
    data = {key: value for key, value in document.data.items() if key not in {SWARM, "seed"}}
    data["faults"] = entries
    if _room_written(document) or "phases" not in data:
        data["phases"] = {**data.get("phases", {}), "faults": f"{_SLOT_S * (len(entries) + 1):.0f}s"}
    return replace(document, data=data, lines=_lines(document, kept))


def _lines(document: Document, kept: Sequence[int]) -> Mapping[Place, int]:
    """The lines of the file, where some of its faults were left out."""
    moved = {index: position for position, index in enumerate(kept)}
    return {
        (("faults", moved[place[1]], *place[2:]) if len(place) > 1 and place[0] == "faults" else place): line  # type: ignore[index]
        for place, line in document.lines.items()
        if not (len(place) > 1 and place[0] == "faults" and place[1] not in moved)
    }


def _room_written(document: Document) -> bool:
    """Whether the file says itself how long the phase `faults` is, and that can be understood."""
    phases = document.data.get("phases")
    if not isinstance(phases, Mapping) or "faults" not in phases:
        return False
    try:
        return parse_duration(phases["faults"]) > 0
    except ValueError:
        return False


def _beyond(document: Document, ready: Prepared, ranges: Mapping[Place, Range], bounds: Bounds) -> Iterator[Finding]:
    """Faults that may be longer than the phase, and a state that the target does not tell."""
    readings = list(ready.topology.file.observe)
    if bounds.state is not None and bounds.state not in readings:
        yield (SWARM, "state"), f"the target has no reading {bounds.state!r}; {suggest(bounds.state, readings)}"
    if bounds.states and bounds.state is None:
        yield (SWARM, "states"), "give state too: the reading that says which of them it is"
    room_s = parse_duration(document.data["phases"]["faults"]) if _room_written(document) else Phases().faults
    for number in range(2):
        longest = understand(_sample(document, range(len(_faults(document))), ranges, number))
        for entry in longest.faults:
            lasts_s = entry.fault.heal_after_s or 0.0
            if lasts_s > room_s:
                told = f"may last {format_duration(lasts_s)}, but the phase faults lasts {format_duration(room_s)}"
                yield (*entry.place, entry.name), told


def _kinds(document: Document, ready: Prepared, ranges: Mapping[Place, Range]) -> Iterator[Kind]:
    labels: dict[str, int] = {}
    for entry in ready.experiment.faults:
        index = int(entry.place[1])
        written: Mapping[str, Any] = document.data["faults"][index][entry.name]
        of_it = {key: ranges[place] for key in written if (place := ("faults", index, entry.name, key)) in ranges}
        params = {**anchored_fault(entry.params, entry.fault), **{key: written[key] for key in of_it}}
        label = _label(entry.name, written)
        labels[label] = labels.get(label, 0) + 1
        number = labels[label]
        yield Kind(label=label if number == 1 else f"{label} #{number}", name=entry.name, params=params, ranges=of_it)


def _label(name: str, params: Mapping[str, Any]) -> str:
    """What people call it: `kill portal`, `action maintenance.start`."""
    plain = (params[key] for key in ("instance", "role", "name", "call") if isinstance(params.get(key), str))
    return f"{name} {next(plain, '')}".strip()


def _asked_of(faults: set[str], expect: Sequence[Any]) -> list[Any]:
    """The expectations without those that ask what happens `during` a fault that is not among these."""
    return [entry for entry in expect if not isinstance(entry, Mapping) or _during(entry) <= faults]


def _during(entry: Mapping[str, Any]) -> set[str]:
    return {str(params["during"]) for params in entry.values() if isinstance(params, Mapping) and params.get("during")}
