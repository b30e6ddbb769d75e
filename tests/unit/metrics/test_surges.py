"""What is judged of a surge: how much was answered well in it, and how soon after it all was well again."""

from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from metrics.notation import rows_of
from tests.unit.metrics.evidences import evidence_of

OVER = {"over": "50/s"}


def asked(per_s: int, start_s: int, end_s: int, ends: str = "+0.005 ok", f: str = "deposit") -> str:
    """So many requests in each second, evenly, that all end alike."""
    times = (second + number / per_s for second in range(start_s, end_s) for number in range(per_s))
    return "\n".join(f"{f} @{at_s:.4f} {ends}" for at_s in times)


def judged(entry: dict[str, Any], *parts: str) -> Finding:
    """What a checker finds in these requests."""
    rows = rows_of("\n".join(parts))
    return parse_expectation(entry).judge(
        evidence_of(rows, warmup=(0.0, 1.0), baseline=(1.0, 3.0), faults=(3.0, 15.0), recovery=(15.0, 20.0))
    )


SURGE = (asked(10, 1, 5), asked(100, 5, 13), asked(10, 13, 20))
"""10/s, and 100/s from 5 s to 13 s."""


def test_all_answered_in_a_surge_is_all_of_what_was_offered() -> None:
    """800 requests in eight seconds; what came before and after does not count."""
    found = judged({"goodput": {**OVER, "min": "100%"}}, *SURGE)
    assert (found.grade, found.value) == (Grade.PASS, 1.0)
    assert found.witness[0]["offered"] == 800


def test_what_is_shed_or_late_is_not_served() -> None:
    """Of 100/s a tenth is shed, a tenth too late, a tenth timed out, and a tenth a correct no: 70 % are good."""
    found = judged(
        {"goodput": {**OVER, "min": "71%"}},
        asked(60, 5, 13),
        asked(10, 5, 13, "+0.001 fail !http-503"),
        asked(10, 5, 13, "+3 ok"),
        asked(10, 5, 13, "+5 info !timeout"),
        asked(10, 5, 13, "+0.001 fail !declined:insufficient-funds"),
    )
    assert (found.grade, found.value) == (Grade.FAIL, 0.7)
    assert found.witness[0]["errors"] == {"http-503": 80, "timeout": 80}


def test_each_kind_of_request_can_be_looked_at_alone() -> None:
    """Deposits are shed by half, redemptions not at all; 50/s is reached by both together only."""
    requests = (
        asked(20, 5, 13, f="redeem"),
        asked(20, 5, 13),
        asked(20, 5, 13, "+0.001 fail !http-503"),
    )
    entry = {**OVER, "min": "99%"}
    assert judged({"goodput": {**entry, "operations": ["redeem"]}}, *requests).value == 1
    assert judged({"goodput": {**entry, "operations": ["deposit"]}}, *requests).value == 0.5
    assert judged({"goodput": {**entry, "operations": ["look"]}}, *requests).grade is Grade.UNKNOWN


def test_a_collapse_of_five_seconds_is_found_in_a_surge_that_is_well_on_average() -> None:
    """Served 100/s for 3 s and 10/s for the 5 s after: the worst 5 s have 10/s, though 44 % were served in all."""
    requests = (
        asked(100, 5, 8),
        asked(10, 8, 13),
        asked(90, 8, 13, "+0.001 fail !http-503"),
    )
    found = judged({"goodput": {**OVER, "min_rate": "30/s"}}, *requests)
    assert (found.grade, found.unit) == (Grade.FAIL, "answers/s")
    assert found.value == pytest.approx(10, abs=1)
    assert judged({"goodput": {**OVER, "min_rate": "9/s"}}, *requests).grade is Grade.PASS


def test_without_a_surge_nothing_is_known_of_it() -> None:
    """10/s all the time, or 100/s for 3 s: neither passes."""
    for entry in ({"goodput": {**OVER, "min": "1%"}}, {"goodput": {**OVER, "min_rate": "1/s"}}):
        assert judged(entry, asked(10, 1, 20)).grade is Grade.UNKNOWN
        assert judged(entry, asked(10, 1, 5), asked(100, 5, 8), asked(10, 8, 20)).grade is Grade.UNKNOWN
    assert judged({"relief": {**OVER, "within": "1s"}}, asked(10, 1, 20)).grade is Grade.UNKNOWN


def test_relief_counts_from_the_end_of_the_surge_to_five_good_seconds_in_a_row() -> None:
    """The surge ends at 13 s; until 15 s every answer takes a second: relief after 2 s."""
    requests = (asked(10, 1, 5), asked(100, 5, 13, "+1 ok"), asked(10, 13, 15, "+1 ok"), asked(10, 15, 20))
    found = judged({"relief": {**OVER, "within": "2s"}}, *requests)
    assert (found.grade, found.value) == (Grade.PASS, 2)
    assert judged({"relief": {**OVER, "within": "1s"}}, *requests).grade is Grade.FAIL
    assert judged({"relief": {**OVER, "within": "1s", "late": "2s"}}, *requests).value == 0


def test_a_service_that_stays_bad_after_a_surge_has_no_relief() -> None:
    """Every answer is late until the load ends 7 s after the surge; 2 s would have been seen, 3 s not."""
    requests = (asked(100, 5, 13, "+1 ok"), asked(10, 13, 20, "+1 ok"))
    found = judged({"relief": {**OVER, "within": "2s"}}, *requests)
    assert (found.grade, found.value) == (Grade.FAIL, None)
    assert found.witness[0]["f"] == "deposit"


def test_a_straggler_among_many_is_no_bad_second() -> None:
    """Of 41 requests between 14 s and 15 s one is late: 2.4 %, which is bad where 2 % are, and not where 5 % are."""
    requests = (asked(100, 5, 13), asked(20, 13, 20), asked(20, 14, 15), "deposit @14.5 +1 ok")
    assert judged({"relief": {**OVER, "within": "1s"}}, *requests).value == 0
    assert judged({"relief": {**OVER, "within": "1s", "bad": "2%"}}, *requests).value == 2


def test_relief_is_not_known_where_the_load_ends_too_soon() -> None:
    """Only 4 s of load after the surge, all good: five are needed."""
    found = judged({"relief": {**OVER, "within": "1s"}}, asked(100, 5, 16), asked(10, 16, 20))
    assert found.grade is Grade.UNKNOWN
    assert "the load ended 4 s after the surge" in found.detail
