from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import KILL, Folder, probes, savings

TWICE: list[dict[str, Any]] = [KILL, {**KILL, "fault_id": "kill-2", "at_s": 3.0}]


def _judged(folder: Folder, limit: str = "500ms", **more: str) -> Finding:
    return parse_expectation({"recovery": {"max": limit, **more}}).judge(folder.evidence())


def test_a_fault_that_nobody_felt_took_no_time(tmp_path: Path) -> None:
    """Every probe and request is good."""
    finding = _judged(Folder(path=tmp_path))

    assert (finding.grade, finding.value) == (Grade.PASS, 0)


@pytest.mark.parametrize(("until", "grade"), [(4.4, Grade.PASS), (4.6, Grade.FAIL)])
def test_recovery_lasts_until_the_first_good_one_after_the_last_bad(tmp_path: Path, until: float, grade: Grade) -> None:
    """The fault comes at 4; probes are lost until a known moment, with good requests in between."""
    finding = _judged(Folder(path=tmp_path, probes=probes((4.0, 4.1), (4.2, until))))

    assert finding.value == pytest.approx(until - 4.0, abs=0.05)
    assert finding.grade is grade


def test_each_fault_has_its_own_window(tmp_path: Path) -> None:
    """Failures after the second of two faults are not the first's."""
    folder = Folder(path=tmp_path, timeline=TWICE, probes=probes((4.0, 4.1), (6.0, 6.3)))
    told = {one["fault_id"]: one["recovery_s"] for one in _judged(folder, limit="1s").witness}

    assert told == {"kill-1": pytest.approx(0.1, abs=0.05), "kill-2": pytest.approx(0.3, abs=0.05)}


def test_what_the_next_fault_hurt_is_not_blamed_on_the_one_before(tmp_path: Path) -> None:
    """Asked 10 ms before the second fault, lost 30 ms later: the first fault was long over and stays so."""
    folder = Folder(path=tmp_path, timeline=TWICE, clients=savings() + "\ndeposit hit 1 @5.99 +0.04 info !reset")
    told = {one["fault_id"]: one["bad"] for one in _judged(folder, limit="1s").witness}

    assert told == {"kill-1": 0, "kill-2": 1}


def test_what_was_late_already_when_the_next_fault_came_is_blamed_on_the_one_before(tmp_path: Path) -> None:
    """Asked right after the first fault and lost only after the second: the first one's doing as well."""
    folder = Folder(path=tmp_path, timeline=TWICE, clients=savings() + "\ndeposit hit 1 @4.1 +2.5 info !timeout")
    told = {one["fault_id"]: one["bad"] for one in _judged(folder, limit="1s").witness}

    assert told == {"kill-1": 1, "kill-2": 1}


def test_late_answers_are_bad_service(tmp_path: Path) -> None:
    """An answer after 600 ms, wanted 800 ms after the fault, is late; with a limit of 1 s for late it is not."""
    folder = Folder(path=tmp_path, clients=savings() + "\ndeposit slow 1 @4.8 +0.6 ok")

    assert _judged(folder).grade is Grade.FAIL
    assert _judged(folder, late="1s").value == 0


def test_what_was_under_way_when_the_fault_came_was_hurt_by_it(tmp_path: Path) -> None:
    """Wanted 10 ms before the injection, lost 400 ms after: felt, and good again with the next request."""
    finding = _judged(Folder(path=tmp_path, clients=savings() + "\ndeposit hit 1 @3.99 +0.41 info !reset"))

    assert finding.witness[0]["bad"] == 1
    assert 0 < (finding.witness[0]["recovery_s"] or 0) < 0.05
    assert finding.witness[0]["first_error_s"] == pytest.approx(0.4)


def test_a_service_that_never_comes_back_fails(tmp_path: Path) -> None:
    """Bad from the fault to the end: the limit of 2 s lies within the window."""
    clients = savings(60, end=4.0)
    finding = _judged(Folder(path=tmp_path, clients=clients, probes=probes((4.0, 10.0))), limit="2s")

    assert finding.grade is Grade.FAIL
    assert not finding.witness[0]["recovered"]


def test_a_window_shorter_than_the_limit_cannot_tell(tmp_path: Path) -> None:
    """Bad until the next fault comes 2 s later, with a limit of 3 s: nobody saw whether it would have been met."""
    clients = savings(60, end=4.0) + "\n" + savings(60, start=6.0)
    folder = Folder(path=tmp_path, timeline=TWICE, clients=clients, probes=probes((4.0, 6.0)))

    assert _judged(folder, limit="3s").grade is Grade.UNKNOWN


def test_without_a_fault_there_is_nothing_to_recover_from(tmp_path: Path) -> None:
    """No injection, no verdict."""
    assert _judged(Folder(path=tmp_path, timeline=[])).grade is Grade.UNKNOWN


def test_a_prober_that_fell_silent_leaves_recovery_unknown(tmp_path: Path) -> None:
    """It asked nothing for two seconds after the fault, in which the service may have been down."""
    asked = probes(end=4.0) + "\n" + probes(start=6.0)

    assert "the prober was silent" in _judged(Folder(path=tmp_path, probes=asked)).detail
    assert _judged(Folder(path=tmp_path / "again", probes=asked)).grade is Grade.UNKNOWN


def test_without_a_planned_prober_the_requests_alone_show_recovery(tmp_path: Path) -> None:
    """The plan says that nobody probes."""
    assert _judged(Folder(path=tmp_path, probes="", probe=None)).grade is Grade.PASS
