"""`holdfast list`, `validate` and `schema`: what there is, whether a file is right, and its JSON Schema."""

from pathlib import Path
from typing import Any

import click

from chaos.cli.options import json_option, parse_overrides, print_json, say, set_option
from chaos.cli.shipped import find_experiment, shipped


@click.command("list", epilog="Example: holdfast list faults")
@click.argument("what", type=click.Choice(["faults", "checkers", "experiments"]))
@json_option
def list_(what: str, *, as_json: bool) -> None:
    """List what experiments can use, one line each."""
    found = {"faults": _faults, "checkers": _checkers, "experiments": _experiments}[what]()
    if as_json:
        print_json([{"name": name, "summary": summary} for name, summary in found.items()])
        return
    width = max(map(len, found))
    for name, summary in found.items():
        say(f"{name:<{width}}  {summary}")


@click.command(epilog="Example: holdfast validate experiment.yaml")
@click.argument("file", metavar="FILE")
@set_option
@json_option
def validate(file: str, *, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check an experiment, a swarm (with its target) or a topology; every problem at once, with its line (exit 64)."""
    from chaos.documents import load

    path = find_experiment(file)
    changes = parse_overrides(overrides)
    data = load(path).data
    check = _check_topology if "roles" in data else _check_swarm if "swarm" in data else _check_experiment
    kind, summary = check(path, changes)
    if as_json:
        print_json({"file": str(path), "kind": kind, "valid": True, "summary": summary})
    else:
        say(f"{path}: a valid {kind}: {summary}")


@click.command(epilog="Example: holdfast schema experiment > experiment.schema.json")
@click.argument("what", type=click.Choice(["experiment", "swarm", "topology", "verdict"]))
def schema(what: str) -> None:
    """Print a JSON Schema, for editors and programs."""
    schemas = {
        "experiment": _experiment_schema,
        "swarm": _swarm_schema,
        "topology": _topology_schema,
        "verdict": _verdict_schema,
    }
    print_json(schemas[what]())


def _check_topology(path: Path, overrides: dict[str, Any]) -> tuple[str, str]:
    from chaos.targets.topology import load_topology

    topology = load_topology(path, overrides)
    return "topology", f"{topology.name}: {', '.join(it.name for it in topology.instances())}"


def _check_experiment(path: Path, overrides: dict[str, Any]) -> tuple[str, str]:
    from chaos.preparing import prepare

    planned = prepare(path, overrides=overrides).plan
    return "experiment", f"{planned.title}: {len(planned.timeline)} faults, {len(planned.expect)} expectations"


def _check_swarm(path: Path, overrides: dict[str, Any]) -> tuple[str, str]:
    from chaos.swarm.file import read_swarm

    read = read_swarm(path, overrides=overrides)
    return "swarm", f"{read.base['title']}: {len(read.kinds)} faults to draw from, at most {read.bounds.in_all} a run"


def _faults() -> dict[str, str]:
    from chaos.faults.fault import FAULTS

    return {name: _first_line(FAULTS[name]) for name in FAULTS}


def _checkers() -> dict[str, str]:
    from metrics.checkers import known_checkers

    return dict(known_checkers())


def _experiments() -> dict[str, str]:
    from chaos.documents import load

    return {name: str(load(path).data.get("title", "")) for name, path in shipped().items()}


def _first_line(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _experiment_schema() -> dict[str, Any]:
    from chaos.experiment import experiment_schema

    return experiment_schema()


def _swarm_schema() -> dict[str, Any]:
    from chaos.swarm.file import swarm_schema

    return swarm_schema()


def _topology_schema() -> dict[str, Any]:
    from chaos.targets.topology import topology_schema

    return topology_schema()


def _verdict_schema() -> dict[str, Any]:
    from metrics.verdict import verdict_schema

    return verdict_schema()
