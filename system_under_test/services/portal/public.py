"""What the public may know of the service: its state, also while it is closed or broken, and its schedule."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from pydantic import BaseModel, Field, TypeAdapter

from system_under_test.services.portal import problems
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.requests import Handler, answer, attempt_of
from system_under_test.services.portal.route import UNAVAILABLE, Route
from system_under_test.storage.public import PublicWindow
from system_under_test.storage.windows import ListedWindow, list_windows

_LISTED: Final = 20

Stage = Literal["scheduled", "noticed", "draining", "closed", "verifying", "open", "cancelled"]
Moment = Annotated[datetime, Field(description="RFC 3339, in business time")]


class WindowStatus(BaseModel):
    """The window that is under way, or else the next one."""

    id: int
    revision: int = Field(description="of the plan; each has its own notice")
    stage: Stage
    starts_at: Moment
    ends_at: Moment = Field(description="as planned")
    expected_end: Moment = Field(description="as far as is known now")
    starts_in_s: float | None = Field(description="business seconds; null when it has begun")
    ends_in_s: float = Field(description="business seconds until the expected end")
    overdue: bool = Field(description="the expected end has passed, and no new one is known yet")
    reason: str = Field(description="of the newest change")


class Status(BaseModel):
    """The service as this node knows it, `age_s` seconds ago; nulls when it has never known it."""

    service: Literal["savings"]
    stage: Literal["open", "draining", "closed", "verifying", "unknown"]
    balances: Literal["open", "closed", "unknown"]
    gate: Literal["open", "shut", "unknown"] = Field(description="shut while the ledger is not verified")
    queue_length: int | None = Field(description="redemptions that wait; they are taken in every stage")
    window: WindowStatus | None
    business_time: Moment | None
    business_rate: float | None = Field(description="business seconds in a second")
    age_s: float | None
    instance: str
    version: str


class WindowChange(BaseModel):
    """One change of a window."""

    change: Literal[
        "scheduled", "noticed", "moved", "cancelled", "draining", "closed", "finished", "verifying", "overrun", "opened"
    ]
    revision: int
    stage: Stage
    starts_at: Moment
    ends_at: Moment
    expected_end: Moment
    reason: str
    business_at: Moment
    recorded_at: datetime = Field(description="RFC 3339, in wall time")


class ScheduledWindow(BaseModel):
    """A window and everything that became of it, oldest first."""

    id: int
    revision: int
    stage: Stage
    starts_at: Moment
    ends_at: Moment
    expected_end: Moment
    reason: str
    events: list[WindowChange]


class Schedule(BaseModel):
    """Windows that are to come and recent ones, the latest first."""

    windows: list[ScheduledWindow]


ROUTES: Final[tuple[Route, ...]] = (
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
        path="/v1/schedule",
        operation="read_schedule",
        summary="Maintenance windows, those to come and recent ones",
        codes=(200, *UNAVAILABLE),
        answer=Schedule,
    ),
)


class PublicHandlers:
    """Answers the status from memory, and the schedule from the database."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {"read_status": self.read_status, "read_schedule": self.read_schedule}

    async def read_status(self, _request: web.Request) -> web.Response:
        """The public status, from memory."""
        return answer(current_status(self._node))

    async def read_schedule(self, _request: web.Request) -> web.Response:
        """The windows."""
        listed = await list_windows(self._node.ledger.database, limit=_LISTED)
        return answer(Schedule(windows=[_scheduled(window) for window in listed]))


def current_status(node: Node) -> Status:
    """The service as the node knows it."""
    copy, state, now = node.public, node.public.state, node.public.business_now
    if state is None or now is None:
        return Status(**_KNOWN_OF_NOTHING, service="savings", age_s=None, instance=node.instance, version=node.version)
    return Status(
        service="savings",
        stage=_STAGE.validate_python(state.stage),
        balances="open" if state.reads_open else "closed",
        gate="open" if state.gate == "open" else "shut",
        queue_length=state.queue_length,
        window=None if state.window is None else _window_status(state.window, now),
        business_time=now,
        business_rate=state.rate,
        age_s=copy.age_s,
        instance=node.instance,
        version=node.version,
    )


async def closed(node: Node, request: web.Request) -> Problem:
    """The refusal of a read while balances are closed: until when, why, and what goes on meanwhile."""
    known = node.public.state
    if known is None or known.reads_open:  # the database has just said otherwise: the copy is behind
        await node.public.refresh()
    return problems.refuse_on_purpose(
        problems.CLOSED,
        "Balances are closed for now; redemptions and deposits are taken. See /v1/status.",
        attempt=attempt_of(request),
        safe=True,
        retry_after_s=node.public.retry_after_s(),
        members={"service": current_status(node).model_dump(mode="json")},
    )


_STAGE: Final[TypeAdapter[Any]] = TypeAdapter(Literal["open", "draining", "closed", "verifying"])
_KNOWN_OF_NOTHING: Final[Mapping[str, Any]] = {
    "stage": "unknown",
    "balances": "unknown",
    "gate": "unknown",
    "queue_length": None,
    "window": None,
    "business_time": None,
    "business_rate": None,
}


def _window_status(window: PublicWindow, now: datetime) -> WindowStatus:
    begun = window.stage in {"draining", "closed", "verifying"}
    return WindowStatus.model_validate(
        {
            "id": window.number,
            "revision": window.revision,
            "stage": window.stage,
            "starts_at": window.start,
            "ends_at": window.end,
            "expected_end": window.published_end,
            "starts_in_s": None if begun else max((window.start - now).total_seconds(), 0.0),
            "ends_in_s": max((window.published_end - now).total_seconds(), 0.0),
            "overdue": now > window.published_end,
            "reason": window.reason,
        }
    )


def _scheduled(window: ListedWindow) -> ScheduledWindow:
    return ScheduledWindow.model_validate(
        {
            "id": window.window,
            "revision": window.revision,
            "stage": window.stage,
            "starts_at": window.planned_start,
            "ends_at": window.planned_end,
            "expected_end": window.published_end,
            "reason": window.reason,
            "events": window.events,
        }
    )
