import json
from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from metrics.judge import judge
from tests.run_folders import Folder, savings

LOST = "\nredeem r1 10 @5 +0.001 fail !refused"
UNKNOWN = "\nredeem r2 10 @5.2 +0.4 info !timeout portal-2 x2"
HUNG = "\nredeem r3 10 @5.4"
DECLINED = "\nredeem r4 10 @5.6 +0.002 fail !declined:insufficient-funds"


def _judged(folder: Folder, **parameters: Any) -> Finding:
    return parse_expectation({"failed": {"max": 0, **parameters}}).judge(folder.evidence())


@pytest.mark.parametrize(
    ("more", "lost"),
    [("", 0), (LOST, 1), (UNKNOWN, 1), (HUNG, 1), (DECLINED, 0), (LOST + UNKNOWN + HUNG + DECLINED, 3)],
)
def test_failed_unknown_and_unfinished_requests_count_and_correct_refusals_do_not(
    tmp_path: Path, more: str, lost: int
) -> None:
    """Adds operations of each kind to a clean history; the value is how many of them were lost."""
    finding = _judged(Folder(path=tmp_path, clients=savings() + more))

    assert finding.value == lost
    assert finding.grade is (Grade.FAIL if lost else Grade.PASS)
    assert len(finding.witness) == lost


def test_a_limit_above_zero_allows_just_so_many(tmp_path: Path) -> None:
    """Two lost requests: a limit of 2 passes, of 1 does not."""
    folder = Folder(path=tmp_path, clients=savings() + LOST + HUNG)

    assert _judged(folder, max=2).grade is Grade.PASS
    assert _judged(folder, max=1).grade is Grade.FAIL


def test_only_the_kinds_that_are_named_are_judged(tmp_path: Path) -> None:
    """A lost redemption counts among redemptions and not among deposits; a kind that never occurs shows nothing."""
    folder = Folder(path=tmp_path, clients=savings() + LOST)

    assert _judged(folder, operations=["redeem", "deposit"]).value == 1
    alone = _judged(folder, operations=["deposit"])
    assert (alone.name, alone.value, alone.grade) == ("failed:deposit", 0, Grade.PASS)
    assert _judged(folder, operations=["transfer"]).grade is Grade.UNKNOWN


def test_what_happens_in_warm_up_or_by_log_ins_and_probes_is_not_judged(tmp_path: Path) -> None:
    """Failures before the baseline, of log-ins, and of probes leave the value at 0."""
    outside = "\ndeposit w 5 @0.5 +0.1 fail !refused\nlogin @5 +0.1 fail !refused\nprobe @5 +0.1 fail !refused"

    assert _judged(Folder(path=tmp_path, clients=savings() + outside)).value == 0


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ({"intended": 200, "started": 199, "unsent": 1, "returncode": 0}, "1 arrivals were never sent"),
        ({"intended": 200, "started": 180, "unsent": 0, "returncode": 0}, "only 90.0%"),
        ({"intended": 200, "started": 200, "unsent": 0, "returncode": 1}, "exit status 1"),
    ],
)
def test_a_load_that_missed_its_rate_is_no_pass(tmp_path: Path, load: dict[str, Any], why: str) -> None:
    """A clean history with a generator that did not do what was planned is unknown, and says why."""
    finding = _judged(Folder(path=tmp_path, load=load))

    assert finding.grade is Grade.UNKNOWN
    assert why in finding.detail


@pytest.mark.parametrize(
    ("awaited", "load", "grade"),
    [
        ("@9.9", {"returncode": -9}, Grade.UNKNOWN),
        ("@9.9", {"returncode": 0}, Grade.FAIL),
        ("@4.5 +0.1 info !reset", {"returncode": -9}, Grade.FAIL),
    ],
    ids=["the load was cut off", "the load ended in order", "lost long before"],
)
def test_what_was_awaited_when_the_load_was_cut_off_is_not_called_failed(
    tmp_path: Path, awaited: str, load: dict[str, Any], grade: Grade
) -> None:
    """A request without completion: a load that ends in order would have recorded one."""
    clients = savings() + f"\ndeposit last 1 {awaited}"
    counts = {"intended": 201, "started": 201, "unsent": 0, **load}

    assert _judged(Folder(path=tmp_path, clients=clients, load=counts)).grade is grade


def test_a_run_without_a_success_is_no_pass(tmp_path: Path) -> None:
    """Only refusals: nothing failed, yet nothing was shown."""
    folder = Folder(path=tmp_path, clients="redeem a 1 @5 +0.1 fail !declined:closed")

    assert _judged(folder).grade is Grade.UNKNOWN
    assert _judged(Folder(path=tmp_path / "few"), min_operations=201).grade is Grade.UNKNOWN
    assert _judged(Folder(path=tmp_path / "enough"), min_operations=200).grade is Grade.PASS


def test_failures_that_no_fault_explains_are_told_first(tmp_path: Path) -> None:
    """The fault is in force from 4 to 5; a failure at 8.5 is outside and comes before the earlier one inside."""
    lost = "\ndeposit in 1 @4.2 +0.1 fail !refused\ndeposit out 1 @8.5 +0.1 fail !refused"
    finding = _judged(Folder(path=tmp_path, clients=savings() + lost))

    assert finding.detail.startswith("1 failure outside every fault.")
    assert [one["key"] for one in finding.witness] == ["out", "in"]
    assert [one["fault"] for one in finding.witness] == [None, "kill-1"]


def _declining(declined: int, ok: int = 100) -> str:
    refusals = (
        f"redeem d{n} 1 @{1.5 + n / 1000:.4f} +0.002 fail !declined:insufficient-funds" for n in range(declined)
    )
    return "\n".join([savings(ok), *refusals])


@pytest.mark.parametrize(
    ("declined", "more", "grade"),
    [
        (100, {}, Grade.PASS),
        (101, {}, Grade.UNKNOWN),
        (101, {"max_declined": "51%"}, Grade.PASS),
        (1, {"max_declined": 0}, Grade.UNKNOWN),
    ],
)
def test_a_service_that_declines_most_of_what_is_asked_shows_little(
    tmp_path: Path, declined: int, more: dict[str, Any], grade: Grade
) -> None:
    """100 successes beside some refusals: up to a half of the answers may be refusals, or what the limit says."""
    folder = Folder(path=tmp_path, clients=_declining(declined))
    available = {"min": "99%", "by": "request", **more}

    assert _judged(folder, **more).grade is grade
    assert parse_expectation({"availability": available}).judge(folder.evidence()).grade is grade


def test_refusals_do_not_hide_failures(tmp_path: Path) -> None:
    """Nearly everything is declined and one request lost: that one is known to have failed."""
    assert _judged(Folder(path=tmp_path, clients=_declining(500) + LOST)).grade is Grade.FAIL


def _arrival(request_id: int, **more: Any) -> str:
    return json.dumps({"attempts": 1, "method": "GET", "request_id": str(request_id), **more}, separators=(",", ":"))


OURS = (1 << 40) + 7
"""The X-Request-Id of an operation that the load's history holds."""


@pytest.mark.parametrize(
    ("logs", "resent"),
    [
        ({"balancer-1": [_arrival(OURS), _arrival(OURS + 1), _arrival(OURS)]}, 1),
        ({"balancer-1": [_arrival(OURS), _arrival(OURS + 1, attempts=2)]}, 0),
        ({"balancer-1": [_arrival(999_999)] * 2}, 0),  # none of ours
        ({"balancer-1": [_arrival(OURS)], "balancer-2": [_arrival(OURS)]}, 0),  # one behind the other
        ({"portal-1": [f'{{"request_id": "{OURS}"}}'] * 2}, 0),  # no balancer: each try of its stands there
        ({"balancer-1": ["no JSON", '"attempts" "request_id":"x"', f'"attempts" "request_id":"{OURS}']}, 0),
    ],
)
def test_a_client_that_sends_again_behind_our_back_is_noticed(
    tmp_path: Path, logs: dict[str, list[str]], resent: int
) -> None:
    """One operation whose id the balancer's own log shows twice was sent twice; its failure may have been hidden."""
    folder = Folder(path=tmp_path, logs=logs)
    verdict = judge(folder.write())
    available = parse_expectation({"availability": {"min": "99%", "by": "request"}}).judge(folder.evidence())

    assert verdict.measuring["resent"] == resent
    assert verdict.exit_code == (2 if resent else 0)
    assert available.grade is (Grade.UNKNOWN if resent else Grade.PASS)
