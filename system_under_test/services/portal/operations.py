"""What machines ask a node: whether it lives, whether it can serve, its metrics and its description."""

from collections.abc import Mapping
from typing import Final, Literal

from aiohttp import web
from pydantic import BaseModel

from system_under_test.services.portal import metrics, problems
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.requests import Handler, answer
from system_under_test.services.portal.route import Route


class Health(BaseModel):
    """That the process lives."""

    status: Literal["ok"]
    instance: str
    version: str


class Readiness(BaseModel):
    """That the node can serve."""

    status: Literal["ready"]


ROUTES: Final[tuple[Route, ...]] = (
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
        media_type=metrics.CONTENT_TYPE.partition(";")[0],
        business=False,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation="read_description",
        summary="This description",
        codes=(200,),
        media_type="application/json",
        business=False,
    ),
)


class OperationHandlers:
    """Answers from memory."""

    def __init__(self, node: Node, description: bytes) -> None:
        self._node = node
        self._description = description

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {
            "read_health": self.read_health,
            "read_readiness": self.read_readiness,
            "read_metrics": self.read_metrics,
            "read_description": self.read_description,
        }

    async def read_health(self, _request: web.Request) -> web.Response:
        """That the process lives; shallow on purpose, or one bad database would restart every node."""
        return answer(Health(status="ok", instance=self._node.instance, version=self._node.version))

    async def read_readiness(self, _request: web.Request) -> web.Response:
        """Whether the balancer should send requests here."""
        if self._node.draining:
            raise problems.refuse_on_purpose(problems.DRAINING, "This node is stopping.", attempt=1, safe=True)
        if not self._node.ledger.database.ready:
            raise Problem(problems.NOT_READY, "The database has not answered lately.")
        readiness = answer(Readiness(status="ready"))
        if self._node.health.degraded:
            # The balancer then prefers the others, as long as they are enough.
            readiness.headers["x-envoy-degraded"] = "true"
        return readiness

    async def read_metrics(self, _request: web.Request) -> web.Response:
        """The node's metrics."""
        self._node.metrics.ready.set(self._node.ready)
        return web.Response(body=self._node.metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def read_description(self, _request: web.Request) -> web.Response:
        """The OpenAPI description."""
        return web.Response(body=self._description, content_type="application/json")
