"""The mailbox as a push service (RFC 8030): takes messages for the subscriptions that it made, and reads them.

    POST /push/<id> -> told to refuse? -> known? -> size, headers, VAPID -> decrypted, kept -> 201

A real push service could not read them; this one is the customers' devices as well, because somebody has to count what
can be read there.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog
from aiohttp import web

from system_under_test.domain.web_push import BODY_BYTES, TOKEN_S_MAX, decode64, decrypt, read_authorization
from system_under_test.services.mailbox.behaviour import PushBehaviour
from system_under_test.services.mailbox.metrics import MailboxMetrics
from system_under_test.services.mailbox.store import MailStore
from system_under_test.services.mailbox.subscriptions import Subscribed, Subscriptions

_TTL: Final = re.compile(r"[0-9]{1,10}")
_TOPIC: Final = re.compile(r"[0-9A-Za-z_-]{1,32}")
_URGENCIES: Final = frozenset({"very-low", "low", "normal", "high"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a message is not taken."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a message says; both are empty where it cannot be read."""

    id: str | None
    title: str


class PushService:
    """Takes messages into `store`; `behaviour` may be changed at any time and holds from the next message on."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        store: MailStore,
        metrics: MailboxMetrics,
        *,
        origin: str,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.behaviour = PushBehaviour()
        self._subscriptions = subscriptions
        self._store = store
        self._metrics = metrics
        self._origin = origin
        self._log = log
        self._messages = 0
        # Subscription -> the key of who sent to it first: nobody else may.
        self._senders: dict[str, bytes] = {}

    def endpoint(self, subscription: Subscribed) -> str:
        """Where messages for it are taken."""
        return f"{self._origin}/push/{subscription.id}"

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Answers one POST."""
        behaviour, self._messages = self.behaviour, self._messages + 1
        concerned = behaviour.concerns(self._messages)
        body = await request.read()
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        subscription = self._subscriptions.get(request.match_info["id"])
        if behaviour.refuse is not None:
            return self._refuse(Refusal(status=behaviour.refuse, detail="told to refuse"), behaviour)
        if subscription is None or subscription.removed:
            known = subscription is not None
            return self._refuse(Refusal(status=410 if known else 404, detail="no such subscription"), behaviour)
        refusal = malformed(request.headers, body) or self._stranger(request.headers, subscription)
        if refusal is not None:
            return self._refuse(refusal, behaviour)
        try:
            self._keep(subscription, body)
        except OSError as error:
            self._log.error("push.not_kept", problem=str(error))
            return self._refuse(Refusal(status=507, detail="it could not be written down"), PushBehaviour())
        answer = web.Response(status=behaviour.status, headers={"Location": f"{self._origin}/message"})
        transport = request.transport
        if concerned and behaviour.drop_after_taking and transport is not None:
            transport.abort()
        if concerned and behaviour.answer_twice and transport is not None:
            transport.write(f"HTTP/1.1 {behaviour.status} Taken\r\nContent-Length: 0\r\n\r\n".encode("ascii"))
        return answer

    def _stranger(self, headers: Mapping[str, str], subscription: Subscribed) -> Refusal | None:
        """Why the sender may not send (RFC 8292, section 4.2)."""
        header = headers.get("Authorization")
        if header is None:
            return Refusal(status=401, detail="expected Authorization: vapid")
        vapid = read_authorization(header)
        if vapid is None:
            return Refusal(status=403, detail="the token is malformed, or was not signed by its key")
        now_s = datetime.now(UTC).timestamp()
        if vapid.audience != self._origin or not now_s < vapid.expires_s <= now_s + TOKEN_S_MAX or not vapid.subject:
            return Refusal(status=403, detail="the token is for another service or another time, or names nobody")
        if self._senders.setdefault(subscription.id, vapid.public_key) != vapid.public_key:
            return Refusal(status=403, detail="this subscription is another sender's")
        return None

    def _refuse(self, refusal: Refusal, behaviour: PushBehaviour) -> web.Response:
        self._metrics.push_refusals.inc()
        retry = {} if behaviour.retry_after_s is None else {"Retry-After": str(behaviour.retry_after_s)}
        return web.json_response(
            {"status": refusal.status, "detail": refusal.detail}, status=refusal.status, headers=retry
        )

    def _keep(self, subscription: Subscribed, body: bytes) -> None:
        message = read_message(subscription, body)
        duplicates = self._store.duplicates
        self._store.record(
            (subscription.id,), message_id=message.id, subject=message.title, received_at=datetime.now(UTC)
        )
        repeated = self._store.duplicates > duplicates
        kind = "unreadable" if message.id is None else "duplicate" if repeated else "effective"
        self._metrics.pushes.labels(kind).inc()


def malformed(headers: Mapping[str, str], body: bytes) -> Refusal | None:
    """Why a request to push something is none (RFC 8030, section 5); None where it is."""
    if len(body) > BODY_BYTES:
        return Refusal(status=413, detail=f"at most {BODY_BYTES} bytes")
    if headers.get("Content-Encoding") != "aes128gcm":
        return Refusal(status=415, detail="expected Content-Encoding: aes128gcm")
    if _TTL.fullmatch(headers.get("TTL", "")) is None:
        return Refusal(status=400, detail="expected TTL in seconds")
    if _TOPIC.fullmatch(headers.get("Topic", "none")) is None:
        return Refusal(status=400, detail="expected a Topic of at most 32 letters of base64url")
    if headers.get("Urgency", "normal") not in _URGENCIES:
        return Refusal(status=400, detail=f"expected an Urgency of {', '.join(sorted(_URGENCIES))}")
    return None


def read_message(subscription: Subscribed, body: bytes) -> Message:
    """What the subscriber's device makes of a message."""
    unreadable = Message(id=None, title="")
    text = decrypt(body, private_key=decode64(subscription.private_key), auth=decode64(subscription.auth))
    try:
        message = json.loads(text or b"")
    except (ValueError, RecursionError):
        return unreadable
    if not isinstance(message, dict) or not isinstance(message.get("id"), str):
        return unreadable
    return Message(id=message["id"], title=str(message.get("title", "")))
