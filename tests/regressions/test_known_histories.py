"""Histories with known verdicts, good and bad; each bug that a judge ever missed or invented adds one."""

from pathlib import Path
from typing import Any

import pytest

from metrics.judge import judge
from tests.run_folders import Folder, ledger_of, probes, savings

CLEAN = savings()

KNOWN: dict[str, tuple[dict[str, Any], int]] = {
    "a clean run": ({}, 0),
    "one reset request": ({"clients": CLEAN + "\nredeem r 5 @4.1 +0.02 info !reset"}, 1),
    "a request that never came back": ({"clients": CLEAN + "\nredeem r 5 @4.1"}, 1),
    "a correct refusal": ({"clients": CLEAN + "\nredeem r 5 @4.1 +0.02 fail !declined:insufficient-funds"}, 0),
    "a request lost before the baseline": ({"clients": CLEAN + "\nredeem r 5 @0.2 +0.02 fail !refused"}, 0),
    "a down second": ({"expect": [{"longest_gap": {"max": "250ms"}}], "probes": probes((4.0, 5.0))}, 1),
    "a down second in warm-up": (
        {"expect": [{"longest_gap": {"max": "250ms"}}], "probes": probes((0.0, 0.9), start=0.0)},
        0,
    ),
    "a payment made twice": (
        {
            "expect": [{"exactly_once": {"dump": "ledger", "operations": ["deposit"]}}],
            "dumps": {"ledger": [*ledger_of(CLEAN), {**ledger_of(CLEAN)[5], "transfer": 9999}]},
        },
        1,
    ),
    "a payment in a refusal's name": (
        {
            "expect": [{"exactly_once": {"dump": "ledger", "operations": ["deposit"]}}],
            "clients": CLEAN + "\ndeposit no 5 @4.1 +0.02 fail !declined:limit",
            "dumps": {"ledger": ledger_of(CLEAN + "\ndeposit no 5 @4.1 +0.02 ok")},
        },
        1,
    ),
    # 0.999 read as 99.9 / 100 was the float above: 999 of 1000 failed a limit of 99.9 %.
    "a limit of 99.9 % just met": (
        {
            "expect": [{"availability": {"min": "99.9%", "by": "request"}}],
            "clients": savings(999) + "\nredeem r 5 @4.1 +0.02 fail !refused",
        },
        0,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_history_has_its_verdict(tmp_path: Path, name: str) -> None:
    """One run folder each, judged whole."""
    changes, exit_code = KNOWN[name]
    verdict = judge(Folder(path=tmp_path, **changes).write())

    assert verdict.exit_code == exit_code, verdict.reasons
