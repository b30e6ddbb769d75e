"""Swarm files: what they draw stays within their limits and can always be played; what is wrong is told with lines."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.cli import execute
from chaos.errors import ExperimentError
from chaos.swarm.drawing import most_at_once
from chaos.swarm.file import read_swarm, spans_of, swarm_schema
from metrics.units import parse_duration

SYSTEM = Path(__file__).parents[3] / "integration" / "engine" / "system" / "topology.yaml"
HEAD = f"""\
title: some faults
target: {SYSTEM}
swarm: {{at_once: 2, in_all: 5, state: stage, states: [open, closed]}}
phases: {{warmup: 1s, baseline: 1s, faults: 8s, recovery: 1s}}
expect:
  - longest_gap: {{max: 1s}}
  - recovery: {{max: 2s}}
"""
FAULTS = """\
faults:
  - kill: {role: {any_of: [portal, front]}, all: true, restart_after: {between: [1s, 3s]}}
  - kill: {role: portal, count: {between: [1, 3]}, restart_after: 1s}
  - pause: {role: portal, zone: {any_of: [a, b]}, for: {between: [500ms, 2500ms]}}
  - slow: {role: portal, by: {between: [20%, 80%]}, for: 2s}
  - action: {name: maintenance.start, for: {between: [1s, 2s]}}
"""


def write(folder: Path, text: str) -> Path:
    """The file `swarm.yaml` with this text."""
    path = folder / "swarm.yaml"
    path.write_text(text)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**40))
def test_what_is_drawn_is_within_the_limits_and_is_the_same_for_the_same_seed(tmp_path: Path, seed: int) -> None:
    """`experiment` plans what it has drawn, which raises if that cannot be played; every number is looked at."""
    swarm = read_swarm(write(tmp_path, HEAD + FAULTS))

    ready, drawn = swarm.experiment(seed)

    assert swarm.experiment(seed)[0].plan == ready.plan
    assert 1 <= len(drawn) <= 5
    assert len(ready.plan.timeline) == len(drawn)
    assert [one.name for one in ready.plan.timeline] == [one.kind.name for one in drawn]
    spans = spans_of(ready.plan)
    assert most_at_once(spans) <= 2
    assert all(begins_s >= 0 and ends_s <= 8 for begins_s, ends_s in spans)
    for one in ready.plan.timeline:
        if one.name == "kill":
            assert 1 <= parse_duration(one.params["restart_after"]) <= 3
            assert one.params.get("all") or one.params["count"] in {1, 2, 3}
        if one.name == "pause":
            assert one.params["zone"] in {"a", "b"}
            assert 0.5 <= parse_duration(one.params["for"]) <= 2.5


def test_seeds_draw_every_fault_and_faults_together(tmp_path: Path) -> None:
    """Of thirty seeds each of the five faults is drawn at least once, and most have two in force at a time."""
    swarm = read_swarm(write(tmp_path, HEAD + FAULTS))
    drawn = [swarm.experiment(seed) for seed in range(30)]

    assert {one.kind.label for _, faults in drawn for one in faults} == {kind.label for kind in swarm.kinds}
    assert sum(most_at_once(spans_of(ready.plan)) == 2 for ready, _ in drawn) > 10


def test_a_drawn_experiment_means_the_same_in_any_folder(tmp_path: Path) -> None:
    """Its text has absolute paths, so that it can be run, replayed and mailed."""
    (tmp_path / "system").symlink_to(SYSTEM.parent)
    swarm = read_swarm(write(tmp_path, (HEAD + FAULTS).replace(str(SYSTEM), "system/topology.yaml")))

    ready, _ = swarm.experiment(3)

    assert yaml.safe_load(ready.experiment.written.document.text)["target"] == str(SYSTEM.resolve())


def test_what_is_asked_during_a_fault_is_asked_only_where_it_was_drawn(tmp_path: Path) -> None:
    """An expectation on `pause` would be a mistake in an experiment without one."""
    text = HEAD.replace("  - recovery: {max: 2s}", "  - sometimes: {during: pause, operation: probe}") + FAULTS
    swarm = read_swarm(write(tmp_path, text))

    for seed in range(12):
        ready, drawn = swarm.experiment(seed)
        assert ("sometimes" in str(ready.plan.expect)) == any(one.kind.name == "pause" for one in drawn)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("between: [1s, 3s]", "between: [3s, 1s]", "swarm.yaml:9: faults.0.kill.restart_after: between goes from the"),
        ("between: [1s, 3s]", "between: [1s, 20%]", "takes two quantities of one kind"),
        ("between: [1s, 3s]", "between: [1s]", "between takes two values"),
        ("any_of: [a, b]", "any_of: [a, z]", "swarm.yaml:11: faults.2.pause: role 'portal' has nobody in zone 'z'"),
        ("any_of: [a, b]", "any_of: []", "takes a list of values"),
        ("any_of: [a, b]", "any_of: [a], between: [a, b]", "either between or any_of"),
        ("between: [500ms, 2500ms]", "between: [500ms, 25s]", "may last 25 s, but the phase faults lasts 8 s"),
        ("between: [1, 3]", "between: [1, 9]", "swarm.yaml:10: faults.1.kill: role 'portal' has 4 instances, not 9"),
        ("  - slow:", "  - slwo:", "swarm.yaml:12: faults.3.slwo: unknown key; did you mean 'slow'?"),
        (
            "restart_after: 1s}",
            "restart_after: 1s}\n    at: 3s",
            "swarm.yaml:11: faults.1.at: when a fault plays is drawn",
        ),
        ("at_once: 2", "at_onec: 2", "swarm.yaml:3: swarm.at_onec: unknown key; did you mean 'at_once'?"),
        ("at_once: 2", "at_once: 0", "swarm.at_once: expected at least 1, got 0"),
        ("state: stage", "state: stag", "the target has no reading 'stag'; did you mean 'stage'?"),
        ("title: some faults", "title: some faults\nseed: 3", "swarm.yaml:2: seed: a swarm has many seeds"),
        ("max: 1s}", "max: 1}", "swarm.yaml:6: expect.0.longest_gap.max: expected a duration"),
        ("faults: 8s", "faults: 8", "swarm.yaml:4: phases.faults: expected a duration"),
        ("name: maintenance.start", "name: maintenance.stat", "did you mean 'maintenance.start'?"),
    ],
)
def test_mistakes_are_told_with_their_line_and_nothing_is_started(
    tmp_path: Path, old: str, new: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One mistake each, alone in what is told; through the command, as a user meets it."""
    text = HEAD + FAULTS
    assert old in text
    path = write(tmp_path, text.replace(old, new, 1))

    assert execute(["swarm", str(path), "--out", str(tmp_path / "runs")]) == 64

    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1, said
    assert not (tmp_path / "runs").exists()


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    """Of the file's head, of a range, of a fault, of an expectation."""
    text = (HEAD + FAULTS).replace("at_once: 2", "at_once: no").replace("[1s, 3s]", "[3s, 1s]")
    text = text.replace("any_of: [a, b]", "any_of: [a, z]").replace("max: 1s}", "max: 1}")

    with pytest.raises(ExperimentError) as caught:
        read_swarm(write(tmp_path, text))

    assert [problem.split(":")[1] for problem in caught.value.problems] == ["3", "6", "9", "11"]


def test_the_schema_takes_what_is_valid_and_refuses_what_is_not(tmp_path: Path) -> None:
    """Against the file above; `validate` and `schema` know it as a swarm."""
    schema = swarm_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(HEAD + FAULTS), schema)
    for wrong in ("between: [1s]", "betwen: [1s, 3s]"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load((HEAD + FAULTS).replace("between: [1s, 3s]", wrong)), schema)
    assert json.loads(json.dumps(schema)) == schema
    assert execute(["validate", str(write(tmp_path, HEAD + FAULTS))]) == 0
    assert execute(["schema", "swarm"]) == 0
