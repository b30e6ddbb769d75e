"""The mailbox's HTTP port: what has arrived, and how it is to behave.

GET  /mails?recipient=ADDRESS   the effective mails of one recipient, oldest first
GET  /mails?limit=N             the last N of all (100 unless given), and the counts
GET  /behaviour                 what is in force
POST /behaviour                 puts a whole new one in force: {} is the good one
"""

from dataclasses import asdict
from typing import Annotated, Final

from aiohttp import web
from prometheus_client import generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from system_under_test.services.mailbox.behaviour import Behaviour
from system_under_test.services.mailbox.metrics import MailboxMetrics
from system_under_test.services.mailbox.smtp import MailServer
from system_under_test.services.mailbox.store import MailStore
from system_under_test.services.service import METRICS_TYPE

_BODY_BYTES: Final = 4_096


class MailQuery(BaseModel):
    """What GET /mails can be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipient: Annotated[str, Field(min_length=1, max_length=254)] | None = None
    limit: Annotated[int, Field(ge=0, le=100_000)] = 100


def application(store: MailStore, server: MailServer, metrics: MailboxMetrics) -> web.Application:
    """The HTTP application of one mailbox."""

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def render_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": METRICS_TYPE})

    async def mails(request: web.Request) -> web.Response:
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
            web.get("/mails", mails),
            web.get("/behaviour", show),
            web.post("/behaviour", change),
        ]
    )
    return site


def _invalid(error: ValidationError) -> web.Response:
    problems = [
        {"field": ".".join(map(str, item["loc"])) or "body", "reason": item["msg"]}
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    document = {"type": "invalid-field", "title": "Invalid field", "status": 400, "problems": problems}
    return web.json_response(document, status=400, content_type="application/problem+json")
