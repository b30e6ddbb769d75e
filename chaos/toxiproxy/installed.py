"""A toxic as it is in force on a proxy: its description with name, stream and share, and what it has done so far."""

from dataclasses import dataclass, field
from enum import Enum
from random import Random

from chaos.toxiproxy.toxics.stage import Toxic


class Stream(Enum):
    """The direction of a stream, as seen from the client."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"


@dataclass(slots=True, kw_only=True)
class Effect:
    """What a toxic did since it was added, as proof that it bit; `bytes` is the data that reached it."""

    connections: int = 0
    bytes: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class InstalledToxic:
    """A toxic of a proxy; `stream_text` is the stream in the words in which it was asked for.

    `toxicity` is the share of connections that it is in force on: not above 0 means none, 1 and above all.
    `expires_s` (monotonic) is when it is taken back by itself; None: never.
    """

    name: str
    stream: Stream
    stream_text: str
    toxicity: float
    toxic: Toxic
    expires_s: float | None = None
    effect: Effect = field(default_factory=Effect)

    def in_force(self, dice: Random) -> bool:
        """Whether it is in force on a connection, by that connection's dice; certain shares leave them alone."""
        if self.toxicity >= 1:
            return True
        return self.toxicity > 0 and dice.random() < self.toxicity
