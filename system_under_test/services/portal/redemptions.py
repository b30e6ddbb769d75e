"""Redemptions: taken into the queue at any time, also while the service is closed, and looked at there."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from system_under_test.domain.orders import Order
from system_under_test.services.portal import problems
from system_under_test.services.portal.admission import Rank
from system_under_test.services.portal.money import order_response
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.requests import (
    Handler,
    answer,
    bearer_hash,
    expired,
    idempotency_key,
    read_body,
)
from system_under_test.services.portal.route import BODY_CODES, UNAVAILABLE, Route
from system_under_test.storage.intake import Intake
from system_under_test.storage.redemptions import SEQ_MAX, Redemption, Redemptions, Request

LIST_DEFAULT: Final = 20
LIST_MAX: Final = 100
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")
_RFC_3339: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
"""As the database writes it in a ticket; what it gives is in UTC."""
_TIME: Final[dict[str, Any]] = {"format": "date-time"}


class Ticket(BaseModel):
    """A redemption that was taken into the queue; the same text for each try with its key."""

    id: int = Field(description="its number: redemptions are decided in the order of their numbers")
    kind: Literal["redemption"]
    amount: int
    status: Literal["queued"]
    place: int = Field(description="in the queue when it was taken, from 1")
    accepted_at: str = Field(json_schema_extra=_TIME)


class RedemptionView(BaseModel):
    """One of the customer's redemptions as it stands now."""

    id: int
    kind: Literal["redemption"] = "redemption"
    amount: int
    status: Literal["queued", "settled", "refused", "parked"]
    reason: str | None = Field(description="why it was refused or parked")
    place: int | None = Field(description="in the queue now, from 1; null once it is decided")
    expected_at: str | None = Field(
        json_schema_extra=_TIME, description="when it will be settled, as far as can be told; null once it is decided"
    )
    transfer: int | None = Field(description="the transfer in the ledger that settled it")
    accepted_at: str = Field(json_schema_extra=_TIME)
    decided_at: str | None = Field(json_schema_extra=_TIME)


class RedemptionList(BaseModel):
    """The customer's redemptions, newest first."""

    redemptions: list[RedemptionView]
    more: bool = Field(description="whether older ones follow: ask again with `before` set to the last one's id")


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/v1/redemptions",
        operation="redeem",
        summary="Ask for money to be paid out; open while the service is closed, too",
        codes=(202, 401, 422, *BODY_CODES, *UNAVAILABLE),
        body=Order,
        answer=Ticket,
        authenticated=True,
        keyed=True,
        rank=Rank.REDEMPTION,
    ),
    Route(
        method="GET",
        path="/v1/redemptions",
        operation="list_redemptions",
        summary="The session's own redemptions, newest first",
        codes=(200, 400, 401, *UNAVAILABLE),
        answer=RedemptionList,
        authenticated=True,
        parameters=(
            {
                "name": "before",
                "in": "query",
                "description": "only older ones than this id",
                "schema": {"type": "integer", "minimum": 1, "maximum": SEQ_MAX},
            },
            {
                "name": "limit",
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": LIST_MAX, "default": LIST_DEFAULT},
            },
        ),
    ),
    Route(
        method="GET",
        path="/v1/redemptions/{id}",
        operation="read_redemption",
        summary="One of the session's own redemptions",
        codes=(200, 401, 404, *UNAVAILABLE),
        answer=RedemptionView,
        authenticated=True,
        parameters=(
            {
                "name": "id",
                "in": "path",
                "required": True,
                "schema": {"type": "integer", "minimum": 1, "maximum": SEQ_MAX},
            },
        ),
    ),
)


class RedemptionHandlers:
    """Hands requests to the node's intake, and reads what became of them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._redemptions = Redemptions(node.ledger.database)
        self._intake = Intake(self._redemptions.queue)

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {
            "redeem": self.redeem,
            "list_redemptions": self.list_redemptions,
            "read_redemption": self.read_redemption,
        }

    async def redeem(self, request: web.Request) -> web.Response:
        """Takes a redemption into the queue, or repeats the answer to it."""
        token_hash = bearer_hash(request)
        key = idempotency_key(request)
        order = await read_body(request, Order)
        taken = await self._intake.take(
            Request(token_hash=token_hash, key=key, payload=order.digest(), amount=order.amount)
        )
        return order_response(self._node, "redemption", taken)

    async def list_redemptions(self, request: web.Request) -> web.Response:
        """The session's own redemptions, newest first, a bounded number of them."""
        token_hash = bearer_hash(request)
        limit = _number(request, "limit", default=LIST_DEFAULT, maximum=LIST_MAX)
        before = _number(request, "before", default=SEQ_MAX, maximum=SEQ_MAX)
        # One more than is shown tells whether more follow.
        found = await self._redemptions.read(token_hash, before=before, limit=limit + 1)
        if isinstance(found, str):
            raise expired()
        views = [_view(redemption) for redemption in found[:limit]]
        return answer(RedemptionList(redemptions=views, more=len(found) > limit))

    async def read_redemption(self, request: web.Request) -> web.Response:
        """One of the session's own; that another customer has one with this number is not told."""
        token_hash = bearer_hash(request)
        text = request.match_info["id"]
        number = int(text) if _NUMBER.fullmatch(text) else 0
        found = await self._redemptions.read(token_hash, seq=min(number, SEQ_MAX))
        if isinstance(found, str):
            raise expired()
        if not found:
            raise Problem(problems.NOT_FOUND, "You have no redemption with this id.", field="id")
        return answer(_view(found[0]))


def _view(redemption: Redemption) -> RedemptionView:
    return RedemptionView.model_validate(
        {
            "id": redemption.seq,
            "amount": redemption.amount,
            "status": redemption.status,
            "reason": redemption.reason,
            "place": redemption.place,
            "transfer": redemption.transfer,
            "expected_at": _written(redemption.expected_at),
            "accepted_at": _written(redemption.accepted_at),
            "decided_at": _written(redemption.decided_at),
        }
    )


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime(_RFC_3339)


def _number(request: web.Request, name: str, *, default: int, maximum: int) -> int:
    texts = request.query.getall(name, [])
    if not texts:
        return default
    if len(texts) > 1 or not _NUMBER.fullmatch(texts[0]) or int(texts[0]) > maximum:
        raise Problem(
            problems.INVALID_FIELD, f"{name}: expected a whole number from 1 to {maximum}, sent once.", field=name
        )
    return int(texts[0])
