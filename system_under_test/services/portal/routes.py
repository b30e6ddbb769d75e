"""The portal's routes as data: what is served, described, counted and initialised comes from this one table."""

from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, Field

from system_under_test.domain.orders import Credentials, Order

Method = Literal["GET", "POST"]


class Session(BaseModel):
    """A session that was opened."""

    token: str = Field(description="goes into the header Authorization: Bearer")
    account: str
    expires_at: str = Field(description="RFC 3339", json_schema_extra={"format": "date-time"})


class Receipt(BaseModel):
    """An order that was carried out."""

    id: str = Field(description="the transfer in the ledger", json_schema_extra={"format": "uuid"})
    kind: Literal["deposit", "redeem"]
    amount: int
    balance: int = Field(description="after the transfer")


class BalanceView(BaseModel):
    """A balance and what it is true of."""

    account: str
    balance: int
    head: int = Field(description="number of the newest transfer contained in the balance; 0 before the first")


class Status(BaseModel):
    """What the public may know."""

    service: Literal["savings"]
    stage: Literal["open"]
    instance: str
    version: str


class Health(BaseModel):
    """That the process lives."""

    status: Literal["ok"]
    instance: str
    version: str


class Readiness(BaseModel):
    """That the node can serve."""

    status: Literal["ready"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. `business` routes are what customers come for: they count as in flight and may be shed."""

    method: Method
    path: str
    operation: str
    summary: str
    codes: tuple[int, ...]
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    authenticated: bool = False
    keyed: bool = False
    business: bool = True


_BODY_CODES: Final = (400, 413, 415)
_UNAVAILABLE: Final = (500, 503)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/sessions",
        operation="open_session",
        summary="Log in",
        codes=(201, 401, *_BODY_CODES, *_UNAVAILABLE),
        body=Credentials,
        answer=Session,
    ),
    Route(
        method="POST",
        path="/v1/deposits",
        operation="deposit",
        summary="Pay money in",
        codes=(201, 401, 422, *_BODY_CODES, *_UNAVAILABLE),
        body=Order,
        answer=Receipt,
        authenticated=True,
        keyed=True,
    ),
    Route(
        method="POST",
        path="/v1/redemptions",
        operation="redeem",
        summary="Take money out",
        codes=(201, 401, 422, *_BODY_CODES, *_UNAVAILABLE),
        body=Order,
        answer=Receipt,
        authenticated=True,
        keyed=True,
    ),
    Route(
        method="GET",
        path="/v1/balance",
        operation="read_balance",
        summary="The session's own balance",
        codes=(200, 401, *_UNAVAILABLE),
        answer=BalanceView,
        authenticated=True,
    ),
    Route(
        method="GET",
        path="/v1/status",
        operation="read_status",
        summary="The service's public status; needs no database",
        codes=(200, 500),
        answer=Status,
        business=False,
    ),
    Route(
        method="GET",
        path="/healthz",
        operation="read_health",
        summary="Whether the process lives",
        codes=(200,),
        answer=Health,
        business=False,
    ),
    Route(
        method="GET",
        path="/readyz",
        operation="read_readiness",
        summary="Whether the node can serve",
        codes=(200, 503),
        answer=Readiness,
        business=False,
    ),
    Route(
        method="GET",
        path="/metrics",
        operation="read_metrics",
        summary="Metrics as Prometheus text",
        codes=(200,),
        business=False,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation="read_description",
        summary="This description",
        codes=(200,),
        business=False,
    ),
)
UNOBSERVED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines several times a second: neither logged nor counted."""
