"""The queue's checker against a small model of a right platform, and against each way to be wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.checkers import parse_expectation
from metrics.checkers.queue import mistakes
from metrics.findings import Finding, Grade
from tests.run_folders import Folder

Rows = list[dict[str, Any]]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), st.sampled_from("ab"), st.integers(1, 20)),
        st.tuples(st.just("redeem"), st.sampled_from("ab"), st.integers(1, 30)),
        st.tuples(st.just("settle"), st.just(""), st.integers(1, 3)),
    ),
    max_size=40,
)


def platform(steps: list[tuple[str, str, int]]) -> tuple[Rows, Rows]:
    """Queue and transfers of a right platform that takes `steps`; what is left in the queue is settled at the end."""
    queue: Rows = []
    transfers: Rows = []
    balances = {"a": 0, "b": 0}

    def post(kind: str, debit: str, credit: str, amount: int) -> int:
        transfers.append(
            {"row": "transfer", "transfer": str(len(transfers) + 1), "kind": kind, "debit": debit, "credit": credit,
             "amount": amount, "key": None}
        )  # fmt: skip
        return len(transfers)

    def decide(row: dict[str, Any]) -> None:
        account = row["account"]
        if balances[account] >= row["amount"]:
            balances[account] -= row["amount"]
            number = post("redemption", account, "payable", row["amount"])
            row.update(status="settled", transfer=str(number))
        else:
            row.update(status="refused", reason="insufficient funds")
        row["balance_after"] = balances[account]

    def settle(number: int) -> None:
        for row in [row for row in queue if row["status"] == "queued"][:number]:
            decide(row)

    for kind, account, amount in steps:
        if kind == "deposit":
            balances[account] += amount
            post("deposit", "custody", account, amount)
        elif kind == "redeem":
            queue.append(
                {"row": "redemption", "seq": len(queue) + 1, "account": account, "key": f"k{len(queue)}",
                 "amount": amount, "status": "queued", "reason": None, "transfer": None, "balance_after": None}
            )  # fmt: skip
        else:
            settle(amount)
    settle(len(queue))
    return queue, transfers


STEPS_OF_EXAMPLE = [
    ("deposit", "a", 10), ("deposit", "b", 5), ("redeem", "a", 4), ("redeem", "b", 9), ("redeem", "a", 6),
    ("settle", "", 3), ("deposit", "b", 9), ("redeem", "b", 9), ("redeem", "a", 1),
]  # fmt: skip


def judged(path: Path, queue: Rows, transfers: Rows, **parameters: Any) -> Finding:
    """The finding on these dumps."""
    accounts = [{"row": "account", "account": "a", "kind": "customer", "balance": 0}]
    folder = Folder(
        path=path,
        dumps={"ledger": [*accounts, *transfers], "redemptions": queue},
    )
    return parse_expectation({"queue": {"intact": True, **parameters}}).judge(folder.evidence())


@given(STEPS)
def test_what_a_right_platform_leaves_has_no_mistake(steps: list[tuple[str, str, int]]) -> None:
    """Any order of deposits, requests and settling."""
    assert list(mistakes(*platform(steps))) == []


def test_a_right_queue_passes_and_an_empty_one_shows_nothing(tmp_path: Path) -> None:
    """The example has settled and refused ones; without a settled one nothing was shown."""
    queue, transfers = platform(STEPS_OF_EXAMPLE)
    assert [row["status"] for row in queue] == ["settled", "refused", "settled", "settled", "refused"]
    assert judged(tmp_path / "right", queue, transfers).grade is Grade.PASS
    assert judged(tmp_path / "empty", [], transfers[:2]).grade is Grade.UNKNOWN


def test_more_parked_ones_than_allowed_are_a_mistake_each(tmp_path: Path) -> None:
    """Both refused ones are parked instead: none and one are too few to be allowed, two are not."""
    queue, transfers = platform(STEPS_OF_EXAMPLE)
    for row in (queue[1], queue[4]):
        row.update(status="parked", reason="the ledger refused it", balance_after=None)
    for allowed in (0, 1):
        finding = judged(tmp_path / str(allowed), queue, transfers, max_parked=allowed)
        assert (finding.grade, finding.value) == (Grade.FAIL, 2)
        assert [(one["wrong"], one["seq"]) for one in finding.witness] == [("parked", 2), ("parked", 5)]
    assert judged(tmp_path / "none", queue, transfers).grade is Grade.FAIL
    assert judged(tmp_path / "allowed", queue, transfers, max_parked=2).grade is Grade.PASS


def test_fewer_settled_ones_than_wanted_show_nothing(tmp_path: Path) -> None:
    """Three are settled."""
    right = platform(STEPS_OF_EXAMPLE)
    assert judged(tmp_path / "enough", *right, min_settled=3).grade is Grade.PASS
    assert judged(tmp_path / "few", *right, min_settled=4).grade is Grade.UNKNOWN


def swap(queue: Rows, transfers: Rows) -> None:  # noqa: ARG001
    """The second one settled is paid by the first one's transfer, and the other way round."""
    first, second = queue[0], queue[2]
    first["transfer"], second["transfer"] = second["transfer"], first["transfer"]


def pay_a_refused_one(queue: Rows, transfers: Rows) -> None:
    """The second request gets its money although it was refused."""
    queue[1].update(transfer="9")
    transfers.append({**transfers[2], "transfer": "9", "debit": "b", "amount": 9})


WRONG: dict[str, tuple[Callable[[Rows, Rows], object], str]] = {
    "a request lost": (lambda queue, _: queue.pop(1), "number missing or used twice"),
    "a request kept waiting": (lambda queue, _: queue[4].update(status="queued"), "never decided"),
    "a payment lost": (lambda _, transfers: transfers.pop(2), "settled without a transfer"),
    "a payment doubled": (
        lambda _, transfers: transfers.append({**transfers[2], "transfer": "9"}),
        "paid though nobody asked for it, or twice",
    ),
    "a refused one paid": (pay_a_refused_one, "paid although it was not settled"),
    "another amount": (lambda queue, _: queue[0].update(amount=3), "paid from another account or another amount"),
    "two for one": (
        lambda queue, _: queue[2].update(transfer=queue[0]["transfer"]),
        "shares its transfer with another",
    ),
    "another order": (swap, "settled before one that was accepted earlier"),
    "a wrong balance": (
        lambda queue, _: queue[2].update(balance_after=1),
        "settled with another balance than the ledger has",
    ),
    "refused with enough": (
        lambda queue, _: queue[4].update(amount=0),
        "refused although the ledger does not say so",
    ),
    "refused on a balance of another time": (
        lambda queue, _: queue[1].update(balance_after=0),
        "refused although the ledger does not say so",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_each_way_to_be_wrong_is_found_and_named(tmp_path: Path, what: str) -> None:
    """One planted mistake at a time."""
    queue, transfers = platform(STEPS_OF_EXAMPLE)
    plant, told = WRONG[what]
    plant(queue, transfers)
    finding = judged(tmp_path, queue, transfers)
    assert finding.grade is Grade.FAIL
    assert told in [one["wrong"] for one in mistakes(queue, transfers)]
