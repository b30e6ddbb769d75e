"""Redemptions as a rush of customers sends them: some twice, some with a key that is used for another amount, too."""

import json
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.benchmarks.requests import Answer, post

_ACCEPTED: Final = 202
_KEY_REUSED: Final = 422


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One try: `key` names the redemption that it is meant to be."""

    token: str
    account: str
    key: str
    amount: int

    def request(self) -> bytes:
        """As it goes over the wire."""
        return post("/v1/redemptions", token=self.token, key=self.key, body=json.dumps({"amount": self.amount}))


def rush(
    sessions: Sequence[tuple[str, str]], redemptions: int, *, twice: int, reused: int, amount_max: int
) -> list[Order]:
    """So many redemptions in any order; `twice` of them are sent again, and of `reused` others the key, with more."""
    draw = random.Random(redemptions)  # noqa: S311 - the same load each time
    orders = []
    for _ in range(redemptions):
        token, account = draw.choice(sessions)
        orders.append(Order(token=token, account=account, key=str(uuid.uuid4()), amount=draw.randint(1, amount_max)))
    chosen = draw.sample(orders, k=twice + reused)
    others = [
        Order(token=one.token, account=one.account, key=one.key, amount=one.amount + amount_max)
        for one in chosen[twice:]
    ]
    tries = orders + chosen[:twice] + others
    draw.shuffle(tries)
    return tries


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What the customers were told of their orders, and whether the platform's rows say the same."""

    orders: Sequence[Order]
    refused: int = 0
    failed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    _accepted: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def judge(self, answer: Answer) -> float | None:
        """Notes an answer; what could not be done now is sent again with its key.

        Raises:
            RuntimeError: it says neither that the order was taken, nor that its key was used, nor that it could not be.
        """
        if answer.again_s is not None:
            self.refused += answer.refused
            self.failed += not answer.refused
            return answer.again_s
        if answer.status not in {_ACCEPTED, _KEY_REUSED}:
            raise RuntimeError(f"an order was answered {(answer.head + answer.body)[:500]!r}")
        self.statuses[answer.status] += 1
        if answer.status == _ACCEPTED:
            self._accepted[self.orders[answer.number].key].append(answer.body)
        return None

    @property
    def expected(self) -> dict[int, int]:
        """How many answers of which status there must be: of each key's tries those of one amount are accepted."""
        amounts: dict[str, Counter[int]] = defaultdict(Counter)
        for order in self.orders:
            amounts[order.key][order.amount] += 1
        reused = sum(len(tries) - 1 for tries in amounts.values())
        return {_ACCEPTED: len(self.orders) - reused, _KEY_REUSED: reused}

    def mistakes(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Where counts, answers and the rows of the queue differ; `rows` have seq, account, key and amount."""
        wrong = []
        if dict(self.statuses) != self.expected:
            wrong.append(f"answers were {dict(self.statuses)}, expected {self.expected}")
        wanted = {(order.account, order.key, order.amount) for order in self.orders}
        keys = {order.key for order in self.orders}
        if len(rows) != len(keys):
            wrong.append(f"{len(rows)} redemptions are queued, {len(keys)} were asked for")
        for row in rows:
            told = {(answer["id"], answer["amount"]) for answer in map(json.loads, set(self._accepted[row["key"]]))}
            if told != {(row["seq"], row["amount"])} or len(set(self._accepted[row["key"]])) != 1:
                wrong.append(
                    f"{row['key']}: the queue has {row['seq']} with {row['amount']}, its customer was told {told}"
                )
            if (row["account"], row["key"], row["amount"]) not in wanted:
                wrong.append(f"{row['key']}: {row['amount']} from {row['account']} was never asked for")
        return wrong
