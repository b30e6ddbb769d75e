"""What operators may do, on the maintenance process's own port and never through the balancer.

Everything here needs the operator's token, whatever the path or method: who has none learns nothing but that.
"""

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from system_under_test.domain.windows import LONGEST, SHORTEST, USUAL
from system_under_test.services.http_server import go_on
from system_under_test.services.portal import problems
from system_under_test.services.portal.problems import Kind, Problem
from system_under_test.services.portal.requests import CHALLENGE, read_body, request_id_of
from system_under_test.services.service import BODY_BYTES_MAX, Service
from system_under_test.storage.database import NotDoneError, OutcomeUnknownError
from system_under_test.storage.windows import ListedWindow, Planned, Windows, list_windows

PREFIX: Final = "/v1"
LISTED_MAX: Final = 200
RATE_MAX: Final = 1_000_000.0
_AHEAD_MAX: Final = timedelta(days=366)
# Business time cannot go back: a slip of the hand must not take it out of what calendars can hold.
_FORWARD_MAX: Final = timedelta(days=3660)
_MINUTE_S: Final = 60
_WINDOW_MAX: Final = 2**63 - 1

TOO_SOON: Final = Kind(type="window-too-soon", title="Window too soon", status=422)
TOO_FAR: Final = Kind(type="window-too-far", title="Window too far ahead", status=422)
TIME_TAKEN: Final = Kind(type="window-time-taken", title="Time taken by another window", status=409)
BEGUN: Final = Kind(type="window-begun", title="Window has begun", status=409)
NOT_CLOSED: Final = Kind(type="window-not-closed", title="Window is not closed", status=409)
CLOCK_TOO_FAR: Final = Kind(type="clock-too-far", title="Too far ahead for business time", status=422)
BACKWARDS: Final = Kind(type="clock-backwards", title="Business time cannot go back", status=422)
WINDOW_UNDER_WAY: Final = Kind(type="window-under-way", title="A window is under way", status=409)

# Goes into mails and pages: one line that can be printed.
Reason = Annotated[
    str, Field(strict=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")
]
Minutes = Annotated[
    int, Field(strict=True, ge=SHORTEST.total_seconds() / _MINUTE_S, le=LONGEST.total_seconds() / _MINUTE_S)
]
Moment = Annotated[AwareDatetime, Field(strict=True)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Plan(_Body):
    """A window to be scheduled; `starts_at` in business time."""

    starts_at: Moment
    minutes: Minutes = int(USUAL.total_seconds() / _MINUTE_S)
    reason: Reason = "planned maintenance"


class Move(_Body):
    """Another time for a window; as long as before unless `minutes` is given."""

    starts_at: Moment
    minutes: Minutes | None = None
    reason: Reason


class Why(_Body):
    """What customers are told."""

    reason: Reason


class Forward(_Body):
    """How business time goes on: from `to`, or from `by_s` seconds later than now, and at `rate`; at least one."""

    to: Moment | None = None
    by_s: Annotated[float, Field(strict=True, gt=0, le=_FORWARD_MAX.total_seconds(), allow_inf_nan=False)] | None = None
    rate: Annotated[float, Field(strict=True, gt=0, le=RATE_MAX, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Forward":
        if self.to is not None and self.by_s is not None:
            raise ValueError("to and by_s exclude each other")
        if self.to is None and self.by_s is None and self.rate is None:
            raise ValueError("expected to, by_s or rate")
        return self


def operator_api(token: str) -> Callable[[Service], web.Application]:
    """The part of a process that answers operators who know `token`."""

    def build(service: Service) -> web.Application:
        handlers = _Handlers(service)
        application = web.Application(middlewares=[_guard(service, token)])
        application.add_routes(
            route(path, handler, expect_handler=go_on)
            for route, path, handler in (
                (web.get, "/windows", handlers.list_windows),
                (web.post, "/windows", handlers.schedule),
                (web.post, "/windows/{window}/move", handlers.move),
                (web.post, "/windows/{window}/cancel", handlers.cancel),
                (web.post, "/windows/{window}/finish", handlers.finish),
                (web.get, "/clock", handlers.read_clock),
                (web.post, "/clock", handlers.forward_clock),
            )
        )
        return application

    return build


def _guard(service: Service, token: str) -> Any:
    expected = hashlib.sha256(token.encode()).digest()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request_id_of(request)
        try:
            _authenticate(request, expected)
            response = await handler(request)
        except Problem as problem:
            response = _respond(problem)
        except NotDoneError as error:
            detail = f"The database could not take this on; nothing was done. {error}"
            response = _respond(Problem(problems.NOT_DONE, detail, headers={"Retry-After": "1"}))
        except OutcomeUnknownError:
            detail = "The database did not answer; this may have been carried out. List the windows to see."
            response = _respond(Problem(problems.OUTCOME_UNKNOWN, detail))
        except web.HTTPException as error:
            response = _respond(_refused_by_server(error))
        except Exception:
            service.log.exception("operator.error", request_id=request_id, path=request.path)
            response = _respond(Problem(problems.INTERNAL, f"Unexpected; the log has it under request {request_id}."))
        response.headers["X-Request-Id"] = request_id
        service.log.info(
            "operator.request",
            request_id=request_id,
            method=request.method,
            path=request.path,
            status=response.status,
        )
        return response

    return guard


def _authenticate(request: web.Request, expected: bytes) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Hashes of one length, compared in constant time: an answer's time tells nothing about the token.
    digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
    if not hmac.compare_digest(digest, expected) or scheme.lower() != "bearer":
        raise Problem(
            problems.UNAUTHENTICATED, "Send Authorization: Bearer and the operator's token.", headers=CHALLENGE
        )


def _respond(problem: Problem) -> web.Response:
    headers = {"Content-Type": problems.MEDIA_TYPE, **problem.headers}
    return web.Response(body=problem.body(), status=problem.kind.status, headers=headers)


def _refused_by_server(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(problems.METHOD_NOT_ALLOWED, f"Only {allowed} is possible here.", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(problems.TOO_LARGE, f"A body has at most {BODY_BYTES_MAX} bytes.", field="body")
    if isinstance(error, web.HTTPNotFound):
        return Problem(problems.NOT_FOUND, "No such resource of the operator's interface.")
    return Problem(Kind(type="about:blank", title=error.reason, status=error.status), error.reason)


class _Handlers:
    def __init__(self, service: Service) -> None:
        self._database = service.database
        self._windows = Windows(service.database)

    async def list_windows(self, _request: web.Request) -> web.Response:
        """The newest windows with their history."""
        listed = await list_windows(self._database, limit=LISTED_MAX)
        return web.json_response({"windows": [window_document(window) for window in listed]})

    async def schedule(self, request: web.Request) -> web.Response:
        """Plans a window."""
        plan = await read_body(request, Plan)
        await self._check_start(plan.starts_at)
        planned = await self._windows.schedule(start=plan.starts_at, minutes=plan.minutes, reason=plan.reason)
        return _planned(planned, status=201)

    async def move(self, request: web.Request) -> web.Response:
        """Gives a window another time."""
        window = _window(request)
        to = await read_body(request, Move)
        await self._check_start(to.starts_at)
        planned = await self._windows.move(window, start=to.starts_at, minutes=to.minutes, reason=to.reason)
        return _planned(planned, status=200)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancels a window."""
        window = _window(request)
        why = await read_body(request, Why)
        return _done(window, await self._windows.cancel(window, reason=why.reason))

    async def finish(self, request: web.Request) -> web.Response:
        """Says that a closed window's work is finished."""
        window = _window(request)
        why = await read_body(request, Why)
        return _done(window, await self._windows.finish(window, reason=why.reason))

    async def read_clock(self, _request: web.Request) -> web.Response:
        """The business clock."""
        return web.json_response(await self._clock())

    async def forward_clock(self, request: web.Request) -> web.Response:
        """Lets business time go on from later, or at another rate."""
        forward = await read_body(request, Forward)
        to, now = forward.to, (await self._windows.clock()).business
        if forward.by_s is not None:
            to = now + timedelta(seconds=forward.by_s)
        if to is not None and to > now + _FORWARD_MAX:
            raise Problem(CLOCK_TOO_FAR, f"At most {_FORWARD_MAX.days} days at once.", field="to")
        if to is not None and to < now:
            raise _backwards(now)
        outcome, now = await self._windows.forward(business=to, rate=forward.rate)
        if outcome == "backwards":
            raise _backwards(now)
        if outcome == "window_under_way":
            raise Problem(
                WINDOW_UNDER_WAY, "Business time runs at most 60 times as fast as wall time in a window.", field="rate"
            )
        return web.json_response(await self._clock())

    async def _clock(self) -> dict[str, Any]:
        clock = await self._windows.clock()
        return {"business_time": clock.business.isoformat(), "wall_time": clock.wall.isoformat(), "rate": clock.rate}

    async def _check_start(self, starts_at: datetime) -> None:
        # What cannot be right at all, before the database, whose calendar begins and ends elsewhere.
        now = (await self._windows.clock()).business
        if starts_at < now:
            raise Problem(TOO_SOON, f"It is {now.isoformat()} already.", field="starts_at")
        if starts_at > now + _AHEAD_MAX:
            raise Problem(TOO_FAR, f"A window is planned at most {_AHEAD_MAX.days} days ahead.", field="starts_at")


def window_document(window: ListedWindow) -> dict[str, Any]:
    """A window as JSON; every time is business time, except `recorded_at`."""
    return {
        "id": window.window,
        "revision": window.revision,
        "stage": window.stage,
        "starts_at": window.planned_start.isoformat(),
        "ends_at": window.planned_end.isoformat(),
        "expected_end": window.published_end.isoformat(),
        "reason": window.reason,
        "events": list(window.events),
    }


def _window(request: web.Request) -> int:
    text = request.match_info["window"]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not 1 <= number <= _WINDOW_MAX:
        raise Problem(problems.NOT_FOUND, f"No window {text[:40]!r}: expected its number.", field="window")
    return number


def _planned(planned: Planned, *, status: int) -> web.Response:
    if planned.outcome == "too_soon":
        detail = f"Customers are told 24 hours ahead: the earliest start is {_text(planned.starts_at)}."
        raise Problem(TOO_SOON, detail, field="starts_at")
    if planned.outcome == "taken":
        detail = f"Window {planned.window} has this time, until {_text(planned.starts_at)}."
        raise Problem(TIME_TAKEN, detail, field="starts_at")
    if planned.outcome == "planned":
        return web.json_response({"id": planned.window}, status=status)
    raise _refused(planned.outcome)


def _done(window: int, outcome: str) -> web.Response:
    if outcome == "done":
        return web.json_response({"id": window})
    raise _refused(outcome)


def _refused(outcome: str) -> Problem:
    if outcome == "unknown":
        return Problem(problems.NOT_FOUND, "No such window.", field="window")
    if outcome == "begun":
        return Problem(BEGUN, "It is under way, over or cancelled.", field="window")
    return Problem(NOT_CLOSED, "Only a closed window's work can be finished.", field="window")


def _backwards(now: datetime) -> Problem:
    return Problem(BACKWARDS, f"It is {now.isoformat()} already.", field="to")


def _text(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat()
