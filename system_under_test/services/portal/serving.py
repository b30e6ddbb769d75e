"""What happens around every request, whatever its route: identity, admission, errors, metrics, one line of log.

    head -> body here, or waited for beside few others -> admitted: in flight -> answered

Who sends half a request waits for nobody but themselves: only a whole one takes a place of the node.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from system_under_test.services.http_server import go_on
from system_under_test.services.portal import problems
from system_under_test.services.portal.handlers import Handlers
from system_under_test.services.portal.metrics import UNMATCHED
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.requests import Handler, attempt_of, request_id_of
from system_under_test.services.portal.route import UNOBSERVED, Route
from system_under_test.services.portal.routes import ROUTES
from system_under_test.storage.database import NotDoneError, OutcomeUnknownError

BODY_BYTES_MAX: Final = 16 * 1024
_SAFE: Final = frozenset({"GET", "HEAD"})
_Act = Callable[[], Awaitable[web.StreamResponse]]
_ROUTE_OF: Final[Mapping[tuple[str, str], Route]] = {(route.method, route.path): route for route in ROUTES}


def build_application(node: Node, handlers: Handlers) -> web.Application:
    """The node's application: every route of the table, within the one middleware."""
    surround = _Surround(node)
    node.metrics.being_read.set_function(lambda: node.reception.waiting)
    application = web.Application(middlewares=[surround.middleware], client_max_size=BODY_BYTES_MAX)
    by_operation = handlers.by_operation()
    for route in ROUTES:
        handler = by_operation[route.operation]
        application.router.add_route(route.method, route.path, handler, expect_handler=go_on)
    application.on_response_prepare.append(surround.sign)
    return application


class _Surround:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._served_by = f"{node.instance}@{node.version}"

    @property
    def middleware(self) -> Middleware:
        """As aiohttp wants it: a marked function."""

        @web.middleware
        async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._serve(request, handler)

        return surround

    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s = time.perf_counter()
        resource = request.match_info.route.resource
        path = UNMATCHED if resource is None else resource.canonical
        route = _ROUTE_OF.get((request.method, path))
        request_id = request_id_of(request)
        request["id"] = request_id
        act: _Act = partial(handler, request)
        if route is not None and route.business:
            act = partial(self._admit, request, act, route)
        response = await self._answer(request, act, request_id)
        if self._node.draining:
            # The balancer's pooled connection ends with an answer, not in the middle of a request.
            response.force_close()
        if path not in UNOBSERVED:
            took_s = time.perf_counter() - started_s
            self._observe(request, path, request_id, response.status, took_s)
            if route is None or not route.stream:
                method = _method(request)
                self._node.metrics.duration_seconds.labels(method, path).observe(took_s)
        return response

    async def sign(self, request: web.Request, response: web.StreamResponse) -> None:
        """Says who answered what, before the first byte: a stream is long under way when its handler is done."""
        response.headers["X-Served-By"] = self._served_by
        response.headers["X-Request-Id"] = request.get("id", "")

    async def _admit(self, request: web.Request, act: _Act, route: Route) -> web.StreamResponse:
        node = self._node
        if route.body is not None:
            await node.reception.take_in(request)
        if not node.health.admits(route.rank):
            node.metrics.shed.labels(route.rank.name.lower()).inc()
            raise problems.refuse_on_purpose(
                problems.SHED,
                "There is more to do here than can be done in time; come back in a moment.",
                attempt=attempt_of(request),
                safe=request.method in _SAFE,
            )
        node.health.in_flight += 1
        node.metrics.in_flight.set(node.health.in_flight)
        try:
            return await act()
        finally:
            node.health.answered()
            node.health.in_flight -= 1
            node.metrics.in_flight.set(node.health.in_flight)

    async def _answer(self, request: web.Request, act: _Act, request_id: str) -> web.StreamResponse:
        try:
            return await act()
        except Problem as problem:
            return _respond(problem)
        except NotDoneError as error:
            self._node.health.failed()
            self._node.log.warning("database.not_done", request_id=request_id, error=str(error))
            return _respond(
                problems.refuse_on_purpose(
                    problems.NOT_DONE,
                    "The database could not take this on; nothing was done by this try.",
                    attempt=attempt_of(request),
                    safe=request.method in _SAFE,
                )
            )
        except OutcomeUnknownError as error:
            self._node.health.failed()
            # No Retry-After: it would promise that nothing happened. The balancer tries elsewhere if there is a key.
            self._node.log.warning("database.outcome_unknown", request_id=request_id, error=str(error))
            return _respond(
                Problem(
                    problems.OUTCOME_UNKNOWN,
                    "The database did not answer; this may have been carried out. Send it again with its key.",
                )
            )
        except web.HTTPException as error:
            return _respond(_from_aiohttp(error))
        except Exception:
            self._node.health.failed()
            self._node.log.exception("http.error", request_id=request_id)
            return _respond(Problem(problems.INTERNAL, f"Unexpected; the log has it under request {request_id}."))

    def _observe(self, request: web.Request, path: str, request_id: str, status: int, took_s: float) -> None:
        method = _method(request)
        self._node.metrics.requests.labels(method, path, str(status)).inc()
        self._node.log.info(
            "http.request",
            request_id=request_id,
            method=method,
            route=path,
            status=status,
            duration_ms=round(took_s * 1000, 3),
            attempt=attempt_of(request),
        )


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method(request: web.Request) -> str:
    return request.method if request.method in _METHODS else "OTHER"


def _respond(problem: Problem) -> web.Response:
    return web.Response(
        body=problem.body(),
        status=problem.kind.status,
        headers={"Content-Type": problems.MEDIA_TYPE, **problem.headers},
    )


def _from_aiohttp(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(problems.METHOD_NOT_ALLOWED, f"Only {allowed} is possible here.", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(problems.TOO_LARGE, f"A body has at most {BODY_BYTES_MAX} bytes.", field="body")
    if isinstance(error, web.HTTPNotFound):
        return Problem(problems.NOT_FOUND, "No such resource; see /openapi.json.")
    kind = problems.Kind(type="about:blank", title=error.reason, status=error.status)
    return Problem(kind, error.reason)
