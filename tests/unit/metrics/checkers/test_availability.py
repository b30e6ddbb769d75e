from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import Folder, probes, savings

LOST = "\n".join(f"deposit x{one} 5 @5.5 +0.01 fail !refused" for one in range(2))


def _judged(folder: Folder, **parameters: Any) -> Finding:
    return parse_expectation({"availability": parameters}).judge(folder.evidence())


def test_a_limit_just_met_passes(tmp_path: Path) -> None:
    """1,998 of 2,000 is 99.9 % to the last bit of a float, and one more failure is less."""
    clients = savings(1998)

    assert (
        _judged(Folder(path=tmp_path / "a", clients=f"{clients}\n{LOST}"), min="99.9%", by="request").grade
        is Grade.PASS
    )
    worse = f"{clients}\n{LOST}\ndeposit y 5 @6 +0.1 info"
    assert _judged(Folder(path=tmp_path / "b", clients=worse), min="99.9%", by="request").grade is Grade.FAIL


def test_one_second_with_a_lost_probe_is_a_bad_second(tmp_path: Path) -> None:
    """Nine seconds are judged; one probe is lost in each of two of them."""
    finding = _judged(Folder(path=tmp_path, probes=probes((4.0, 4.02), (6.5, 6.52))), min="70%", by="time")

    assert finding.value == pytest.approx(7 / 9)
    assert finding.witness[0]["seconds"] == {"good": 7, "bad": 2, "blind": 0}


def test_both_answers_are_given_and_the_lower_one_decides(tmp_path: Path) -> None:
    """All requests are answered while one second of nine is bad."""
    finding = _judged(Folder(path=tmp_path, probes=probes((4.0, 4.02))), min="99%")

    assert finding.grade is Grade.FAIL
    assert "100.0000% by request" in finding.detail
    assert "88.8889% by time" in finding.detail


def test_seconds_without_a_probe_are_unknown_and_not_good(tmp_path: Path) -> None:
    """The prober is silent for two seconds."""
    finding = _judged(Folder(path=tmp_path, probes=probes(end=4.0) + "\n" + probes(start=6.0)), min="50%", by="time")

    assert finding.grade is Grade.UNKNOWN
    assert finding.witness[0]["seconds"]["blind"] == 2


def test_without_any_request_nothing_is_available(tmp_path: Path) -> None:
    """No client at all."""
    assert _judged(Folder(path=tmp_path, clients=""), min="1%").grade is Grade.UNKNOWN
