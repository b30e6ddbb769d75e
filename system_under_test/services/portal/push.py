"""Push subscriptions: where a customer's device is told of maintenance windows."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from pydantic import BaseModel, Field

from system_under_test.domain import p256
from system_under_test.domain.push import P256DH_PATTERN, Subscription, may_be_sent_to
from system_under_test.domain.web_push import decode64
from system_under_test.services.portal import problems
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.requests import Handler, answer, bearer_hash, expired, read_body
from system_under_test.services.portal.route import BODY_CODES, UNAVAILABLE, Route
from system_under_test.storage.push import PushSubscriptions


class PushKey(BaseModel):
    """What a subscription is made for: `applicationServerKey` in a browser."""

    public_key: str = Field(
        description="a public key of P-256, 65 bytes in base64url", json_schema_extra={"pattern": P256DH_PATTERN}
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/v1/push-key",
        operation="read_push_key",
        summary="The key to subscribe with",
        codes=(200, 404, *UNAVAILABLE),
        answer=PushKey,
    ),
    Route(
        method="PUT",
        path="/v1/push-subscription",
        operation="subscribe",
        summary="Be told of maintenance windows by web push as well, on this device in place of any other",
        codes=(204, 401, 422, *BODY_CODES, *UNAVAILABLE),
        body=Subscription,
        authenticated=True,
    ),
    Route(
        method="DELETE",
        path="/v1/push-subscription",
        operation="unsubscribe",
        summary="Be told by web push no longer",
        codes=(204, 401, *UNAVAILABLE),
        authenticated=True,
    ),
)


class PushHandlers:
    """Keeps subscriptions that can be sent to."""

    def __init__(self, node: Node) -> None:
        self._hosts = node.push_hosts
        self._subscriptions = PushSubscriptions(node.ledger.database)

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {"read_push_key": self.read_key, "subscribe": self.subscribe, "unsubscribe": self.unsubscribe}

    async def read_key(self, _request: web.Request) -> web.Response:
        """The key in force."""
        key = await self._subscriptions.key()
        if key is None:
            raise Problem(problems.NOT_FOUND, "No notifier has published a key yet: nothing is sent by web push.")
        return answer(PushKey(public_key=key))

    async def subscribe(self, request: web.Request) -> web.Response:
        """Keeps the subscription; the same one sent again changes nothing."""
        token_hash = bearer_hash(request)
        subscription = await read_body(request, Subscription)
        refused = self._refusal(subscription)
        if refused is not None:
            # What can be subscribed is not told to strangers.
            raise refused if await self._subscriptions.is_session(token_hash) else expired()
        if not await self._subscriptions.put(token_hash, subscription):
            raise expired()
        return web.Response(status=204)

    def _refusal(self, subscription: Subscription) -> Problem | None:
        if not may_be_sent_to(subscription.endpoint, self._hosts):
            return Problem(
                problems.SUBSCRIPTION_REFUSED, "This platform does not send to that push service.", field="endpoint"
            )
        if not p256.is_public_key(decode64(subscription.keys.p256dh)):
            return Problem(problems.SUBSCRIPTION_REFUSED, "Not a point of the curve P-256.", field="keys.p256dh")
        return None

    async def unsubscribe(self, request: web.Request) -> web.Response:
        """Forgets the subscription, if there is one."""
        if not await self._subscriptions.delete(bearer_hash(request)):
            raise expired()
        return web.Response(status=204)
