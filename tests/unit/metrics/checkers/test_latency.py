import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.checkers import ExpectationError, parse_expectation
from metrics.checkers.latency import needed, percentiles
from metrics.findings import Finding, Grade
from tests.run_folders import Folder, savings


def _judged(folder: Folder, **limits: str) -> Finding:
    return parse_expectation({"latency": limits}).judge(folder.evidence())


def test_latency_counts_from_the_intended_start(tmp_path: Path) -> None:
    """An operation starts 1 s late and then takes 5 ms: it took 1.005 s."""
    finding = _judged(Folder(path=tmp_path, clients=savings() + "\ndeposit late 1 @5 ~6 +0.005 ok"), max="1s")

    assert finding.grade is Grade.FAIL
    assert finding.value == pytest.approx(1.005)
    assert finding.witness[0]["key"] == "late"


def test_failures_count_with_their_time_and_missing_answers_as_endless(tmp_path: Path) -> None:
    """A timeout of 2 s is the maximum; without any answer there is no number that could be within a limit."""
    failed = _judged(Folder(path=tmp_path / "a", clients=savings() + "\ndeposit a 1 @5 +2 info !timeout"), max="3s")
    hung = _judged(Folder(path=tmp_path / "b", clients=savings() + "\ndeposit a 1 @5"), max="1h", p50="10ms")

    assert failed.value == pytest.approx(2)
    assert "1 failure among them" in failed.detail
    assert hung.grade is Grade.FAIL
    assert hung.value is None
    assert "never answered" in hung.detail


def test_one_kind_of_request_can_be_looked_at_alone(tmp_path: Path) -> None:
    """A slow redemption does not slow deposits."""
    folder = Folder(path=tmp_path, clients=savings() + "\nredeem a 1 @5 +2 ok")

    assert _judged(folder, max="1s").grade is Grade.FAIL
    assert _judged(folder, max="1s", f="deposit").grade is Grade.PASS
    assert _judged(folder, max="1s", f="transfer").grade is Grade.UNKNOWN


@pytest.mark.parametrize(("number", "grade"), [(99, Grade.UNKNOWN), (100, Grade.PASS)])
def test_a_percentile_needs_as_many_operations_as_it_takes_to_exist(tmp_path: Path, number: int, grade: Grade) -> None:
    """p99 of fewer than 100 is the maximum by another name."""
    assert _judged(Folder(path=tmp_path, clients=savings(number)), p99="1s").grade is grade


def test_without_a_success_no_latency_is_good(tmp_path: Path) -> None:
    """Failing fast must not pass."""
    quick = "\n".join(f"deposit k{n} 1 @{2 + n / 100:.2f} +0.001 fail !refused" for n in range(200))

    assert _judged(Folder(path=tmp_path, clients=quick), p50="1s").grade is Grade.UNKNOWN


def test_at_least_one_limit_has_to_be_named() -> None:
    """An empty entry would always pass."""
    with pytest.raises(ExpectationError, match="name at least one limit: p50, p90, p99, p99_9, max"):
        parse_expectation({"latency": {"f": "deposit"}})


SHARES = [0.5, 0.9, 0.99, 0.999, 1.0]


@given(st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=300))
def test_percentiles_are_exact(values: list[float]) -> None:
    """Against the definition: the smallest value that at least the share of all do not exceed."""
    found = percentiles(np.asarray(values), SHARES)

    for share, value in zip(SHARES, found, strict=True):
        enough = [one for one in values if sum(x <= one for x in values) >= share * len(values) - 1e-9]
        assert value == min(enough)


def test_how_many_values_a_percentile_needs() -> None:
    """One in a hundred for p99, one in a thousand for p99.9."""
    assert [needed(share) for share in SHARES] == [2, 10, 100, 1000, 1]
