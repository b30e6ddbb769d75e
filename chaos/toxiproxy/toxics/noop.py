"""The toxic that does nothing."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from chaos.toxiproxy.toxics.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Noop:
    """Pass everything on unchanged."""

    TYPE: ClassVar[str] = "noop"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = False

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage that passes everything on."""
        del random, now_s, passed_bytes
        return Stage()
