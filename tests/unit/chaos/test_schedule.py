"""Timelines: what follows what, what waits for what, groups, chance within bounds, and the blast radius."""

import json
from pathlib import Path

import pytest

from chaos.errors import ExperimentError
from chaos.planner import Occurrence, Plan, plan
from chaos.schedule import BlastRadius, Reaching, When
from chaos.timeline import render_plan
from tests.unit.chaos.experiments import HEAD, ROLES, experiment

NAMES = {"reading": ["depth", "stage", "leader.portal"]}


def planned(folder: Path, faults: str, seed: int = 1, head: str = HEAD) -> Plan:
    """The plan of these faults on four portals in two zones, in a phase of 30 s."""
    return plan(experiment(folder, faults, head), ROLES, seed, probe_path="/", names=NAMES)


def told(folder: Path, faults: str, head: str = HEAD) -> str:
    """The only problem of an experiment, without the folder's name."""
    with pytest.raises(ExperimentError) as caught:
        planned(folder, faults, head=head)
    (problem,) = caught.value.problems
    return problem.removeprefix(f"{folder}/experiment.yaml:")


def by_id(found: Plan) -> dict[str, Occurrence]:
    """The occurrences of a plan."""
    return {one.fault_id: one for one in found.timeline}


def test_what_comes_after_another_fault_is_planned_from_its_heal_or_its_beginning(tmp_path: Path) -> None:
    """A kill at 5 s of 3 s; one thing 2 s after its heal, another when its effect shows."""
    text = """\
  - kill: {role: portal, instance: portal-1, restart_after: 3s}
    at: 5s
  - pause: {role: portal, instance: portal-1, for: 1s}
    after: kill
    at: 2s
  - stop: {role: portal, instance: portal-2}
    after: {effect: kill}
"""
    found = planned(tmp_path, text)
    of_id = by_id(found)

    assert {name: one.at_s for name, one in of_id.items()} == {"kill-1": 5, "stop-1": 5, "pause-1": 10}
    stored = {one["fault_id"]: one for one in json.loads(json.dumps(found.to_json()))["timeline"]}
    assert stored["pause-1"]["after"] == {"faults": ["kill-1"], "moment": "healed", "delay_s": 2}
    assert stored["stop-1"]["after"] == {"faults": ["kill-1"], "moment": "effect", "delay_s": 0}
    assert "after" not in stored["kill-1"]
    assert "pause-1      portal-1  (after kill-1 healed, by 10 s; healed after 1 s)" in render_plan(found)


def test_what_follows_a_repeated_fault_plays_each_time_and_may_have_the_same_victim(tmp_path: Path) -> None:
    """Healed is healed: the only db is free again, though 1 s have not passed."""
    text = """\
  - kill: {role: db, all: true, restart_after: 1s}
    as: first
    every: 10s
  - pause: {role: db, all: true, for: 1s}
    after: first
"""
    found = planned(tmp_path, text)

    assert [(one.fault_id, one.at_s) for one in found.timeline] == [
        ("kill-1", 0),
        ("pause-1", 1),
        ("kill-2", 10),
        ("pause-2", 11),
        ("kill-3", 20),
        ("pause-3", 21),
    ]
    assert {one.instances for one in found.timeline} == {("db-1",)}


def test_a_sequence_plays_one_after_the_other_and_a_parallel_group_at_once(tmp_path: Path) -> None:
    """The second of a sequence begins 2 s after the first is healed; a group can be followed by its name."""
    text = """\
  - sequence:
      - kill: {role: portal, restart_after: 3s}
      - pause: {role: portal, for: 1s}
        at: 2s
    at: 4s
    every: 12s
  - parallel:
      - stop: {role: portal, restart_after: 2s}
      - kill: {role: db, all: true, restart_after: 1s}
        at: 500ms
    as: both
  - pause: {role: db, all: true, for: 1s}
    after: both
"""
    found = by_id(planned(tmp_path, text))

    assert {name: one.at_s for name, one in found.items()} == {
        "stop-1": 0,
        "kill-1": 0.5,
        "pause-1": 2,
        "kill-2": 4,
        "pause-2": 9,
        "kill-3": 16,
        "pause-3": 21,
    }
    assert found["pause-1"].trigger is not None
    assert found["pause-1"].trigger.to_json()["after"]["faults"] == ["stop-1", "kill-1"]
    assert found["pause-2"].trigger is not None
    assert found["pause-2"].trigger.to_json()["after"] == {"faults": ["kill-2"], "moment": "healed", "delay_s": 2}


def test_chance_keeps_its_bounds_and_follows_the_seed(tmp_path: Path) -> None:
    """Three moments in the ten seconds from the fifth on, over many seeds."""
    text = "  - pause: {role: portal, for: 1s}\n    at: 5s\n    random: {times: 3, within: 10s}\n"
    seen = [[one.at_s for one in planned(tmp_path, text, seed).timeline] for seed in range(30)]

    assert all(len(one) == 3 and one == sorted(one) and 5 <= one[0] <= one[-1] <= 15 for one in seen)
    assert len({tuple(one) for one in seen}) == 30
    assert seen[3] == [one.at_s for one in planned(tmp_path, text, 3).timeline]


def test_what_waits_for_a_reading_keeps_its_victims_free_for_as_long_as_it_may_come(tmp_path: Path) -> None:
    """Within 10 s and 1 s later for 2 s: until 14 s with the second to settle, nobody else may take the db."""
    kill = "  - kill: {role: db, all: true, restart_after: 2s}\n    at: 1s\n"
    waits = f"{kill}    when: {{observe: depth, above: 10, within: 10s}}\n"
    one = planned(tmp_path, waits).timeline[0]

    assert (one.at_s, one.latest_s) == (1, 11)
    assert one.to_json()["when"] == {"observe": "depth", "above": 10, "within_s": 10, "delay_s": 1}
    assert "pause" in told(tmp_path, waits + "  - pause: {role: db, all: true, for: 1s}\n    at: 13500ms\n")
    assert len(planned(tmp_path, waits + "  - pause: {role: db, all: true, for: 1s}\n    at: 14s\n").timeline) == 2
    assert planned(tmp_path, waits.replace(", within: 10s", "")).timeline[0].latest_s == 28


def test_a_leader_is_chosen_among_the_whole_role_and_needs_its_reading(tmp_path: Path) -> None:
    """Nobody else may take a portal meanwhile; the reading stands among what is required."""
    leader = "  - kill: {role: portal, leader: leader.portal}\n"
    found = planned(tmp_path, leader)

    assert found.timeline[0].instances == ("portal-1", "portal-2", "portal-3", "portal-4")
    assert found.requires.readings == ("leader.portal",)
    assert "only 0 of 4 are free" in told(tmp_path, leader + "  - pause: {role: portal}\n    at: 1s\n")
    held = "  - pause: {role: portal, instance: portal-3}\n"
    assert "known only then, and portal-3 would be in other hands" in told(tmp_path, f"{held}{leader}    at: 1s\n")
    assert "no reading 'boss'" in told(tmp_path, "  - kill: {role: portal, leader: boss}\n")
    assert "leader exclude" in told(tmp_path, "  - kill: {role: portal, zone: a, leader: stage}\n")


@pytest.mark.parametrize(
    ("radius", "faults", "wanted"),
    [
        ("{instances: 2}", "  - kill: {role: portal, count: 2}\n", None),
        (
            "{instances: 2}",
            "  - kill: {role: portal, count: 3}\n",
            "8: faults.0.kill: at 0 s of the phase: with it 3 of 4",
        ),
        (
            "{percent: 50%}",
            "  - kill: {role: portal}\n  - pause: {role: portal, count: 2}\n    at: 1s\n",
            "9: faults.1.pause: ",
        ),
        ("{percent: 50%}", "  - kill: {role: portal}\n  - pause: {role: portal, count: 2}\n    at: 5s\n", None),
        ("{percent: 50%}", "  - kill: {role: db, all: true}\n", "blast_radius allows 0"),
        ("{instances: 1}", "  - deploy: {role: portal, set: {env.A: b}}\n", None),
        ("{instances: 2}", "  - deploy: {role: portal, set: {env.A: b}, strategy: all_at_once}\n", "with it 4 of 4"),
        ("{instances: 1}", "  - kill: {role: portal, leader: stage}\n", None),
        (
            "{instances: 1}",
            (
                "  - kill: {role: portal}\n    when: {observe: depth, above: 1, within: 9s}\n"
                "  - pause: {role: portal}\n    at: 8s\n"
            ),
            "blast_radius allows 1",
        ),
        ("{}", "  - kill: {role: portal}\n", "blast_radius: give instances (such as 1), percent"),
    ],
)
def test_no_plan_takes_more_of_a_role_at_a_time_than_the_blast_radius(
    tmp_path: Path, radius: str, faults: str, wanted: str | None
) -> None:
    """Together over all faults that may overlap; deploys and leaders count as one; the percentage is rounded down."""
    head = HEAD.replace("expect:", f"blast_radius: {radius}\nexpect:")
    if wanted is None:
        assert planned(tmp_path, faults, head=head).to_json()["blast_radius"] is not None
        return
    found = told(tmp_path, faults, head)
    assert wanted in found


@pytest.mark.parametrize(
    ("faults", "wanted"),
    [
        ("  - kill: {role: portal}\n    after: pause\n", "after: no earlier entry is called 'pause'; Known: none"),
        (
            (
                "  - kill: {role: portal}\n  - kill: {role: portal}\n    at: 9s\n"
                "  - pause: {role: portal}\n    after: kill\n"
            ),
            "11: faults.2.after: 2 earlier entries are called 'kill'; give the one you mean a name: as: NAME",
        ),
        ("  - kill: {role: portal}\n    every: 9s\n    when: {observe: depth, above: 1}\n", "every and when exclude"),
        (
            "  - kill: {role: portal}\n    when: {observe: dept, above: 1}\n",
            "8: faults.0.when.observe: the target has no reading",
        ),
        ("  - kill: {role: portal}\n    when: {observe: depth}\n", "when: give exactly one of above, below, is"),
        (
            "  - kill: {role: portal}\n    when: {observe: depth, above: 1, within: 29s}\n",
            "does not fit: it may begin at 29 s",
        ),
        (
            "  - kill: {role: portal, restart_after: 16s}\n  - pause: {role: portal, for: 16s}\n    after: kill\n",
            "does not fit: it may begin at 16 s",
        ),
        (
            (
                "  - sequence:\n      - kill: {role: portal, restart_after: 16s}\n"
                "      - pause: {role: portal, for: 16s}\n"
            ),
            "faults.0.sequence: does not fit: it begins at 0 s and is healed after 32 s",
        ),
        (
            "  - sequence:\n      - kil: {role: portal}\n",
            "8: faults.0.sequence.0.kil: unknown key; did you mean 'kill'?",
        ),
        (
            "  - parallel:\n      - kill: {role: protal}\n",
            "8: faults.0.parallel.0.kill: the target has no role 'protal'",
        ),
        (
            "  - parallel:\n      - kill: {role: portal}\n        every: 5s\n",
            "9: faults.0.parallel.0.every: unknown key",
        ),
        ("  - parallel: []\n", "faults.0.parallel: expected at least 1"),
        ("  - random: {times: 2, within: 5s}\n", "faults.0: an entry names exactly one of"),
        (
            "  - kill: {role: portal}\n    random: {times: 2, within: 5}\n",
            "8: faults.0.random.within: expected a duration",
        ),
    ],
)
def test_each_mistake_is_told_with_its_line(tmp_path: Path, faults: str, wanted: str) -> None:
    """Each alone."""
    assert wanted in told(tmp_path, faults)


@pytest.mark.parametrize(
    ("when", "value", "reached"),
    [
        ({"above": 10}, 10.0, False),
        ({"above": 10}, 10.5, True),
        ({"below": 0.5}, 0.0, True),
        ({"below": 0.5}, "0", False),
        ({"is": "closed"}, "closed", True),
        ({"is": 0}, 0.0, True),
        ({"is": "1"}, 2.0, False),
    ],
)
def test_a_limit_is_reached_by_what_lies_beyond_it(when: dict[str, object], value: object, reached: bool) -> None:  # noqa: FBT001
    """Texts reach no numeric limit."""
    waits = When.model_validate({"observe": "x", **when})
    assert Reaching(entry="0", when=waits, within_s=1.0, delay_s=0.0).reached(value) is reached


def test_a_blast_radius_of_two_limits_is_the_smaller() -> None:
    """Half of five, rounded down, against three and against one."""
    assert BlastRadius(instances=3, percent=0.5).allows(5) == 2
    assert BlastRadius(instances=1, percent=0.5).allows(5) == 1
