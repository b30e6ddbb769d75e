"""Planted bug: a portal that confirms a deposit before it is in the ledger, when the database takes its time.

It goes on writing behind the customer's back, as often as it takes: a database that hangs loses nothing. A portal that
is killed loses nothing either, for by then there is nothing to write. Only both at once lose what was confirmed.

Chosen by overriding the command of the role `portal`; the judges must see the lost deposits.
"""

import asyncio
import os
import sys
from typing import Any

from aiohttp import web

from system_under_test.domain.orders import Deposit
from system_under_test.services.portal import server
from system_under_test.services.portal.money import MoneyHandlers, Receipt, order_response
from system_under_test.services.portal.requests import answer, bearer_hash, idempotency_key, read_body

_PATIENCE_S = 0.6
_AGAIN_AFTER_S = 0.1
_behind: set[asyncio.Task[Any]] = set()


async def _book(take: Any, order: dict[str, Any]) -> Any:
    """Writes it, however often that fails once it was confirmed; the key makes that harmless."""
    while True:
        try:
            return await take(**order)
        except Exception:
            if asyncio.current_task() not in _behind:
                raise
            await asyncio.sleep(_AGAIN_AFTER_S)


async def _deposit(self: MoneyHandlers, request: web.Request) -> web.Response:
    token_hash, key = bearer_hash(request), idempotency_key(request)
    asked = await read_body(request, Deposit)
    order = {"token_hash": token_hash, "key": key, "payload": asked.digest(), "amount": asked.amount}
    booking = asyncio.create_task(_book(self._node.ledger.take_deposit, {**order, "reference": asked.reference}))
    if (await asyncio.wait({booking}, timeout=_PATIENCE_S))[0]:
        return order_response(self._node, "deposit", booking.result())
    _behind.add(booking)
    booking.add_done_callback(_behind.discard)
    return answer(Receipt(id=0, kind="deposit", amount=asked.amount, balance_withheld="synchronising"), status=201)


if __name__ == "__main__":
    setattr(MoneyHandlers, "deposit", _deposit)  # noqa: B010  (a method that the type checker takes for final)
    sys.exit(server.main([], os.environ))
