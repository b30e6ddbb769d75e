"""What the public may know of the service."""

from collections.abc import Mapping
from typing import Final, Literal

from aiohttp import web
from pydantic import BaseModel

from system_under_test.services.portal.node import Node
from system_under_test.services.portal.requests import Handler, answer
from system_under_test.services.portal.route import Route


class Status(BaseModel):
    """What the public may know."""

    service: Literal["savings"]
    stage: Literal["open"]
    instance: str
    version: str


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
)


class PublicHandlers:
    """Answers from memory."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {"read_status": self.read_status}

    async def read_status(self, _request: web.Request) -> web.Response:
        """The public status, from memory."""
        node = self._node
        return answer(Status(service="savings", stage="open", instance=node.instance, version=node.version))
