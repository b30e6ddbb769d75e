"""One portal node: who it is, what it may take on, and whether it is on its way out."""

from dataclasses import dataclass

import structlog

from system_under_test.domain.push import Host
from system_under_test.services.portal.health import Health
from system_under_test.services.portal.metrics import PortalMetrics
from system_under_test.services.portal.public_copy import PublicCopy
from system_under_test.services.portal.reception import Reception
from system_under_test.storage.ledger import Ledger


@dataclass(slots=True, kw_only=True)
class Node:
    """The state that handlers share; `draining` is set once, by the request to stop."""

    instance: str
    version: str
    ledger: Ledger
    public: PublicCopy
    reception: Reception
    health: Health
    metrics: PortalMetrics
    log: structlog.stdlib.BoundLogger
    push_hosts: tuple[Host, ...] = ()
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether the balancer should send requests here."""
        return not self.draining and self.ledger.database.ready
