"""When each fault of a timeline is due: at a time, after another one, or when a reading reaches a limit.

Cues(timeline) -> wait(occurrence) ... shown(fault_id), healed(fault_id), over(fault_id) -> those who follow go on
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.errors import TargetError
from chaos.planner import Occurrence
from chaos.schedule import Following, Moment, Reaching
from chaos.targets.target import Target

READ_EVERY_S: Final = 0.1
_READ_LIMIT_S: Final = 2.0


class NeverDueError(Exception):
    """What a fault was waiting for did not come: it does not play."""


@dataclass(slots=True, kw_only=True)
class _Course:
    """What has become of one occurrence so far."""

    moments: set[Moment] = field(default_factory=set)
    over: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, *moments: Moment, over: bool = False) -> None:
        self.moments.update(moments)
        self.over = self.over or over
        self.changed.set()
        self.changed = asyncio.Event()


class Cues:
    """The beginning of the phase is when this is made."""

    def __init__(self, *, target: Target, timeline: Sequence[Occurrence]) -> None:
        self._target = target
        self._began_s = asyncio.get_running_loop().time()
        self._courses = {occurrence.fault_id: _Course() for occurrence in timeline}
        self._readings: dict[str, asyncio.Future[Any]] = {}

    async def wait(self, occurrence: Occurrence) -> dict[str, Any] | None:
        """Returns when an occurrence is due; what by, where that was decided only now.

        Raises:
            NeverDueError: it will never be, and why.
        """
        trigger = occurrence.trigger
        if trigger is None:
            await self._sleep_until(occurrence.at_s)
            return None
        by = await (self._follow(trigger) if isinstance(trigger, Following) else self._reach(trigger))
        await asyncio.sleep(trigger.delay_s)
        return {"by": by, "at_s": round(self._now_s(), 6)}

    def shown(self, fault_id: str) -> None:
        """The effect of a fault has been proven."""
        self._courses[fault_id].change("effect")

    def healed(self, fault_id: str) -> None:
        """A fault has been proven to be healed."""
        self._courses[fault_id].change("healed")

    def over(self, fault_id: str) -> None:
        """Nothing more will become of a fault."""
        self._courses[fault_id].change(over=True)

    async def _follow(self, trigger: Following) -> Mapping[str, Any]:
        for fault_id in trigger.fault_ids:
            course = self._courses[fault_id]
            while trigger.moment not in course.moments:
                if course.over:
                    what = "was not healed" if trigger.moment == "healed" else "had no proven effect"
                    raise NeverDueError(f"{fault_id}, which it comes after, {what}")
                await course.changed.wait()
        return {"faults": list(trigger.fault_ids), "moment": trigger.moment}

    async def _reach(self, trigger: Reaching) -> Mapping[str, Any]:
        """Waits once for all occurrences of one entry, so that they see the same value."""
        if trigger.entry not in self._readings:
            self._readings[trigger.entry] = asyncio.ensure_future(self._read_until(trigger))
        reading = self._readings[trigger.entry]
        try:
            value = await asyncio.shield(reading)
        except asyncio.CancelledError:
            reading.cancel()
            raise
        return {"reading": trigger.when.observe, "value": value}

    async def _read_until(self, trigger: Reaching) -> Any:
        last = "it could not be read"
        while True:
            try:
                async with asyncio.timeout(_READ_LIMIT_S):
                    value = await self._target.observe(trigger.when.observe)
            except TimeoutError:
                last = f"no answer within {_READ_LIMIT_S:g} s"
            except TargetError as error:
                last = str(error)  # a target that is being broken may not answer for a while
            else:
                last = f"it was {value!r} last"
                if trigger.reached(value):
                    return value
            if self._now_s() >= trigger.within_s:
                raise NeverDueError(f"{trigger.limit} did not come within {trigger.within_s:g} s of the phase: {last}")
            await asyncio.sleep(READ_EVERY_S)

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._now_s()))

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s
