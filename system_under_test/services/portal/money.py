"""Deposits and balances."""

from collections.abc import Mapping
from typing import Final, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from system_under_test.domain.money import ACCOUNT_MAX
from system_under_test.domain.orders import Deposit
from system_under_test.services.portal import problems
from system_under_test.services.portal.admission import Rank
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.public import closed
from system_under_test.services.portal.requests import (
    Handler,
    answer,
    bearer_hash,
    expired,
    idempotency_key,
    key_reused,
    read_body,
)
from system_under_test.services.portal.route import BODY_CODES, UNAVAILABLE, Route
from system_under_test.storage.ledger import CLOSED, FULL, SYNCHRONISING, UNAUTHENTICATED, Answer


class Receipt(BaseModel):
    """A deposit that was carried out; the same for each try with its key, but for a balance that is closed by then.

    A repeat leaves out a balance that may not be told when it is asked for. What the first answer left out no repeat
    has: it was never verified.
    """

    id: int = Field(description="the transfer in the ledger")
    kind: Literal["deposit"]
    amount: int
    balance: int | None = Field(
        default=None, description="after the transfer; left out where /v1/balance would tell none"
    )
    balance_withheld: Literal["closed", "synchronising", "session-ended"] | None = Field(
        default=None, description="why the balance is left out; left out where it is there"
    )
    reference: str | None = Field(default=None, description="as it was given; left out where none was")


class BalanceView(BaseModel):
    """A balance and what it is true of; the numbers are null while the session is being synchronised."""

    state: Literal["current", "synchronising"]
    account: str | None = None
    balance: int | None = None
    interest: int | None = Field(default=None, description="credited so far, contained in the balance")
    head: int | None = Field(
        default=None, description="number of the newest transfer contained in the balance; 0 before the first"
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/v1/deposits",
        operation="deposit",
        summary="Pay money in",
        codes=(201, 401, 422, *BODY_CODES, *UNAVAILABLE),
        body=Deposit,
        answer=Receipt,
        authenticated=True,
        keyed=True,
        rank=Rank.DEPOSIT,
    ),
    Route(
        method="GET",
        path="/v1/balance",
        operation="read_balance",
        summary="The session's own balance",
        codes=(200, 401, *UNAVAILABLE),
        answer=BalanceView,
        authenticated=True,
    ),
)


class MoneyHandlers:
    """Asks the ledger."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {"deposit": self.deposit, "read_balance": self.read_balance}

    async def deposit(self, request: web.Request) -> web.Response:
        """Carries a deposit out, or repeats the answer to it."""
        token_hash = bearer_hash(request)
        key = idempotency_key(request)
        order = await read_body(request, Deposit)
        taken = await self._node.ledger.take_deposit(
            token_hash=token_hash, key=key, payload=order.digest(), amount=order.amount, reference=order.reference
        )
        return order_response(self._node, "deposit", taken)

    async def read_balance(self, request: web.Request) -> web.Response:
        """The session's own balance."""
        balance = await self._node.ledger.read_balance(bearer_hash(request))
        if balance == UNAUTHENTICATED:
            raise expired()
        if balance == CLOSED:
            raise await closed(self._node, request)
        if balance == SYNCHRONISING or isinstance(balance, str):
            return answer(BalanceView(state="synchronising"))
        return answer(
            BalanceView(
                state="current",
                account=balance.account,
                balance=balance.balance,
                interest=balance.interest,
                head=balance.head,
            )
        )


def order_response(node: Node, kind: str, taken: Answer | str) -> web.Response:
    """The stored answer to an order as a response, counted.

    Raises:
        Problem: there is none, because of the session, the key, or the account's limit.
    """
    if taken == UNAUTHENTICATED:
        raise expired()
    if taken == FULL:
        raise Problem(
            problems.ACCOUNT_FULL, f"The account would hold more than {ACCOUNT_MAX} minor units.", field="amount"
        )
    if isinstance(taken, str):
        raise key_reused()
    outcome = "duplicate" if taken.replayed else "ok" if taken.status < 400 else "rejected"
    node.metrics.postings.labels(kind, outcome).inc()
    response = web.Response(
        status=taken.status,
        text=taken.body,
        content_type="application/json" if taken.status < 400 else problems.MEDIA_TYPE,
    )
    if taken.replayed:
        node.metrics.replays.inc()
        response.headers["Idempotency-Replayed"] = "true"
    return response
