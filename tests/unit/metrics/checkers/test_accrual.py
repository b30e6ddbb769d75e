"""The accrual's checker against hours that were computed with fractions, and against each way to be wrong."""

import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.checkers.accrual import mistakes
from metrics.findings import Finding, Grade
from tests.run_folders import Folder

Rows = list[dict[str, Any]]
RATE_PPB = 43_210_000
OPENING = {"a": 1_000_000, "b": 99, "c": 12_345}
HOURS = 60


def platform() -> tuple[Rows, Rows]:
    """Dump and ledger of a right platform: compounding, with a deposit to b and a later customer d.

    The last hour is under way, and the ledger a little newer.
    """
    dump: Rows = [{"row": "rate", "hour": 0, "rate_ppb": RATE_PPB}]
    customers = [*OPENING, "d", "e"]
    ledger: Rows = [{"row": "account", "account": name, "kind": "customer", "balance": None} for name in customers]
    ledger.append({"row": "account", "account": "own", "kind": "custody", "balance": None})
    balances = dict.fromkeys(customers, 0)
    owed = dict.fromkeys(customers, Fraction(0))

    def post(kind: str, account: str, amount: int, business_at: float) -> None:
        balances[account] += amount
        ledger.append(
            {"row": "transfer", "transfer": str(len(ledger)), "kind": kind, "debit": "own", "credit": account,
             "amount": amount, "key": None, "business_at": business_at}
        )  # fmt: skip

    for account, amount in OPENING.items():
        post("seed", account, amount, 0.0)
    for number in range(HOURS):
        if number == 30:
            post("deposit", "b", 500, number * 3600 + 1800.0)
        if number == 40:
            post("deposit", "d", 20_000, number * 3600 + 3599.5)
        opened = [*OPENING, *(["d"] if number >= 40 else [])]
        accounts = opened if number < HOURS - 1 else ["a"]
        for account in accounts:
            exact = owed[account] + Fraction(balances[account] * RATE_PPB, 8760 * 10**9)
            interest = int(exact)
            owed[account] = exact - interest
            dump.append(
                {"row": "snapshot", "hour": number * 3600, "account": account, "balance": balances[account],
                 "interest": interest, "remainder": int(owed[account] * 8760 * 10**9)}
            )  # fmt: skip
            if interest:
                post("interest", account, interest, (number + 1) * 3600.0)
        finished = number < HOURS - 1
        dump.append(
            {"row": "hour", "hour": number * 3600, "rate_ppb": RATE_PPB, "accounts": len(accounts) if finished else 0,
             "credited": 0, "started_at": 1.0, "finished_at": 2.0 if finished else None}
        )  # fmt: skip
    post("interest", "b", 1, HOURS * 3600.0)
    post("interest", "a", 5, (HOURS + 1) * 3600.0)
    post("deposit", "e", 7, HOURS * 3600 + 5.0)
    return dump, ledger


def judged(path: Path, dump: Rows, ledger: Rows, **parameters: Any) -> Finding:
    """The finding on these dumps."""
    return parse_expectation({"accrual": parameters}).judge(
        Folder(path=path, dumps={"accrual": dump, "ledger": ledger}).evidence()
    )


def of(rows: Rows, **wanted: Any) -> dict[str, Any]:
    """The row with these values."""
    return next(row for row in rows if wanted.items() <= row.items())


def test_what_a_right_platform_leaves_passes_and_too_few_hours_show_nothing(tmp_path: Path) -> None:
    """59 hours are finished: of 60 wanted they are too few."""
    dump, ledger = platform()
    assert of(ledger, kind="interest", credit="c")
    assert judged(tmp_path / "right", dump, ledger, min_hours=59).grade is Grade.PASS
    assert judged(tmp_path / "few", dump, ledger, min_hours=60).grade is Grade.UNKNOWN


def without(rows: Rows, **wanted: Any) -> None:
    """Takes the row with these values out."""
    rows.remove(of(rows, **wanted))


def test_two_hundred_accounts_over_a_hundred_hours_are_judged_in_no_time() -> None:
    """20,000 snapshots and 100,000 transfers, all of them right; one unit more in the last transfer is found."""
    names = [f"c-{number}" for number in range(200)]
    transfers = [
        {"kind": "deposit", "debit": "own", "credit": names[number % 200], "amount": 1, "business_at": number * 3.6}
        for number in range(100_000)
    ]
    hours = [{"hour": hour * 3600, "rate_ppb": 0, "accounts": 200, "finished_at": 1.0} for hour in range(100)]
    snapshots = [
        {"hour": hour * 3600, "account": name, "balance": 5 * (hour + 1), "interest": 0, "remainder": 0}
        for hour in range(100)
        for name in names
    ]
    began_s = time.process_time()
    wrong = list(mistakes(hours, snapshots, transfers[::-1], set(names)))
    took_s = time.process_time() - began_s
    assert wrong == []
    assert took_s < 1.0
    transfers[-1]["amount"] = 2
    assert [one["account"] for one in mistakes(hours, snapshots, transfers, set(names))] == ["c-199"]


def forget(dump: Rows, ledger: Rows) -> None:
    """An accrual that never sees d: no snapshot, no interest, and hours that count accordingly."""
    dump[:] = [row for row in dump if row.get("account") != "d"]
    ledger[:] = [row for row in ledger if (row.get("kind"), row.get("credit")) != ("interest", "d")]
    for row in dump:
        if row.get("accounts") == 4:
            row["accounts"] = 3


WRONG: dict[str, tuple[Callable[[Rows, Rows], object], str]] = {
    "an hour skipped": (lambda dump, _: without(dump, row="hour", hour=3600), "hours skipped or doubled"),
    "an hour left": (
        lambda dump, _: of(dump, row="hour", hour=3600).update(finished_at=None),
        "hour left unfinished",
    ),
    "a snapshot lost": (lambda dump, _: without(dump, row="snapshot", hour=7200, account="b"), "account without"),
    "a snapshot doubled": (
        lambda dump, _: dump.append(dict(of(dump, row="snapshot", hour=7200, account="b"))),
        "second snapshot of an account in one hour",
    ),
    "a snapshot of no hour": (
        lambda dump, _: of(dump, row="snapshot", hour=7200, account="b").update(hour=7201),
        "snapshot of no hour",
    ),
    "a unit too much": (
        lambda dump, _: of(dump, row="snapshot", hour=7200, account="a").update(interest=6),
        "interest is not exact",
    ),
    "a remainder forgotten": (
        lambda dump, _: of(dump, row="snapshot", hour=7200, account="b").update(remainder=0),
        "interest is not exact",
    ),
    "a balance of another time": (
        lambda dump, _: of(dump, row="snapshot", hour=7200, account="a").update(balance=1_000_000),
        "interest is not exact",
    ),
    "an account forgotten from its opening on": (forget, "account without a snapshot"),
    "a deposit that no balance contains": (
        lambda _, ledger: ledger.append({**of(ledger, kind="deposit", credit="b"), "transfer": "9999"}),
        "balance is not that of the ledger",
    ),
    "a deposit lost": (
        lambda _, ledger: without(ledger, kind="deposit", credit="b"),
        "balance is not that of the ledger",
    ),
    "a deposit of the next hour counted": (
        lambda _, ledger: of(ledger, kind="deposit", credit="b").update(business_at=31 * 3600.0),
        "balance is not that of the ledger",
    ),
    "money taken that no balance lacks": (
        lambda _, ledger: ledger.append(
            {**of(ledger, kind="deposit", credit="b"), "transfer": "9999", "debit": "b", "credit": "own"}
        ),
        "balance is not that of the ledger",
    ),
    "a wrong count": (lambda dump, _: of(dump, row="hour", hour=7200).update(accounts=4), "hour counts other"),
    "a credit lost": (
        lambda _, ledger: without(ledger, kind="interest", credit="a"),
        "credited otherwise than computed",
    ),
    "a credit of another hour": (
        lambda _, ledger: of(ledger, kind="interest", credit="c").update(business_at=7200.0),
        "credited otherwise than computed",
    ),
    "a credit doubled": (
        lambda _, ledger: ledger.append({**of(ledger, kind="interest", credit="c"), "transfer": "9999"}),
        "credited otherwise than computed",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_way_to_be_wrong_is_found_and_named(tmp_path: Path, what: str) -> None:
    """One planted mistake at a time."""
    dump, ledger = platform()
    plant, told = WRONG[what]
    plant(dump, ledger)
    finding = judged(tmp_path, dump, ledger)
    assert finding.grade is Grade.FAIL
    assert [one for one in finding.witness if one["wrong"].startswith(told)], finding.witness
