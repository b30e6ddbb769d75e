from pathlib import Path

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import Folder, probes


def _judged(folder: Folder, limit: str) -> Finding:
    return parse_expectation({"downtime": {"max": limit}}).judge(folder.evidence())


@pytest.mark.parametrize(
    ("limit", "grade"), [("650ms", Grade.PASS), ("600ms", Grade.UNKNOWN), ("470ms", Grade.FAIL), ("0", Grade.FAIL)]
)
def test_downtime_is_known_within_bounds_and_judged_by_them(tmp_path: Path, limit: str, grade: Grade) -> None:
    """Rows of 10, 15, 1 and 2 lost probes, one each 20 ms; k in a row mean (k-1)*d to (k+1)*d.

    At least 180 + 280 + 0 + 20 = 480 ms and at most 220 + 320 + 40 + 60 = 640 ms: a limit on each side and between.
    """
    finding = _judged(Folder(path=tmp_path, probes=probes((4.0, 4.2), (6.0, 6.3), (7.0, 7.02), (7.5, 7.54))), limit)

    assert finding.value == pytest.approx(0.64)
    assert sum(one["bounds_s"][0] for one in finding.witness) == pytest.approx(0.48)
    assert finding.grade is grade


def test_no_lost_probe_is_no_downtime(tmp_path: Path) -> None:
    """The limit 0 can be kept."""
    assert _judged(Folder(path=tmp_path), "0").grade is Grade.PASS


def test_outages_near_to_one_another_are_one_event(tmp_path: Path) -> None:
    """Two outages half a second apart and one two seconds later: three outages, two events."""
    finding = _judged(Folder(path=tmp_path, probes=probes((4.0, 4.1), (4.6, 4.7), (7.0, 7.1))), "1s")

    assert "3 outages (2 events)" in finding.detail
    assert len(finding.witness) == 3


@pytest.mark.parametrize(
    ("limit", "grade"), [("130ms", Grade.PASS), ("100ms", Grade.UNKNOWN), ("70ms", Grade.FAIL), ("0", Grade.FAIL)]
)
def test_a_freeze_of_the_machine_excuses_only_its_own_time(tmp_path: Path, limit: str, grade: Grade) -> None:
    """Probes are lost for 280 to 320 ms, of which the machine was frozen for 200 ms: 80 to 120 ms remain."""
    finding = _judged(Folder(path=tmp_path, probes=probes((4.0, 4.3)), hiccups=[(4.25, 0.2)]), limit)

    assert finding.value == pytest.approx(0.12)
    assert finding.witness[0]["bounds_s"] == pytest.approx([0.08, 0.12])
    assert finding.witness[0]["stalled_s"] == pytest.approx(0.2)
    assert finding.grade is grade


def test_a_short_freeze_does_not_excuse_a_long_outage(tmp_path: Path) -> None:
    """Down for 5 s, frozen for 50 ms of it."""
    finding = _judged(Folder(path=tmp_path, probes=probes((3.5, 8.5)), hiccups=[(4.25, 0.05)]), "1s")

    assert finding.grade is Grade.FAIL


def test_an_outage_that_a_freeze_explains_is_left_out(tmp_path: Path) -> None:
    """Every lost probe lies in the freeze, and so does the time to its neighbours: nothing remains of it."""
    finding = _judged(Folder(path=tmp_path, probes=probes((4.0, 4.3)), hiccups=[(4.35, 0.4)]), "0")

    assert (finding.grade, finding.value) == (Grade.PASS, 0)
