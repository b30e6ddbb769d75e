"""What faults need before a target starts: collected as data, refused with the fault's line where it cannot be had."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from chaos.errors import ExperimentError
from chaos.experiment import Experiment
from chaos.faults.fault import RoleShape, requirement_of
from chaos.faults.kill import Kill
from chaos.planner import Plan, lacking, plan
from chaos.requirement import Requirement, capability, merge
from chaos.timeline import render_plan
from tests.unit.chaos.experiments import ROLES, experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Needy(Kill):
    """A kill that needs something first."""

    needed: Requirement

    def requires(self, roles: Mapping[str, RoleShape]) -> Requirement:  # noqa: ARG002
        return self.needed


@capability("a test's moon")
def _moon() -> str:
    return "there is no moon here; wait for the night"


def planned(folder: Path, *needed: Requirement, names: Mapping[str, list[str]] | None = None) -> Plan:
    """The plan of one such fault for each requirement."""
    faults = "".join(f"  - kill: {{role: portal, restart_after: 1s}}\n    at: {10 * n}s\n" for n in range(len(needed)))
    read = experiment(folder, faults)
    return plan(needing(read, *needed), ROLES, 1, probe_path="/", names=names)


def needing(read: Experiment, *needed: Requirement) -> Experiment:
    """The experiment with faults that need this, one for each entry."""
    units = tuple(
        replace(unit, entries=(replace(unit.entries[0], fault=Needy(role="portal", needed=one)),))
        for unit, one in zip(read.units, needed, strict=True)
    )
    return replace(read, units=units)


PRELOAD = Requirement(env={"portal": {"LD_PRELOAD": "/lib/one.so"}})


def test_a_fault_that_says_nothing_requires_nothing() -> None:
    """Most faults have no such method at all."""
    assert not requirement_of(Kill(role="portal"), ROLES)
    assert Requirement().to_json() == {}


def test_what_all_faults_need_is_in_the_plan_once_and_shown(tmp_path: Path) -> None:
    """Two preloads are joined, what both need is there once, and the stored form gives the same again."""
    wrapped = Requirement(wrap={"portal": (("nice", "-n5"),)}, outputs=("db.dsn",), programs=("nice",))
    found = planned(tmp_path, PRELOAD, wrapped, PRELOAD.merged(wrapped), names={"output": ["db.dsn"]})

    assert found.requires == merge([PRELOAD, wrapped])
    assert Requirement.from_json(json.loads(json.dumps(found.to_json()))["requires"]) == found.requires
    shown = render_plan(found)
    assert "portal: LD_PRELOAD=/lib/one.so" in shown
    assert "portal: started by nice -n5" in shown
    both = merge([PRELOAD, Requirement(env={"portal": {"LD_PRELOAD": "/lib/two.so"}})])
    assert both.env == {"portal": {"LD_PRELOAD": "/lib/one.so:/lib/two.so"}}


@pytest.mark.parametrize(
    ("needed", "told"),
    [
        (Requirement(env={"portal": {"MODE": "b"}}), "another fault needs MODE=a"),
        (Requirement(env={"protal": {"A": "b"}}), "no role 'protal'; did you mean 'portal'?"),
        (Requirement(wrap={"legacy": (("nice",),)}), "role 'legacy' is external"),
        (Requirement(outputs=("db.dns",)), "no output 'db.dns'; did you mean 'db.dsn'?"),
        (Requirement(readings=("leader",)), "no reading 'leader'"),
    ],
)
def test_what_cannot_be_had_is_told_with_the_line_of_its_fault(tmp_path: Path, needed: Requirement, told: str) -> None:
    """Beside a fault that needs MODE=a: the second entry is to blame."""
    mode = Requirement(env={"portal": {"MODE": "a"}})
    with pytest.raises(ExperimentError) as caught:
        planned(tmp_path, mode, needed, names={"output": ["db.dsn"], "reading": ["depth"]})
    (problem,) = caught.value.problems
    assert told in problem
    assert "experiment.yaml:9: faults.1.kill: " in problem


def test_what_the_machine_lacks_is_told_before_anything_starts(tmp_path: Path) -> None:
    """A program that nobody has, and a check that says no."""
    read = experiment(tmp_path, "  - kill: {role: portal}\n")
    needed = Requirement(programs=("no-such-program", "sh"), capabilities=("a test's moon",))

    assert lacking(read, ROLES) == []
    moon, program = lacking(needing(read, needed), ROLES)
    assert "experiment.yaml:7: faults.0.kill: needs the program 'no-such-program'" in program
    assert "needs a test's moon: there is no moon here; wait for the night" in moon


def test_a_target_started_without_it_is_told_apart() -> None:
    """One with more preloads, in another order, will do."""
    more = Requirement(env={"portal": {"LD_PRELOAD": "/lib/two.so:/lib/one.so"}}, wrap={"portal": (("nice",),)})
    assert PRELOAD.unmet_by(more) == []
    assert PRELOAD.unmet_by(Requirement()) == ["LD_PRELOAD=/lib/one.so of portal"]
    assert more.unmet_by(PRELOAD) == ["LD_PRELOAD=/lib/two.so:/lib/one.so of portal", "nice before portal"]
