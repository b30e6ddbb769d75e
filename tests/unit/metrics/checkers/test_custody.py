"""The custody's checker on two payouts that are right, and on each way to be wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import KILL, Folder

Rows = list[dict[str, Any]]


WALL_S = 1_700_000_000
"""The wall time at monotonic zero, as the folder's anchor says."""


def platform() -> tuple[Rows, Rows]:
    """Two batches, paid at 5 and 9 s, each under a manifest of two signers; the first one's first manifest expired."""
    dump: Rows = [
        {"row": "policy", "version": 1, "required": 2},
        *(key(name) for name in ("s1", "s2", "s3")),
        {"row": "batch", "batch": 1, "wallet": "a", "first_seq": 1, "last_seq": 9, "total": 70, "transfer": "3",
         "manifest": "m2", "paid_at": WALL_S + 5.0},
        {"row": "batch", "batch": 2, "wallet": "b", "first_seq": 2, "last_seq": 8, "total": 5, "transfer": "4",
         "manifest": "m3", "paid_at": WALL_S + 9.0},
        manifest("m1", 1, status="refused", expires_at=WALL_S + 4.0),
        manifest("m2", 1),
        manifest("m3", 2),
        *(signature(*signed) for signed in (("m1", "s1"), ("m2", "s1"), ("m2", "s3"), ("m3", "s2"), ("m3", "s3"))),
    ]  # fmt: skip
    ledger: Rows = [
        {"row": "account", "account": "custody-a", "kind": "custody", "balance": None},
        {"row": "account", "account": "custody-b", "kind": "custody", "balance": None},
        transfer("1", "deposit", "custody-a", "c-1", 100),
        transfer("2", "redemption", "c-1", "payable-a", 70),
        transfer("3", "payout", "payable-a", "custody-a", 70),
        transfer("4", "payout", "payable-b", "custody-b", 5),
    ]
    return dump, ledger


def key(signer: str) -> dict[str, Any]:
    """A signer's key that counts from the first policy on."""
    return {"row": "key", "signer": signer, "public_key": signer * 2, "since": 1, "until": None, "revoked": False}


def manifest(name: str, batch: int, **values: Any) -> dict[str, Any]:
    """A manifest that was paid."""
    return {"row": "manifest", "manifest": name, "batch": batch, "policy_version": 1, "status": "paid",
            "expires_at": WALL_S + 60.0, **values}  # fmt: skip


def signature(name: str, signer: str) -> dict[str, Any]:
    """A signer's signature of a manifest."""
    return {"row": "signature", "manifest": name, "signer": signer, "public_key": signer * 2}


def transfer(number: str, kind: str, debit: str, credit: str, amount: int) -> dict[str, Any]:
    """A row of the ledger."""
    return {"row": "transfer", "transfer": number, "kind": kind, "debit": debit, "credit": credit, "amount": amount,
            "key": None}  # fmt: skip


def judged(path: Path, dump: Rows, ledger: Rows, **parameters: Any) -> Finding:
    """The finding on these dumps."""
    return parse_expectation({"custody": parameters}).judge(
        Folder(path=path, dumps={"payouts": dump, "ledger": ledger}).evidence()
    )


def test_a_key_that_ended_later_still_counts_for_what_was_paid_before(tmp_path: Path) -> None:
    """Revoked by the second policy; both payouts were made under the first."""
    dump, ledger = platform()
    dump[3].update(until=2, revoked=True)
    assert judged(tmp_path, dump, ledger).grade is Grade.PASS


def test_signed_payouts_pass_and_too_few_show_nothing(tmp_path: Path) -> None:
    """Two payouts happened: three wanted are not shown."""
    assert judged(tmp_path / "right", *platform(), min_payouts=2).grade is Grade.PASS
    assert judged(tmp_path / "few", *platform(), min_payouts=3).grade is Grade.UNKNOWN


@pytest.mark.parametrize(
    ("paid_s", "goal", "grade"),
    [
        (4.5, {"during": "kill", "min_paid_during": 1}, Grade.PASS),
        (4.5, {"during": "kill-1", "min_paid_during": 1}, Grade.PASS),
        (4.5, {"during": "kill", "min_paid_during": 2}, Grade.UNKNOWN),
        (4.5, {"during": "pause", "min_paid_during": 1}, Grade.UNKNOWN),
        (3.9, {"during": "kill", "min_paid_during": 1}, Grade.UNKNOWN),
        (8.1, {"during": "kill", "min_paid_during": 1}, Grade.UNKNOWN),
        (4.5, {"none_during": "kill"}, Grade.PASS),  # was signed before, perhaps
        (6.5, {"none_during": "kill"}, Grade.FAIL),
        (6.5, {"none_during": "kill-1"}, Grade.FAIL),
        (8.1, {"none_during": "kill"}, Grade.PASS),
        (6.5, {"none_during": "pause"}, Grade.UNKNOWN),
    ],
)
def test_payouts_can_be_wanted_or_ruled_out_while_a_fault_is_in_force(
    tmp_path: Path, paid_s: float, goal: dict[str, Any], grade: Grade
) -> None:
    """The kill is in force from 4 to 8 s."""
    dump, ledger = platform()
    dump[4].update(paid_at=WALL_S + paid_s)
    timeline = [{**KILL, "heal_after_s": 4.0}]
    folder = Folder(path=tmp_path, timeline=timeline, dumps={"payouts": dump, "ledger": ledger})

    assert parse_expectation({"custody": goal}).judge(folder.evidence()).grade is grade


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
    "a manifest not called paid": (
        lambda dump, _: dump[7].update(status="refused"),
        "paid under a manifest that was not in force",
    ),
    "a manifest that had expired": (
        lambda dump, _: dump[7].update(expires_at=WALL_S + 4.9),
        "paid under a manifest that was not in force",
    ),
    "another signer's key": (lambda dump, _: dump[-1].update(public_key="s1s1"), "paid with too few signers"),
    "a key that nobody has": (lambda dump, _: dump[-1].update(public_key="x"), "paid with too few signers"),
    "a key of a later policy": (lambda dump, _: dump[3].update(since=2), "paid with too few signers"),
    "a key that had ended": (
        lambda dump, _: dump[3].update(since=0, until=1, revoked=True),
        "paid with too few signers",
    ),
    "a redemption in two batches": (
        lambda dump, _: dump[5].update(wallet="a", first_seq=9, last_seq=12),
        "two batches share redemptions",
    ),
    "a batch within another": (
        lambda dump, _: dump.insert(
            6, {**dump[4], "batch": 3, "first_seq": 3, "last_seq": 4, "transfer": None, "paid_at": None}
        ),
        "two batches share redemptions",
    ),
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
