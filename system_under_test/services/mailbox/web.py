"""The mailbox's HTTP port: what has arrived, and how it is to behave.

GET    /mails?recipient=ADDRESS   the effective mails of one recipient, oldest first
GET    /mails?limit=N             the last N of all (100 unless given), and the counts
GET    /behaviour                 what is in force
POST   /behaviour                 puts a whole new one in force: {} is the good one

POST   /push/ID                   a message of web push for a subscription
POST   /subscriptions             makes {"count": N} subscriptions, as browsers would write them
DELETE /subscriptions/ID          removes one: messages for it are answered with 410
GET    /pushes                    as /mails: to a subscription, by the names and titles that the messages have inside
GET    /push-behaviour            as /behaviour, for messages of web push
POST   /push-behaviour
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Final

from aiohttp import web
from prometheus_client import generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from system_under_test.services.mailbox.behaviour import Behaviour, PushBehaviour
from system_under_test.services.mailbox.metrics import MailboxMetrics
from system_under_test.services.mailbox.push import PushService
from system_under_test.services.mailbox.smtp import MailServer
from system_under_test.services.mailbox.store import MailStore
from system_under_test.services.mailbox.subscriptions import Subscriptions
from system_under_test.services.service import METRICS_TYPE

_BODY_BYTES: Final = 8_192
SUBSCRIPTIONS_AT_ONCE: Final = 1_000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MailQuery(BaseModel):
    """What GET /mails can be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipient: Annotated[str, Field(min_length=1, max_length=254)] | None = None
    limit: Annotated[int, Field(ge=0, le=100_000)] = 100


class NewSubscriptions(BaseModel):
    """How many subscriptions are to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Annotated[int, Field(strict=True, ge=1, le=SUBSCRIPTIONS_AT_ONCE)]


def application(store: MailStore, server: MailServer, metrics: MailboxMetrics) -> web.Application:
    """The HTTP application of one mailbox, without its push service."""

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def render_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": METRICS_TYPE})

    async def show(_request: web.Request) -> web.Response:
        return web.json_response(server.behaviour.model_dump())

    async def change(request: web.Request) -> web.Response:
        try:
            server.behaviour = Behaviour.model_validate_json(await request.read())
        except ValidationError as error:
            return _invalid(error)
        return web.json_response(server.behaviour.model_dump())

    site = web.Application(client_max_size=_BODY_BYTES)
    site.add_routes(
        [
            web.get("/healthz", health),
            web.get("/readyz", ready),
            web.get("/metrics", render_metrics),
            web.get("/mails", _received(store)),
            web.get("/behaviour", show),
            web.post("/behaviour", change),
        ]
    )
    return site


def add_push(
    site: web.Application, service: PushService, subscriptions: Subscriptions, store: MailStore
) -> web.Application:
    """Adds the push service to a mailbox's application."""

    async def make(request: web.Request) -> web.Response:
        try:
            wanted = NewSubscriptions.model_validate_json(await request.read())
        except ValidationError as error:
            return _invalid(error)
        made = [
            {"endpoint": service.endpoint(one), "keys": {"p256dh": one.public_key, "auth": one.auth}}
            for one in subscriptions.make(wanted.count)
        ]
        return web.json_response({"subscriptions": made}, status=201)

    async def remove(request: web.Request) -> web.Response:
        return web.Response(status=204 if subscriptions.remove(request.match_info["id"]) else 404)

    async def show(_request: web.Request) -> web.Response:
        return web.json_response(service.behaviour.model_dump())

    async def change(request: web.Request) -> web.Response:
        try:
            service.behaviour = PushBehaviour.model_validate_json(await request.read())
        except ValidationError as error:
            return _invalid(error)
        return web.json_response(service.behaviour.model_dump())

    site.add_routes(
        [
            web.post("/push/{id}", service.take),
            web.post("/subscriptions", make),
            web.delete("/subscriptions/{id}", remove),
            web.get("/pushes", _received(store)),
            web.get("/push-behaviour", show),
            web.post("/push-behaviour", change),
        ]
    )
    return site


def _received(store: MailStore) -> Handler:
    async def mails(request: web.Request) -> web.StreamResponse:
        try:
            query = MailQuery.model_validate(dict(request.query))
        except ValidationError as error:
            return _invalid(error)
        found = store.newest(query.limit) if query.recipient is None else store.to(query.recipient)
        return web.json_response(
            {
                "received": store.received,
                "effective": store.effective,
                "duplicates": store.duplicates,
                "mails": [asdict(mail) for mail in found],
            }
        )

    return mails


def _invalid(error: ValidationError) -> web.Response:
    problems = [
        {"field": ".".join(map(str, item["loc"])) or "body", "reason": item["msg"]}
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    document = {"type": "invalid-field", "title": "Invalid field", "status": 400, "problems": problems}
    return web.json_response(document, status=400, content_type="application/problem+json")
