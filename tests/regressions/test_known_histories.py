"""Histories with known verdicts, good and bad; each bug that a judge ever missed or invented adds one."""

from pathlib import Path
from typing import Any

import pytest

from metrics.judge import judge
from tests.run_folders import Folder, event, ledger_of, probes, savings

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
    "a payment to somebody else": (
        {
            "expect": [{"exactly_once": {"dump": "ledger", "operations": ["deposit"]}}],
            "clients": "deposit mine 5 b @4.1 +0.02 ok",
            "dumps": {
                "ledger": [
                    *ledger_of("deposit mine 5 @4.1 +0.02 ok"),
                    {"row": "account", "account": "b", "kind": "customer", "balance": 0},
                ]
            },
        },
        1,
    ),
    "a kind of payment that was never made": (
        {
            "expect": [{"exactly_once": {"dump": "ledger", "operations": ["deposit", "redem"]}}],
            "dumps": {"ledger": ledger_of(CLEAN)},
        },
        2,
    ),
    "clients that nobody served, beside a happy prober": (
        {
            "expect": [{"longest_gap": {"max": "250ms"}}],
            "clients": "\n".join(f"deposit k{n} 1 @{1 + n / 25:.2f} +0.01 fail !http-503" for n in range(200)),
        },
        2,
    ),
    "clients that were mostly told no": (
        {"clients": "deposit k 1 @4 +0.1 ok\n" + "redeem r 5 @4.1 +0.02 fail !declined:limit\n" * 199},
        2,
    ),
    "a load that had to be killed": (
        {
            "expect": [{"longest_gap": {"max": "250ms"}}],
            "load": {"intended": 200, "started": 200, "unsent": 0, "returncode": None},
        },
        2,
    ),
    "a crash that nobody felt": (
        {"more_events": [event(6.0, "instance.exited", instance="portal-1", returncode=139, expected=False)]},
        1,
    ),
    "a long outage with a short freeze in it": (
        {"expect": [{"downtime": {"max": "1s"}}], "probes": probes((3.5, 7.5)), "hiccups": [(4.0, 0.05)]},
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
