"""Whether every account got its interest for every hour, once, and as much as rate, balance and remainder demand."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.dumps import ACCRUAL, CUSTOMER, LEDGER, rows_of_kind, unusable
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.evidence import Evidence

Row = Mapping[str, Any]
UNITS: Final = 8_760 * 10**9
"""Hours of a year of 365 days, times the parts of a rate in parts per billion."""
_HOUR_S: Final = 3600
_INTEREST: Final = "interest"
_TOLD_MAX: Final = 5


@CHECKERS.register("accrual")
@dataclass(frozen=True, slots=True, kw_only=True)
class Accrual:
    """At least `min_hours` hours in a row, each with one snapshot for each account, each exact to the last unit.

    A snapshot's balance must be the sum of the account's transfers dated before the hour's end; a customer with such a
    transfer must have a snapshot. Interest is recomputed from balance, rate and the remainder of the hour before; what
    the ledger credited for the hour must be that. The ledger is dumped after the snapshots: what is newer is not
    judged.
    """

    min_hours: Annotated[int, Field(ge=1)] = 1
    dump: str = "accrual"
    ledger: str = "ledger"

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "accrual" if self.dump == "accrual" else f"accrual:{self.dump}"

    def check(self, evidence: "Evidence") -> Finding:
        """Recomputes the snapshots, and compares them with the ledger."""
        if told := unusable(evidence.dumps, {self.dump: ACCRUAL, self.ledger: LEDGER}):
            return Finding(name=self.title, grade=Grade.UNKNOWN, detail=told)
        dump = evidence.dumps[self.dump]
        hours, snapshots = rows_of_kind(dump, "hour"), rows_of_kind(dump, "snapshot")
        ledger = evidence.dumps[self.ledger]
        customers = {row["account"] for row in rows_of_kind(ledger, "account") if row["kind"] == CUSTOMER}
        wrong = list(mistakes(hours, snapshots, rows_of_kind(ledger, "transfer"), customers))
        finished = sum(row["finished_at"] is not None for row in hours)
        doubts = []
        if finished < self.min_hours:
            doubts.append(f"only {count(finished, 'hour')} of at least {self.min_hours} passed")
        if not snapshots:
            doubts.append("it holds no snapshot")
        return Finding(
            name=self.title,
            grade=Grade.FAIL if wrong else Grade.PASS,
            value=len(wrong),
            limit=0,
            unit="mistakes",
            witness=wrong[:_TOLD_MAX],
            detail=f"{count(finished, 'hour')} with {count(len(snapshots), 'snapshot')} recomputed"
            + (f"; {count(len(wrong), 'mistake')} found." if wrong else ", all exact."),
        ).doubted(doubts)


def mistakes(
    hours: Sequence[Row], snapshots: Sequence[Row], transfers: Sequence[Row], customers: AbstractSet[Any]
) -> Iterator[dict[str, Any]]:
    """Everything wrong, as data; `transfers` are all of the ledger, `customers` its customers' accounts."""
    hours = sorted(hours, key=lambda row: row["hour"])
    for before, after in pairwise(hours):
        if after["hour"] - before["hour"] != _HOUR_S:
            yield {"wrong": "hours skipped or doubled", "after": before["hour"], "next": after["hour"]}
        if before["finished_at"] is None:
            yield {"wrong": "hour left unfinished", "hour": before["hour"]}
    by_hour: dict[Any, list[Row]] = defaultdict(list)
    for snapshot in snapshots:
        by_hour[snapshot["hour"]].append(snapshot)
    known = {hour["hour"] for hour in hours}
    yield from ({"wrong": "snapshot of no hour", **_told(one)} for one in snapshots if one["hour"] not in known)
    yield from _recomputed(hours, by_hour)
    # A credit that is wrong comes before the balances that are wrong because of it.
    yield from _credited(hours, by_hour, [row for row in transfers if row["kind"] == _INTEREST])
    yield from _balances(hours, by_hour, transfers, customers)


def _recomputed(hours: Sequence[Row], by_hour: Mapping[Any, Sequence[Row]]) -> Iterator[dict[str, Any]]:
    """Snapshots whose interest does not follow from what they say themselves, and hours that count others."""
    remainders: dict[Any, int] = {}
    for hour in hours:
        rows = by_hour.get(hour["hour"], [])
        seen: set[Any] = set()
        for row in rows:
            if row["account"] in seen:
                yield {"wrong": "second snapshot of an account in one hour", **_told(row)}
            seen.add(row["account"])
            earned = max(row["balance"], 0) * hour["rate_ppb"] + remainders.get(row["account"], 0)
            interest, remainder = divmod(earned, UNITS)
            if (row["interest"], row["remainder"]) != (interest, remainder):
                yield {"wrong": "interest is not exact", "computed": [interest, remainder], **_told(row)}
            remainders[row["account"]] = row["remainder"]
        if hour["finished_at"] is not None and hour["accounts"] != len(rows):
            yield {"wrong": "hour counts other snapshots", "hour": hour["hour"], "says": hour["accounts"],
                   "there": len(rows)}  # fmt: skip


def _balances(
    hours: Sequence[Row], by_hour: Mapping[Any, Sequence[Row]], transfers: Sequence[Row], customers: AbstractSet[Any]
) -> Iterator[dict[str, Any]]:
    """Snapshots with another balance than the ledger bears out, and those that are missing.

    The ledger does not say when an account was opened: one is due from its first transfer or snapshot on.
    """
    movements = deque(sorted(transfers, key=lambda row: row["business_at"]))
    balances: dict[Any, int] = defaultdict(int)
    due: set[Any] = set()
    for hour in hours:
        while movements and movements[0]["business_at"] < hour["hour"] + _HOUR_S:
            row = movements.popleft()
            balances[row["debit"]] -= row["amount"]
            balances[row["credit"]] += row["amount"]
            due |= customers & {row["debit"], row["credit"]}
        rows = by_hour.get(hour["hour"], [])
        for row in rows:
            if row["balance"] != balances[row["account"]]:
                yield {"wrong": "balance is not that of the ledger", "computed": balances[row["account"]], **_told(row)}
        there = {row["account"] for row in rows}
        due |= there
        if hour["finished_at"] is not None:
            for account in sorted(due - there, key=str):
                yield {"wrong": "account without a snapshot", "account": account, "hour": hour["hour"]}


def _credited(
    hours: Sequence[Row], by_hour: Mapping[Any, Sequence[Row]], credited: Sequence[Row]
) -> Iterator[dict[str, Any]]:
    """Hours that the ledger credited otherwise; an hour begun after the snapshots were dumped is not judged."""
    newest = max((hour["hour"] for hour in hours), default=-1)
    due = {
        (row["hour"], row["account"]): row["interest"] for rows in by_hour.values() for row in rows if row["interest"]
    }
    paid: dict[Any, list[int]] = defaultdict(list)
    for credit in credited:
        hour = credit["business_at"] - _HOUR_S
        if hour <= newest:
            paid[hour, credit["credit"]].append(credit["amount"])
    unfinished = {hour["hour"] for hour in hours if hour["finished_at"] is None}
    for hour, account in sorted(due.keys() | paid.keys(), key=str):
        computed, amounts = due.get((hour, account)), paid.get((hour, account), [])
        # Of an hour under way the ledger, dumped later, may hold more.
        if amounts != [computed] and not (computed is None and hour in unfinished and len(amounts) == 1):
            yield {"wrong": "credited otherwise than computed", "account": account, "hour": hour,
                   "computed": computed, "credited": amounts}  # fmt: skip


def _told(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "row"}
