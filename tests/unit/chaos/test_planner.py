"""The planner: a pure function of file, target and seed, in which nothing overlaps that must not."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.errors import ExperimentError
from chaos.experiment import read_experiment
from chaos.planner import Plan, plan
from chaos.timeline import render_plan
from tests.unit.chaos.experiments import HEAD, ROLES, experiment, write


def planned(folder: Path, faults: str, seed: int = 1) -> Plan:
    """The plan of these faults on four portals in two zones."""
    return plan(experiment(folder, faults), ROLES, seed, probe_path="/")


def times(of: Plan) -> list[float]:
    """When each occurrence begins."""
    return [one.at_s for one in of.timeline]


def test_repeated_faults_play_as_long_as_their_healing_fits(tmp_path: Path) -> None:
    """Every 5 s in 30 s with 3 s until the restart: the one at 30 s would not be healed in time."""
    found = planned(tmp_path, "  - kill: {role: portal, restart_after: 3s}\n    every: 5s\n")

    assert times(found) == [0, 5, 10, 15, 20, 25]
    assert [one.fault_id for one in found.timeline] == [f"kill-{n}" for n in range(1, 7)]


def test_times_and_at_bound_the_repetition(tmp_path: Path) -> None:
    """Twice from the fourth second on."""
    assert times(planned(tmp_path, "  - kill: {role: portal}\n    at: 4s\n    every: 10s\n    times: 2\n")) == [4, 14]


def test_jitter_delays_within_its_bound_and_never_beyond_the_phase(tmp_path: Path) -> None:
    """The last kill may begin at 27 s at the latest, whatever the dice say."""
    text = "  - kill: {role: portal}\n    every: 9s\n    jitter: 5s\n"
    seen = [times(planned(tmp_path, text, seed)) for seed in range(20)]

    assert all(0 <= at - start <= 5 for one in seen for at, start in zip(one, [0, 9, 18, 27], strict=True))
    assert max(one[-1] for one in seen) <= 27
    assert len({tuple(one) for one in seen}) > 10


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(tmp_path: Path) -> None:
    """Compared as the JSON that is stored."""
    text = "  - kill: {role: portal}\n    every: 5s\n    jitter: 1s\n"
    first = json.dumps(planned(tmp_path, text, 7).to_json())

    assert first == json.dumps(planned(tmp_path, text, 7).to_json())
    assert first != json.dumps(planned(tmp_path, text, 8).to_json())


def test_a_new_entry_does_not_move_the_others(tmp_path: Path) -> None:
    """Each entry has dice of its own, so that editing one part of a file leaves the rest of a timeline alone."""
    kill = "  - kill: {role: portal}\n    every: 10s\n    jitter: 2s\n"
    alone = times(planned(tmp_path, kill))
    together = planned(tmp_path, kill + "  - pause: {role: db, all: true}\n    every: 7s\n    jitter: 3s\n")

    assert [one.at_s for one in together.timeline if one.name == "kill"] == alone


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{name: shut}", None),
        ("{name: shut, for: 3s}", None),
        ("{name: close}", None),
        ("{name: close, for: 3s}", "action.for: the target does not say how 'close' is undone"),
        ("{name: shout}", "action.name: the target has no action 'shout' with an effect"),
        ("{name: shut, for: 31s}", "does not fit: it begins at 0 s and is healed after 31 s"),
    ],
)
def test_an_action_must_be_one_that_can_be_proven_and_where_asked_undone(
    tmp_path: Path, entry: str, told: str | None
) -> None:
    """`shut` has an effect and an undo, `close` only an effect."""
    experiment = read_experiment(write(tmp_path, f"{HEAD}load: {{probe: {{path: /}}}}\nfaults:\n  - action: {entry}\n"))
    names = {"action": ["shut", "close"], "undo": ["shut"]}
    if told is None:
        (one,) = plan(experiment, ROLES, 1, names=names).timeline
        assert (one.instances, one.aim) == ((), entry.strip("{}").split(",")[0].removeprefix("name: "))
        return
    with pytest.raises(ExperimentError) as caught:
        plan(experiment, ROLES, 1, names=names)
    (problem,) = caught.value.problems
    assert told in problem


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        ("count: 2", {2}),
        ("all: true", {4}),
        ("percent: 50%", {2}),
        ("percent: 60%", {2}),
        ("percent: 1%", {1}),
        ("one_per_zone: true", {2}),
        ("zone: b", {2}),
        ("zone: b, count: 1", {1}),
        ("instance: portal-3", {1}),
    ],
)
def test_selections_take_as_many_as_they_say(tmp_path: Path, selection: str, numbers: set[int]) -> None:
    """Over several seeds; a zone gives only its own."""
    for seed in range(10):
        (one,) = planned(tmp_path, f"  - kill: {{role: portal, {selection}}}\n", seed).timeline
        zones = {ROLES["portal"].zones[name] for name in one.instances}
        assert len(one.instances) in numbers
        assert list(one.instances) == sorted(one.instances)
        assert zones == {"b"} if "zone: b" in selection else zones
        assert zones == {"a", "b"} if "one_per_zone" in selection else True


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("kill: {role: protal}", "the target has no role 'protal'. Known: db, legacy, portal"),
        ("kill: {role: legacy}", "external"),
        ("kill: {role: portal, count: 5}", "has 4 instances, not 5"),
        ("kill: {role: portal, zone: c}", "nobody in zone 'c'; its zones are a, b"),
        ("kill: {role: portal, instance: portal-9}", "has no 'portal-9'"),
        ("kill: {role: db}", "takes the last db of 1 at a time; write `all: true` if it is meant"),
        ("kill: {role: portal, count: 4}", "takes the last portal of 4 at a time"),
        ("kill: {role: db, one_per_zone: true}", "one_per_zone needs zones"),
        ("kill: {role: portal, restart_after: 31s}", "does not fit: it begins at 0 s and is healed after 31 s"),
    ],
)
def test_victims_that_are_not_there_are_told_with_the_line(tmp_path: Path, entry: str, told: str) -> None:
    """Each mistake alone; the line is that of the fault."""
    with pytest.raises(ExperimentError) as caught:
        planned(tmp_path, f"  - {entry}\n")
    (problem,) = caught.value.problems
    assert told in problem
    assert "experiment.yaml:7: faults.0.kill: " in problem


def test_overlapping_faults_never_take_a_whole_role_unasked(tmp_path: Path) -> None:
    """Three are dead for 20 s; a fourth at the same time would leave nobody."""
    with pytest.raises(ExperimentError, match="takes the last portal of 4"):
        planned(
            tmp_path, "  - kill: {role: portal, count: 3, restart_after: 20s}\n  - pause: {role: portal}\n    at: 5s\n"
        )


def test_more_times_than_fit_are_an_error(tmp_path: Path) -> None:
    """Ten kills every 5 s do not fit into 30 s, and six instead of ten would be a quiet lie."""
    with pytest.raises(ExperimentError, match="only 6 of 10 fit"):
        planned(tmp_path, "  - kill: {role: portal}\n    every: 5s\n    times: 10\n")


def test_an_experiment_that_measures_nothing_is_an_error(tmp_path: Path) -> None:
    """Neither load nor a path for the prober."""
    with pytest.raises(ExperimentError, match="nothing would be measured"):
        plan(read_experiment(write(tmp_path, HEAD)), ROLES, 1)


def test_the_text_names_every_fault_with_its_time_and_victims(tmp_path: Path) -> None:
    """What a dry run prints."""
    text = render_plan(planned(tmp_path, "  - kill: {role: portal, instance: portal-2}\n    at: 1500ms\n", 9))

    assert "seed 9" in text
    assert "1.500 s  kill-1       portal-2  (healed after 3 s)" in text
    assert "failed: {max: 0}" in text


SELECTIONS = st.sampled_from(["count: 1", "count: 2", "percent: 50%", "one_per_zone: true", "zone: a", "all: true"])
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["kill", "pause", "stop"]),
        SELECTIONS,
        st.integers(0, 20),
        st.integers(1, 12),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(entries=ENTRIES, seed=st.integers(0, 2**32))
def test_in_every_plan_no_instance_has_two_faults_at_once_and_all_are_healed_in_time(
    entries: list[tuple[str, str, int, int, int]], seed: int
) -> None:
    """Any mix of faults either is refused or keeps the rules."""
    faults = "".join(
        f"  - {name}: {{role: portal, {selection}}}\n    at: {at}s\n    every: {every}s\n    jitter: {jitter}s\n"
        for name, selection, at, every, jitter in entries
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = planned(Path(folder), faults, seed)
        except ExperimentError:
            return
    spans = [
        (name, one.at_s, one.at_s + (one.fault.heal_after_s or 0)) for one in found.timeline for name in one.instances
    ]
    assert all(0 <= start <= end <= 30 + 1e-6 for _, start, end in spans)
    for number, (name, start, end) in enumerate(spans):
        for other, other_start, other_end in spans[number + 1 :]:
            assert name != other or end <= other_start or other_end <= start


EXPECT = """\
title: a test
target: topology.yaml
expect:
  - sometimes: {during: kil, operation: redeem}
  - sometimes: {during: kill, operation: redeem}
  - observed: {reading: retrys, increase: {min: 1}}
  - ledger: {balanced: true}
  - exactly_once: {operations: [redeem], dump: bookings}
"""


def test_what_expectations_name_has_to_exist(tmp_path: Path) -> None:
    """Readings and dumps are the target's, faults the experiment's own: every typo, with its line and a suggestion."""
    faults = "  - kill: {role: portal}\n"
    with pytest.raises(ExperimentError) as raised:
        plan(
            experiment(tmp_path, faults, EXPECT),
            ROLES,
            1,
            probe_path="/",
            names={"reading": ["retries"], "dump": ["booking"]},
        )

    assert [text.removeprefix(f"{tmp_path / 'experiment.yaml'}:") for text in raised.value.problems] == [
        "4: expect.0.sometimes.during: this experiment has no fault 'kil'; did you mean 'kill'? Known: kill",
        "6: expect.2.observed.reading: the target has no reading 'retrys'; did you mean 'retries'? Known: retries",
        "7: expect.3.ledger.dump: the target has no dump 'ledger'; Known: booking",
        "8: expect.4.exactly_once.dump: the target has no dump 'bookings'; did you mean 'booking'? Known: booking",
    ]


LOAD = """\
load: {{locustfile: experiment.yaml, arrivals: {{rate: 50/s, surge: {{to: 10x, at: {at}, rise: 1s, for: 20s}}}}}}
"""


def test_a_surge_is_planned_from_the_start_of_its_phase(tmp_path: Path) -> None:
    """Warm-up and baseline last 1 s each: the surge that begins 5 s into the faults is at 7 s; the dry run says so."""
    text = HEAD + LOAD.format(at="faults+5s") + "faults:\n  - kill: {role: portal}\n"
    found = plan(read_experiment(write(tmp_path, text)), ROLES, 1)
    points = [[0.0, 50.0], [7.0, 50.0], [8.0, 500.0], [27.0, 500.0], [27.0, 50.0]]
    assert found.to_json()["load"]["arrivals"] == {"points": points, "spacing": "even"}
    assert "50/s, 7 s to 8 s: to 500/s, at 27 s: to 50/s by " in render_plan(found)


def test_a_surge_that_does_not_fit_is_told_with_its_line_beside_the_faults_problems(tmp_path: Path) -> None:
    """The load ends after 33 s; the kill names no role of the target."""
    text = HEAD + LOAD.format(at="faults+20s") + "faults:\n  - kill: {role: portals}\n"
    with pytest.raises(ExperimentError) as caught:
        plan(read_experiment(write(tmp_path, text)), ROLES, 1)
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 2
    assert "experiment.yaml:6: load.arrivals.surge: lasts until 42 s, but the load ends after 33 s" in told[0]
