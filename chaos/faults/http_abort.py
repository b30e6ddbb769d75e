"""Requests that the balancer answers itself with an error, before any node has seen them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults.at_balancer import AtBalancer
from chaos.faults.fault import FAULTS


@FAULTS.register("http_abort")
@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAbort(AtBalancer):
    """Answer `percent` of the requests below `path` with `status`, `for` a time."""

    example: ClassVar[Mapping[str, Any]] = {
        "admin": "balancer.admin_url",
        "status": 503,
        "percent": "50%",
        "for": "3s",
    }
    counted: ClassVar[str] = ".fault.aborts_injected"

    status: Annotated[int, Field(ge=400, le=599)] = 503

    def settings(self) -> Mapping[str, str]:
        """The status and the share of requests."""
        return {self.key("abort.http_status"): str(self.status), self.key("abort.abort_percent"): self.share()}
