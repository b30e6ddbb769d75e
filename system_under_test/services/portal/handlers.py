"""What a node does for each route: the handlers of all areas."""

import json
from collections.abc import Mapping

from system_under_test.services.portal.events import EventHandlers
from system_under_test.services.portal.money import MoneyHandlers
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.openapi import describe
from system_under_test.services.portal.operations import OperationHandlers
from system_under_test.services.portal.pages import PageHandlers
from system_under_test.services.portal.public import PublicHandlers
from system_under_test.services.portal.push import PushHandlers
from system_under_test.services.portal.redemptions import RedemptionHandlers
from system_under_test.services.portal.requests import Handler
from system_under_test.services.portal.sessions import SessionHandlers


class Handlers:
    """The handlers of one node."""

    def __init__(self, node: Node) -> None:
        self._sessions = SessionHandlers(node)
        self._events = EventHandlers(node)
        description = json.dumps(describe(node.version)).encode()
        self._areas = (
            self._sessions,
            MoneyHandlers(node),
            RedemptionHandlers(node),
            self._events,
            PushHandlers(node),
            PublicHandlers(node),
            OperationHandlers(node, description),
            PageHandlers(),
        )

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of the table of routes."""
        return {name: handler for area in self._areas for name, handler in area.by_operation().items()}

    def drain(self) -> None:
        """Ends what would otherwise last as long as its clients like."""
        self._events.drain()

    def close(self) -> None:
        """Lets go of what the areas hold."""
        self._sessions.close()
