"""The queue against a model of it in plain Python, step by step, whatever comes in whatever order."""

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.integration.platform.queues import OPENING, QueueDatabase, Wish, ask, deposit, settle, take_lease

_PEOPLE = 3
_person = st.integers(0, _PEOPLE - 1)
_key = st.integers(0, 11).map(lambda n: f"key-{n}")
_amount = st.integers(1, 700)
_fresh = itertools.count()


@dataclass(slots=True)
class Model:
    """What the queue should be: every account's funds, the orders by their keys, and what waits."""

    funds: dict[str, int] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    orders: dict[tuple[str, str], tuple[str, bytes, int]] = field(default_factory=dict)
    accepted: int = 0
    decided: int = 0
    waiting: list[Wish] = field(default_factory=list)

    def take(self, wish: Wish) -> tuple[str, bool, int | None]:
        """Outcome, whether it is replayed, and the number."""
        known = self.orders.get((wish.account, wish.key))
        if known is not None:
            same = known[:2] == ("redemption", wish.payload_hash)
            return ("answered", True, known[2]) if same else ("mismatch", True, None)
        self.accepted += 1
        self.waiting.append(wish)
        self.orders[wish.account, wish.key] = ("redemption", wish.payload_hash, self.accepted)
        return "answered", False, self.accepted

    def decide(self) -> tuple[int, str, int | None]:
        """Number, status and funds left of the one that is next."""
        wish = self.waiting.pop(0)
        self.decided += 1
        if wish.account in self.frozen:
            return self.decided, "parked", None
        if self.funds[wish.account] < wish.amount:
            return self.decided, "refused", self.funds[wish.account]
        self.funds[wish.account] -= wish.amount
        return self.decided, "settled", self.funds[wish.account]


class QueueMachine(RuleBasedStateMachine):
    """Does the same to the database and to the model."""

    database: ClassVar[QueueDatabase]

    @initialize()
    def begin(self) -> None:
        """New customers, on whatever queue is there."""
        self.runner = asyncio.Runner()
        self.context = self.database.connected()
        self.owner = self.runner.run(self.context.__aenter__())
        self.people = self.runner.run(self.database.new_customers(_PEOPLE))
        self.token = self.runner.run(take_lease(self.owner))
        self.model = Model(funds=dict.fromkeys(self.people, OPENING))
        self.model.accepted = self.model.decided = self.value("select accepted from intake")

    def value(self, query: str) -> Any:
        return self.runner.run(self.owner.fetchval(query))

    @rule(batch=st.lists(st.tuples(_person, _key, _amount, st.sampled_from(["", "other"])), max_size=6))
    def queue(self, batch: list[tuple[int, str, int, str]]) -> None:
        """Some redemptions in one call, whose keys may have been used, in the same call too."""
        wishes = [Wish(self.people[person], key, amount, payload) for person, key, amount, payload in batch]
        rows = self.runner.run(ask(self.owner, wishes))
        for wish, row in zip(wishes, rows, strict=True):
            outcome, replayed, number = self.model.take(wish)
            assert (row["outcome"], row["replayed"]) == (outcome, replayed)
            if number is not None:
                assert json.loads(row["response"])["id"] == number

    @rule(person=_person, key=_key, amount=_amount)
    def queue_again(self, person: int, key: str, amount: int) -> None:
        """One more, alone."""
        self.queue([(person, key, amount, "")])

    @rule(person=_person, amount=_amount)
    def pay_in(self, person: int, amount: int) -> None:
        """A deposit under a key of its own."""
        self.runner.run(deposit(self.owner, self.people[person], f"in-{next(_fresh)}", amount))
        self.model.funds[self.people[person]] += amount

    @rule(limit=st.integers(1, 5))
    def settle_some(self, limit: int) -> None:
        """A chunk, compared row by row."""
        chunk = self.runner.run(settle(self.owner, self.token, limit))
        expected = [self.model.decide() for _ in range(min(limit, len(self.model.waiting)))]
        if not expected:
            assert chunk is None
            return
        rows = self.runner.run(
            self.owner.fetch(
                "select seq, status, balance_after from outcome where seq between $1 and $2 order by seq",
                chunk["first"],
                chunk["last"],
            )
        )
        assert [tuple(row) for row in rows] == expected

    @rule(person=_person)
    def freeze_or_free(self, person: int) -> None:
        """An account is frozen, or freed again."""
        account = self.people[person]
        self.model.frozen ^= {account}
        self.runner.run(
            self.owner.execute("update account set frozen = $2 where id = $1", account, account in self.model.frozen)
        )

    @rule()
    def change_the_settler(self) -> None:
        """Another process takes the lease."""
        self.token = self.runner.run(take_lease(self.owner, f"settler-{next(_fresh)}"))

    @invariant()
    def agrees(self) -> None:
        """Funds and counts are those of the model."""
        if not hasattr(self, "model"):
            return
        rows = self.runner.run(self.owner.fetch("select id, balance from account where id = any ($1)", self.people))
        assert dict(rows) == self.model.funds
        counts = "select array[i.accepted, s.decided] from intake i, settlement s"
        assert self.value(counts) == [self.model.accepted, self.model.decided]

    def teardown(self) -> None:
        """Leaves nothing waiting."""
        if hasattr(self, "runner"):
            while self.runner.run(settle(self.owner, self.token)) is not None:
                pass
            self.runner.run(self.context.__aexit__(None, None, None))
            self.runner.close()


@pytest.fixture
def machine(queue: QueueDatabase) -> type[QueueMachine]:
    """The machine, on the shared queue."""
    QueueMachine.database = queue
    return QueueMachine


def test_the_queue_does_what_its_model_does(machine: type[QueueMachine]) -> None:
    """Forty runs of up to thirty steps: tickets, decisions, funds and counts are the model's after each."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
