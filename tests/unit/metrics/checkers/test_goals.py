"""Goals that a run must reach to mean anything: sometimes, replays, versions, spread, and readings."""

from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import Folder, event, savings


def _judged(folder: Folder, **entry: Any) -> Finding:
    return parse_expectation(entry).judge(folder.evidence())


@pytest.mark.parametrize(
    ("line", "grade"),
    [
        ("redeem r 1 @4.5 +0.1 ok", Grade.PASS),
        ("redeem r 1 @3.9 +0.2 ok", Grade.PASS),  # under way when the fault came
        ("redeem r 1 @3.9 +0.05 ok", Grade.UNKNOWN),
        ("redeem r 1 @5.1 +0.1 ok", Grade.UNKNOWN),
        ("redeem r 1 @4.5 +0.1 info", Grade.UNKNOWN),
        ("", Grade.UNKNOWN),
    ],
)
def test_sometimes_wants_a_success_that_met_the_fault(tmp_path: Path, line: str, grade: Grade) -> None:
    """The fault is in force from 4 to 5 s."""
    folder = Folder(path=tmp_path, clients=f"{savings()}\n{line}")

    assert _judged(folder, sometimes={"during": "kill", "operation": "redeem"}).grade is grade


def test_sometimes_counts_only_the_fault_that_was_named(tmp_path: Path) -> None:
    """A kill is no pause."""
    finding = _judged(Folder(path=tmp_path), sometimes={"during": "pause", "operation": "deposit"})

    assert finding.grade is Grade.UNKNOWN
    assert "0 faults called 'pause'" in finding.detail


def test_sometimes_counts_nothing_that_met_a_fault_whose_effect_nobody_saw(tmp_path: Path) -> None:
    """The same kill, looked at without success: what was done meanwhile may have met a healthy service."""
    told: dict[str, Any] = {"fault": "kill", "instances": ["portal-2"], "params": {}}
    unproven = [
        event(4, "fault.injected", fault_id="kill-1", **told),
        event(4.1, "fault.effect", fault_id="kill-1", proven=False, evidence={}),
        event(5, "fault.healed", fault_id="kill-1"),
        event(5.1, "fault.heal_proven", fault_id="kill-1", proven=True, evidence={}),
    ]
    finding = _judged(
        Folder(path=tmp_path, fault_events=unproven), sometimes={"during": "kill", "operation": "deposit"}
    )

    assert (finding.grade, finding.value) == (Grade.UNKNOWN, 0)
    assert "in 0 faults called 'kill'" in finding.detail


def test_replays_counts_answers_that_say_so(tmp_path: Path) -> None:
    """Two stored answers; a goal of three is not reached, which is no failure."""
    folder = Folder(path=tmp_path, clients=savings() + "\ndeposit a 1 @4 +0.1 ok replayed x2\n" * 2)

    assert _judged(folder, replays={"min": 2}).grade is Grade.PASS
    assert _judged(folder, replays={"min": 3}).grade is Grade.UNKNOWN


def test_versions_counts_what_answered_during_the_faults(tmp_path: Path) -> None:
    """v2 answers in the faults phase, v3 only in recovery."""
    more = (
        "\ndeposit x 1 @5 +0.1 ok portal-1@v2\ndeposit y 1 @9 +0.1 ok portal-1@v3\ndeposit z 1 @5 +0.1 info portal-1@v4"
    )
    finding = _judged(Folder(path=tmp_path, clients=savings() + more), versions={"min": 3})

    assert (finding.value, finding.grade) == (2, Grade.UNKNOWN)
    assert _judged(Folder(path=tmp_path, clients=savings() + more), versions={"min": 2}).grade is Grade.PASS


def test_spread_counts_instances_whatever_their_version(tmp_path: Path) -> None:
    """Four portals answer."""
    assert _judged(Folder(path=tmp_path), spread={"min": 4}).grade is Grade.PASS
    assert _judged(Folder(path=tmp_path), spread={"min": 5}).grade is Grade.UNKNOWN


READINGS = [(1.0, "retries", 5), (2.99, "retries", 5), (3.0, "retries", 5), (7.99, "retries", 2), (9.9, "retries", 6)]


def test_an_increase_survives_a_counter_that_restarts(tmp_path: Path) -> None:
    """5, 5, 5, 2, 6: the step down is a restart; the counter grew by 4 at least."""
    folder = Folder(path=tmp_path, readings=READINGS)

    assert _judged(folder, observed={"reading": "retries", "increase": {"min": 4}}).value == 4
    assert _judged(folder, observed={"reading": "retries", "increase": {"min": 5}}).grade is Grade.FAIL
    assert _judged(folder, observed={"reading": "retries", "increase": {"max": 3}}).grade is Grade.FAIL
    within = {"reading": "retries", "increase": {"min": 1}, "phase": "baseline"}
    assert _judged(folder, observed=within).grade is Grade.FAIL


def test_the_last_value_is_compared_as_number_or_text(tmp_path: Path) -> None:
    """At the end of the run, or of one phase."""
    stages = [(1.0, "stage", "open"), (7.9, "stage", "closed"), (9.9, "stage", "open")]
    folder = Folder(path=tmp_path, readings=[*READINGS, *stages])

    assert _judged(folder, observed={"reading": "stage", "last": {"is": "open"}}).grade is Grade.PASS
    assert (
        _judged(folder, observed={"reading": "stage", "last": {"is": "closed"}, "phase": "faults"}).grade is Grade.PASS
    )
    assert _judged(folder, observed={"reading": "stage", "last": {"min": 1}}).grade is Grade.FAIL
    assert _judged(folder, observed={"reading": "retries", "last": {"max": 6, "min": 6}}).grade is Grade.PASS


@pytest.mark.parametrize("values", [[], [3], [3, None], [3, "many"], [True, 4]])
def test_readings_that_tell_no_growth_are_unknown(tmp_path: Path, values: list[Any]) -> None:
    """Never read, read once, or no number."""
    readings = [(1.0 + at, "retries", value) for at, value in enumerate(values)]
    finding = _judged(Folder(path=tmp_path, readings=readings), observed={"reading": "retries", "increase": {"min": 0}})

    assert finding.grade is Grade.UNKNOWN
