from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import Folder, ledger_of, savings


def _judged(path: Path, rows: list[dict[str, Any]]) -> Finding:
    folder = Folder(path=path, dumps={"ledger": rows})
    return parse_expectation({"ledger": {"balanced": True}}).judge(folder.evidence())


def _rows() -> list[dict[str, Any]]:
    return ledger_of(savings(3))


def _changed(row: int, **values: Any) -> list[dict[str, Any]]:
    found = _rows()
    found[row] = {**found[row], **values}
    return found


def test_a_ledger_that_adds_up_passes(tmp_path: Path) -> None:
    """One customer, the platform's cash, a seed and three deposits."""
    assert _judged(tmp_path, _rows()).grade is Grade.PASS


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (_changed(0, balance=10_301), "cached balance differs from its transfers"),
        (_changed(0, balance=10_300.0), "cached balance differs from its transfers"),
        (_changed(2, debit="a", credit="cash", amount=20_000), "customer is below zero"),
        (_changed(3, amount=-100), "amount is no positive integer"),
        (_changed(3, amount=0), "amount is no positive integer"),
        (_changed(3, amount=1.5), "amount is no positive integer"),
        (_changed(3, amount=True), "amount is no positive integer"),
        (_changed(3, transfer=1 << 70, credit="nobody"), "a side of the transfer is no account"),
        (_changed(4, transfer=1), "transfer id used twice"),
        ([_rows()[0], *_rows()], "account listed twice"),
        (_changed(1, balance=1), "cached balance differs from its transfers"),
    ],
)
def test_what_does_not_add_up_fails_with_the_row(tmp_path: Path, wrong: list[dict[str, Any]], told: str) -> None:
    """One planted corruption at a time."""
    finding = _judged(tmp_path, wrong)

    assert finding.grade is Grade.FAIL
    assert told in [one["wrong"] for one in finding.witness]


@pytest.mark.parametrize("empty", [[], _rows()[:2], [one for one in _rows() if one.get("kind") != "customer"]])
def test_a_ledger_without_transfers_or_customers_shows_nothing(tmp_path: Path, empty: list[dict[str, Any]]) -> None:
    """Nothing to add up is no pass; transfers of accounts that are not there are wrong."""
    assert _judged(tmp_path, empty).grade is not Grade.PASS


def test_another_schema_is_no_ledger(tmp_path: Path) -> None:
    """`effects/1` says nothing of balances."""
    finding = _judged(tmp_path, [{"f": "deposit", "key": "a", "value": None}])

    assert finding.grade is Grade.UNKNOWN
    assert "effects/1" in finding.detail
