"""Whether the final ledger adds up, computed from its transfers and not from what it says of itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from metrics.checkers.checker import CHECKERS
from metrics.dumps import CUSTOMER, LEDGER, unusable
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.dumps import Dump
    from metrics.evidence import Evidence

_FAULTS_TOLD_MAX: Final = 5


@CHECKERS.register("ledger")
@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The ledger balances: cached balances equal the sum of transfers, no customer is below zero, the total is zero.

    Amounts are positive integers, transfer ids are unique, and both sides of a transfer are known accounts.
    """

    balanced: Literal[True] = True
    dump: str = "ledger"

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "ledger" if self.dump == "ledger" else f"ledger:{self.dump}"

    def check(self, evidence: "Evidence") -> Finding:
        """Adds up the dump."""
        if told := unusable(evidence.dumps, {self.dump: LEDGER}):
            return Finding(name=self.title, grade=Grade.UNKNOWN, detail=told)
        dump = evidence.dumps[self.dump]
        wrong = imbalances(dump)
        transfers = sum(row["row"] == "transfer" for row in dump.rows)
        accounts = len(dump.rows) - transfers
        doubts = []
        if not transfers:
            doubts.append("it holds no transfer")
        if not any(row["row"] == "account" and row["kind"] == CUSTOMER for row in dump.rows):
            doubts.append("it holds no account of a customer")
        return Finding(
            name=self.title,
            grade=Grade.FAIL if wrong else Grade.PASS,
            value=len(wrong),
            limit=0,
            unit="mistakes",
            witness=wrong[:_FAULTS_TOLD_MAX],
            detail=f"{count(transfers, 'transfer')} between {count(accounts, 'account')} were added up"
            + (f"; {count(len(wrong), 'mistake')} found." if wrong else "."),
        ).doubted(doubts)


def imbalances(dump: "Dump") -> list[dict[str, Any]]:
    """Everything that does not add up, as data: what is wrong, where, and the numbers."""
    accounts = [row for row in dump.rows if row["row"] == "account"]
    transfers = [row for row in dump.rows if row["row"] == "transfer"]
    sums: dict[Any, int] = {}
    wrong = [_wrong("account listed twice", account=name) for name in _repeated([a["account"] for a in accounts])]
    for account in accounts:
        sums[account["account"]] = 0
    wrong += [_wrong("transfer id used twice", transfer=one) for one in _repeated([t["transfer"] for t in transfers])]
    for transfer in transfers:
        amount = transfer["amount"]
        if type(amount) is not int or amount <= 0:
            wrong.append(_wrong("amount is no positive integer", **transfer))
            continue
        if transfer["debit"] not in sums or transfer["credit"] not in sums:
            wrong.append(_wrong("a side of the transfer is no account", **transfer))
            continue
        sums[transfer["debit"]] -= amount
        sums[transfer["credit"]] += amount
    for account in accounts:
        wrong += _account_faults(account, sums[account["account"]])
    return wrong + _total_fault(accounts, sums)


def _account_faults(account: Any, computed: int) -> list[dict[str, Any]]:
    found = []
    cached = account["balance"]
    if cached is not None and (type(cached) is not int or cached != computed):
        found.append(_wrong("cached balance differs from its transfers", computed=computed, **account))
    if account["kind"] == CUSTOMER and computed < 0:
        found.append(_wrong("customer is below zero", computed=computed, **account))
    return found


def _total_fault(accounts: Sequence[Any], sums: dict[Any, int]) -> list[dict[str, Any]]:
    """Accounts without a cached balance stand in with their computed one, so that the total is always one of all."""
    stated = [a["balance"] if type(a["balance"]) is int else sums[a["account"]] for a in accounts]
    total = sum(stated)
    return [_wrong("balances do not add up to zero", total=total)] if total else []


def _repeated(names: Sequence[Any]) -> list[Any]:
    seen: set[Any] = set()
    twice: dict[Any, None] = {}
    for name in names:
        if name in seen:
            twice[name] = None
        seen.add(name)
    return list(twice)


def _wrong(what: str, **numbers: Any) -> dict[str, Any]:
    return {"wrong": what, **{name: value for name, value in numbers.items() if name != "row"}}
