"""What interest has to be, from the raw transfers alone, in exact fractions: shares nothing with what it judges."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Final

HOUR: Final = timedelta(hours=1)
HOURS_OF_A_YEAR: Final = 8760
REMAINDERS: Final = 8760 * 10**9
"""Parts of a unit in which remainders are carried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """What an account held as of an hour's end and earned in it; `carried` is the fraction of a unit that is left."""

    balance: int
    interest: int
    carried: Fraction


def earnings(
    *, opened: datetime, movements: dict[datetime, int], rates: dict[datetime, int], hours: list[datetime]
) -> Iterator[tuple[datetime, Earned]]:
    """An account's hours, from the one it was opened in; `movements` by time, `rates` in parts per billion a year."""
    pending = sorted(movements.items(), reverse=True)
    balance, carried = 0, Fraction(0)
    for hour in hours:
        end = hour + HOUR
        while pending and pending[-1][0] < end:
            balance += pending.pop()[1]
        if opened < end:
            rate = rates[max(start for start in rates if start <= hour)]
            earned = max(balance, 0) * Fraction(rate, 10**9) / HOURS_OF_A_YEAR + carried
            interest = math.floor(earned)
            carried = earned - interest
            yield hour, Earned(balance=balance, interest=interest, carried=carried)
            balance += interest


async def faults_in_interest(owner: Any) -> list[str]:
    """Every difference between the accrual tables, the ledger, and what the other transfers make of them."""
    hours = await owner.fetch("select * from accrual_hour order by hour")
    begun: list[datetime] = [row["hour"] for row in hours]
    faults = [
        f"{before} is followed by {after}" for before, after in itertools.pairwise(begun) if after - before != HOUR
    ]
    faults += [f"{row['hour']} is not finished" for row in hours if row["finished_at"] is None]
    snapshots = {(row["account"], row["hour"]): row for row in await owner.fetch("select * from accrual_snapshot")}
    paid: dict[tuple[str, datetime], list[int]] = defaultdict(list)
    movements: dict[str, dict[datetime, int]] = defaultdict(lambda: defaultdict(int))
    sums: dict[str, int] = defaultdict(int)
    for row in await owner.fetch("select * from transfer"):
        sums[row["credit_account"]] += row["amount"]
        sums[row["debit_account"]] -= row["amount"]
        if row["kind"] == "interest":
            paid[row["credit_account"], row["business_at"] - HOUR].append(row["amount"])
        else:
            movements[row["credit_account"]][row["business_at"]] += row["amount"]
            movements[row["debit_account"]][row["business_at"]] -= row["amount"]
    rates = {row["from_hour"]: row["rate_ppb"] for row in await owner.fetch("select * from interest_rate")}
    accounts = await owner.fetch("select * from account where kind = 'customer'")
    totals: dict[datetime, list[int]] = {hour: [] for hour in begun}
    for account in accounts:
        name, interest = account["id"], 0
        for hour, earned in earnings(
            opened=account["opened_business_at"], movements=movements[name], rates=rates, hours=begun
        ):
            interest += earned.interest
            totals[hour].append(earned.interest)
            said = snapshots.pop((name, hour), None)
            expected = (earned.balance, earned.interest, earned.carried * REMAINDERS)
            if said is None or (said["balance"], said["interest"], said["remainder"]) != expected:
                faults.append(f"{name} at {hour}: expected {expected}, got {said}")
            credited = paid.pop((name, hour), [])
            if credited != ([earned.interest] if earned.interest else []):
                faults.append(f"{name} at {hour}: expected {earned.interest} to be credited once, got {credited}")
        if (account["balance"], account["interest"]) != (sums[name], interest):
            faults.append(f"{name}: expected {(sums[name], interest)}, got {account}")
    faults += [
        f"{row['hour']}: {totals[row['hour']]} and {row}"
        for row in hours
        if (row["accounts"], row["credited"]) != (len(totals[row["hour"]]), sum(totals[row["hour"]]))
    ]
    return faults + [f"too much: {left}" for left in (*snapshots, *paid)]
