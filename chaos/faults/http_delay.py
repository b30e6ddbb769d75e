"""Requests that the balancer holds back for a time before it passes them on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from chaos.faults.at_balancer import AtBalancer
from chaos.faults.fault import FAULTS
from metrics.units import PositiveSeconds


@FAULTS.register("http_delay")
@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDelay(AtBalancer):
    """Hold `percent` of the requests below `path` back by a time, `for` a time. To a millisecond, at least one."""

    example: ClassVar[Mapping[str, Any]] = {
        "admin": "balancer.admin_url",
        "by": "200ms",
        "percent": "50%",
        "for": "3s",
    }
    counted: ClassVar[str] = ".fault.delays_injected"

    by_s: Annotated[PositiveSeconds, Field(alias="by", ge=0.001, le=600)]

    def settings(self) -> Mapping[str, str]:
        """The time and the share of requests."""
        return {
            self.key("delay.fixed_duration_ms"): str(round(self.by_s * 1000)),
            self.key("delay.fixed_delay_percent"): self.share(),
        }
