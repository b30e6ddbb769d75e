"""Which system a fault plays on in the contract tests: the first that has the roles, outputs and names it asks for."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

from pydantic import TypeAdapter

from chaos.faults.fault import FAULTS, Fault, NotThereError, requirement_of
from chaos.outline import shapes
from chaos.parameters import written_as
from chaos.requirement import Requirement, merge
from chaos.targets.templates import BUILT_IN
from chaos.targets.topology import Topology, load_topology

SMALLEST = Path(__file__).parent.parent / "integration" / "engine" / "system" / "topology.yaml"
STAGES = (SMALLEST, *sorted((Path(__file__).parent / "targets").glob("*.yaml")))


def as_example(name: str, *, held: str = "3s") -> Fault:
    """The fault of its own example, but `held` for another time."""
    example = {key: held if value == "3s" else value for key, value in FAULTS[name].example.items()}
    fault: Fault = TypeAdapter(written_as(FAULTS[name])).validate_python(example)
    return fault


@cache
def stage_of(name: str) -> Topology:
    """The system that the fault plays on, to be started with what all faults on it need.

    Raises:
        AssertionError: none has what the fault's example names: add one.
    """
    refusals = []
    for path in STAGES:
        topology = load_topology(path)
        refusal = _refusal(topology, name)
        if refusal is None:
            return replace(topology, requirement=_of_all(topology))
        refusals.append(f"{path.name}: {refusal}")
    raise AssertionError(f"no system here fits the example of {name!r}; add one to tests/contract/targets: {refusals}")


def _of_all(topology: Topology) -> Requirement:
    """What the faults that play on a system need together."""
    fitting = [as_example(name) for name in FAULTS if _refusal(topology, name) is None]
    return merge(requirement_of(fault, shapes(topology)) for fault in fitting)


def _refusal(topology: Topology, name: str) -> str | None:
    """Why a fault's example cannot play on a system; None where it can."""
    fault = as_example(name)
    try:
        fault.choose(shapes(topology), frozenset(), Random(1))  # noqa: S311  (whom it takes does not matter here)
        needed = requirement_of(fault, shapes(topology))
    except NotThereError as error:
        return str(error)
    known = {
        "output": [f"{role}.{name}" for role, names in topology.file.outputs.items() for name in names]
        + [f"{role}.{name}" for role in topology.roles for name in BUILT_IN],
        "reading": list(topology.file.observe),
        "action": list(topology.file.actions),
    }
    action = [str(FAULTS[name].example["name"])] if name == "action" else []
    asked = {"output": needed.outputs, "reading": needed.readings, "action": action}
    missing = [f"{kind} {one}" for kind, names in asked.items() for one in names if one not in known[kind]]
    missing += [f"role {role}" for role in needed.roles if role not in topology.roles]
    return f"it has no {', '.join(missing)}" if missing else None
