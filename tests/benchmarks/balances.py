"""Every session reads its balance once, and every answer is compared with the ledger at the head that it names."""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tests.benchmarks.requests import Answer, Load, exchange, get

CONNECTIONS: Final = 500
"""Real ones, through the balancer: each serves many sessions in turn. More only wait longer in the nodes."""
_OK: Final = 200
_SYNCHRONISING_AGAIN_S: Final = 0.1
TRANSFERS: Final = "select seq, debit_account, credit_account, amount, recorded_at from transfer order by seq"


@dataclass(slots=True, kw_only=True)
class Readings:
    """What each session was told when it was told a number at last, and how often it had to ask again."""

    sessions: Sequence[tuple[str, str]]
    told: list[Any] = field(default_factory=list)
    synchronising: int = 0
    turned_away: int = 0
    failed: int = 0

    async def read_all(self, url: str) -> Load:
        """Reads every session's balance."""
        requests = [get("/v1/balance", token=token) for token, _ in self.sessions]
        self.told = [None] * len(requests)
        return await exchange(url, requests, connections=CONNECTIONS, judge=self._judge)

    def _judge(self, answer: Answer) -> float | None:
        if answer.again_s is not None:
            self.turned_away += answer.refused
            self.failed += not answer.refused
            return answer.again_s
        if answer.status != _OK:
            raise RuntimeError(f"a balance was answered {(answer.head + answer.body)[:500]!r}")
        told = json.loads(answer.body)
        if told["state"] == "synchronising":
            self.synchronising += 1
            return _SYNCHRONISING_AGAIN_S
        self.told[answer.number] = told
        return None

    def inexact(self, transfers: Sequence[Mapping[str, Any]], opened_at: datetime) -> list[str]:
        """Answers that are not the sum of their account's transfers up to the head they name, or older than allowed.

        `transfers` are all of the ledger, in order. An answer after the opening contains all that was moved before it.
        """
        numbers: dict[str, list[int]] = defaultdict(list)
        sums: dict[str, list[int]] = defaultdict(list)
        before: dict[str, int] = defaultdict(int)
        for row in transfers:
            for account, amount in ((row["debit_account"], -row["amount"]), (row["credit_account"], row["amount"])):
                sums[account].append((sums[account][-1] if sums[account] else 0) + amount)
                numbers[account].append(row["seq"])
                if row["recorded_at"] <= opened_at:
                    before[account] = row["seq"]
        wrong = []
        for (_, account), told in zip(self.sessions, self.told, strict=True):
            place = bisect_right(numbers[account], told["head"])
            computed = sums[account][place - 1] if place else 0
            if (told["account"], told["balance"]) != (account, computed) or told["head"] < before[account]:
                wrong.append(f"{account}: told {told}, the ledger has {computed}, moved before: {before[account]}")
        return wrong
