"""The target's own numbers, read at the start and the end of each phase."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chaos.errors import TargetError
from chaos.targets.target import Target
from metrics.events import EventLog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

READING_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Every reading that the topology names, written down as events."""

    names: Sequence[str]
    target: Target
    events: EventLog
    log: "FilteringBoundLogger"

    async def take(self, at: str) -> None:
        """Reads all of them now, at the moment called `at`: `faults.start`."""
        await asyncio.gather(*(self.take_one(name, at) for name in self.names))

    async def take_one(self, name: str, at: str) -> None:
        """Reads one of them."""
        try:
            value = await asyncio.wait_for(self.target.observe(name), READING_LIMIT_S)
        except (TargetError, TimeoutError) as error:
            # No reason to stop: whoever needs the reading will find it missing, and this is why.
            self.log.warning("reading.failed", name=name, at=at, error=str(error))
        else:
            self.events.append("reading", name=name, value=value, at=at)
