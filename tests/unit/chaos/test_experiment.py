"""Experiment files: what they mean, and every mistake told at once with its line."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from chaos.cli.shipped import shipped
from chaos.experiment import experiment_schema, read_experiment
from chaos.faults.fault import FAULTS
from tests.unit.chaos.experiments import write


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong with a file, without the folder's name."""
    written = read_experiment(write(folder, text)).written
    return [problem.removeprefix(f"{folder}/experiment.yaml:") for problem in written.problems()]


def test_defaults_hold_where_the_file_is_silent(tmp_path: Path) -> None:
    """The least that an experiment can say."""
    path = write(tmp_path, "title: least\ntarget: ../t.yaml\nexpect: [{failed: {max: 0}}]\n")
    experiment = read_experiment(path)

    assert (experiment.seed, experiment.faults, experiment.locustfile) == (None, (), None)
    assert (experiment.phases.warmup, experiment.phases.quiet, experiment.load.users) == (5.0, 30.0, 100)
    assert experiment.target == (tmp_path.parent / "t.yaml").resolve()


def test_every_problem_is_told_at_once_with_its_line_and_a_suggestion(tmp_path: Path) -> None:
    """One file with a mistake in almost every line."""
    text = """\
titel: wrong
target: t.yaml
seed: -1
load: {locustfile: users.py, arrivals: -300/s}
phases: {warmup: 5, nap: 1s}
faults:
  - kill: {role: portal, cuont: 1}
  - latncy: {role: portal}
  - kill: {role: portal}
    pause: {role: portal}
  - pause: {role: portal, for: 0s}
  - kill: {role: portal, percent: 150%}
    every: soon
  - kill: {role: portal}
    times: 3
  - deploy: {role: portal, set: {VERSION: v2}}
expect:
  - failed: {maximum: 0}
  - flawless: {max: 0}
guardrails:
  - error_rate: {max: lots}
set: portal.count
"""
    found = problems(tmp_path, text)
    expected = {
        "1: titel: unknown key; did you mean 'title'?": "1",
        "3: seed: expected at least 0": "3",
        "4: load.arrivals: expected a positive rate such as 300/s": "4",
        "5: phases.warmup: expected a duration such as 250ms": "5",
        "5: phases.nap: unknown key": "5",
        "7: faults.0.kill.cuont: unknown key; did you mean 'count'?": "7",
        "8: faults.1.latncy: unknown key; Known: ": "8",
        "9: faults.2: an entry names exactly one of": "9",
        "11: faults.3.pause.for: expected more than 0": "11",
        "12: faults.4.kill.percent: expected a share": "12",
        "13: faults.4.every: expected a duration": "13",
        "15: faults.5.times: needs every": "15",
        "16: faults.6.deploy: set: VERSION: a deploy changes the environment; write env.NAME: value": "16",
        "18: expect.0.failed.maximum: unknown parameter": "18",
        "19: expect.1: no checker called 'flawless'": "19",
        "21: guardrails.0.error_rate.max: expected a share": "21",
        "22: set: expected a mapping": "22",
    }
    missing = [start for start in expected if not any(problem.startswith(start) for problem in found)]
    assert not missing, "\n".join(found)


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ("kill: {role: portal, count: 1, all: true}", "count and all exclude each other"),
        ("kill: {role: portal, one_per_zone: true, zone: a}", "zone and one_per_zone exclude each other"),
        ("kill: portal", "expected a mapping"),
        ("every: 5s", "an entry names exactly one of action, "),
    ],
)
def test_contradictions_in_a_fault_are_told(tmp_path: Path, faults: str, told: str) -> None:
    """Each contradiction alone."""
    text = f"title: t\ntarget: t.yaml\nexpect: [{{failed: {{max: 0}}}}]\nfaults:\n  - {faults}\n"
    assert any(told in problem for problem in problems(tmp_path, text))


def test_mistakes_in_arrivals_are_told_with_their_lines(tmp_path: Path) -> None:
    """A misspelt key, a wrong phase and no multiple, each where it stands, with what is known."""
    text = """\
title: t
target: t.yaml
expect: [{failed: {max: 0}}]
load:
  locustfile: experiment.yaml
  arrivals:
    rate: 50/s
    surge: {to: lots, at: fault+5s, fro: 60s}
    spacing: poison
"""
    found = problems(tmp_path, text)
    expected = [
        "8: load.arrivals.surge.to: expected a rate such as 300/s, or a multiple such as 10x, got 'lots'",
        "8: load.arrivals.surge.at: expected one of the phases warmup, baseline, faults, recovery, or a time",
        "8: load.arrivals.surge.fro: unknown key; did you mean 'for'?",
        "9: load.arrivals.spacing: unknown value 'poison'; did you mean 'poisson'?",
    ]
    assert len(found) == len(expected), "\n".join(found)
    assert not [start for start in expected if not any(problem.startswith(start) for problem in found)], found


def test_locustfile_and_arrivals_go_together(tmp_path: Path) -> None:
    """A load without a rate is a guess."""
    text = "title: t\ntarget: t.yaml\nexpect: [{failed: {max: 0}}]\nload: {locustfile: users.py}\n"
    assert any("go together" in problem for problem in problems(tmp_path, text))


@pytest.mark.parametrize("name", list(shipped()))
def test_shipped_experiments_are_valid_and_fit_the_published_schema(name: str) -> None:
    """The strict reader and the schema for editors must agree on them."""
    path = shipped()[name]
    assert read_experiment(path).written.findings == ()
    jsonschema.validate(yaml.safe_load(path.read_text()), experiment_schema(), cls=jsonschema.Draft202012Validator)


def test_the_schema_knows_every_fault_and_refuses_unknown_keys() -> None:
    """A file that the reader refuses is refused by the schema too."""
    schema = experiment_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"title": "t", "target": "t", "expect": [{"failed": {"max": 0}}]}
    for name in FAULTS:
        jsonschema.validate({**good, "faults": [{name: dict(FAULTS[name].example)}]}, schema)
    wrong: list[dict[str, Any]] = [{"faults": [{"latncy": {}}]}, {"sede": 1}, {"expect": [{"flawless": {}}]}]
    for bad in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **bad}, schema)
