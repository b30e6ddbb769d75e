"""The custody's checker on two payouts that are right, and on each way to be wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import Folder

Rows = list[dict[str, Any]]


def platform() -> tuple[Rows, Rows]:
    """Two batches, each paid under a manifest that two signers signed; the first one's first manifest had expired."""
    dump: Rows = [
        {"row": "policy", "version": 1, "required": 2},
        *({"row": "key", "signer": name, "public_key": name * 2} for name in ("s1", "s2", "s3")),
        {"row": "batch", "batch": 1, "wallet": "a", "total": 70, "transfer": "3", "manifest": "m2"},
        {"row": "batch", "batch": 2, "wallet": "b", "total": 5, "transfer": "4", "manifest": "m3"},
        {"row": "manifest", "manifest": "m1", "batch": 1, "policy_version": 1, "status": "expired"},
        {"row": "manifest", "manifest": "m2", "batch": 1, "policy_version": 1, "status": "paid"},
        {"row": "manifest", "manifest": "m3", "batch": 2, "policy_version": 1, "status": "paid"},
        {"row": "signature", "manifest": "m1", "signer": "s1"},
        {"row": "signature", "manifest": "m2", "signer": "s1"},
        {"row": "signature", "manifest": "m2", "signer": "s3"},
        {"row": "signature", "manifest": "m3", "signer": "s2"},
        {"row": "signature", "manifest": "m3", "signer": "s3"},
    ]
    ledger: Rows = [
        {"row": "account", "account": "custody-a", "kind": "custody", "balance": None},
        {"row": "account", "account": "custody-b", "kind": "custody", "balance": None},
        transfer("1", "deposit", "custody-a", "c-1", 100),
        transfer("2", "redemption", "c-1", "payable-a", 70),
        transfer("3", "payout", "payable-a", "custody-a", 70),
        transfer("4", "payout", "payable-b", "custody-b", 5),
    ]
    return dump, ledger


def transfer(number: str, kind: str, debit: str, credit: str, amount: int) -> dict[str, Any]:
    """A row of the ledger."""
    return {"row": "transfer", "transfer": number, "kind": kind, "debit": debit, "credit": credit, "amount": amount,
            "key": None}  # fmt: skip


def judged(path: Path, dump: Rows, ledger: Rows, **parameters: Any) -> Finding:
    """The finding on these dumps."""
    return parse_expectation({"custody": parameters}).judge(
        Folder(path=path, dumps={"payouts": dump, "ledger": ledger}).evidence()
    )


def test_signed_payouts_pass_and_too_few_show_nothing(tmp_path: Path) -> None:
    """Two payouts happened: three wanted are not shown."""
    assert judged(tmp_path / "right", *platform(), min_payouts=2).grade is Grade.PASS
    assert judged(tmp_path / "few", *platform(), min_payouts=3).grade is Grade.UNKNOWN


def pay_twice(dump: Rows, ledger: Rows) -> None:
    """The first batch leaves the wallet once more, under the manifest that it was paid with."""
    dump.append({**dump[4], "transfer": "5"})
    ledger.append({**ledger[4], "transfer": "5"})


WRONG: dict[str, tuple[Callable[[Rows, Rows], object], str]] = {
    "a movement of nobody": (
        lambda _, ledger: ledger.append(transfer("5", "payout", "payable-a", "custody-a", 1)),
        "left the wallet without a batch",
    ),
    "another kind of movement": (
        lambda _, ledger: ledger.append(transfer("5", "redemption", "c-1", "custody-a", 1)),
        "left the wallet without a batch",
    ),
    "another amount": (lambda _, ledger: ledger[4].update(amount=71), "paid another amount or from another wallet"),
    "another wallet": (
        lambda _, ledger: ledger[4].update(credit="custody-b"),
        "paid another amount or from another wallet",
    ),
    "another batch's manifest": (lambda dump, _: dump[4].update(manifest="m3"), "paid without a manifest of its own"),
    "no manifest": (lambda dump, _: dump[4].update(manifest=None), "paid without a manifest of its own"),
    "one signer": (lambda dump, _: dump.pop(), "paid with too few signers"),
    "one signer twice": (lambda dump, _: dump[-1].update(signer="s2"), "paid with too few signers"),
    "the same batch twice": (pay_twice, "batch paid twice"),
    "called paid": (lambda _, ledger: ledger.pop(), "called paid without a transfer"),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_way_to_be_wrong_is_found_and_named(tmp_path: Path, what: str) -> None:
    """One planted mistake at a time."""
    dump, ledger = platform()
    plant, told = WRONG[what]
    plant(dump, ledger)
    finding = judged(tmp_path, dump, ledger)
    assert finding.grade is Grade.FAIL
    assert told in [one["wrong"] for one in finding.witness]
