"""The guardrails of a run at work: the first limit that is exceeded says so.

Limits on counts are looked at when counts come in (`take`), the others several times a second (`look_on`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.engine.clients import failed_of
from chaos.errors import TargetError
from chaos.guardrails import Around, Counting, Guardrail, Looking, Sample

LOOK_EVERY_S: Final = 0.25
_LOOK_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tripped:
    """A guardrail that was exceeded, by how much, and by the counts of which client, if it is one on counts."""

    guardrail: str
    client: str | None
    value: float | str
    limit: float | str
    text: str


@dataclass(slots=True, kw_only=True)
class Watch:
    """Keeps the newest counts of each client and looks at every guardrail when one comes in; idle until armed."""

    guardrails: Sequence[tuple[str, Guardrail]]
    on_trip: Callable[[Tripped], None]
    armed: bool = False
    _samples: dict[str, deque[Sample]] = field(default_factory=dict)

    def arm(self) -> None:
        """Looks from now on; what was counted before does not matter."""
        self._samples.clear()
        self.armed = True

    def disarm(self) -> None:
        """Looks no more."""
        self.armed = False

    def take(self, client: str, said: Mapping[str, Any]) -> None:
        """Counts of one client as of now."""
        if not self.armed:
            return
        sample = Sample(t_s=time.monotonic(), ok=int(said.get("ok", 0)), failed=failed_of(said))
        samples = self._samples.setdefault(client, deque())
        samples.append(sample)
        for name, guardrail in self.guardrails:
            if isinstance(guardrail, Counting) and self._judge(
                name, guardrail, guardrail.value(samples), client=client
            ):
                return
        self._forget(samples, sample.t_s)

    async def look_on(self, around: Around) -> None:
        """While armed, looks at every limit that is not on counts; does not end by itself.

        What cannot be read for a while trips nothing: a target that is being broken need not answer.
        """
        looking = [(name, guardrail) for name, guardrail in self.guardrails if isinstance(guardrail, Looking)]
        while looking:
            for name, guardrail in looking if self.armed else ():
                try:
                    async with asyncio.timeout(_LOOK_LIMIT_S):
                        value = await guardrail.look(around)
                except (TargetError, TimeoutError):
                    continue
                if self.armed and self._judge(name, guardrail, value):
                    break
            await asyncio.sleep(LOOK_EVERY_S)

    def _judge(self, name: str, guardrail: Guardrail, value: float | str | None, *, client: str | None = None) -> bool:
        """Whether a value lies beyond its limit; then it is told, and nothing is looked at any more."""
        text = None if value is None else guardrail.told(value)
        if value is None or text is None:
            return False
        self.disarm()
        self.on_trip(Tripped(guardrail=name, client=client, value=value, limit=guardrail.limit, text=text))
        return True

    def _forget(self, samples: deque[Sample], now_s: float) -> None:
        """Drops what no guardrail looks at any more: all but the newest sample older than the longest window."""
        windows_s = (guardrail.over_s for _, guardrail in self.guardrails if isinstance(guardrail, Counting))
        longest_s = max(windows_s, default=0.0)
        while len(samples) > 1 and samples[1].t_s <= now_s - longest_s:
            samples.popleft()
