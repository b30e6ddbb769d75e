"""The guardrails of a run at work: counts come in, and the first limit that is exceeded says so."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.engine.clients import failed_of
from chaos.guardrails import Guardrail, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Tripped:
    """A guardrail that was exceeded, by how much, and by the counts of which client."""

    guardrail: str
    client: str
    value: float
    limit: float


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
            value = guardrail.value(samples)
            if value is not None and value > guardrail.limit:
                self.disarm()
                self.on_trip(Tripped(guardrail=name, client=client, value=value, limit=guardrail.limit))
                return
        self._forget(samples, sample.t_s)

    def _forget(self, samples: deque[Sample], now_s: float) -> None:
        """Drops what no guardrail looks at any more: all but the newest sample older than the longest window."""
        longest_s = max((guardrail.over_s for _, guardrail in self.guardrails), default=0.0)
        while len(samples) > 1 and samples[1].t_s <= now_s - longest_s:
            samples.popleft()
