"""One direction of one connection: what its source reads goes through the stages of the toxics into its sink.

    source (a socket) -> feed -> [slot: stage] -> [slot: stage] -> sink (the other socket)

Without toxics data goes straight from socket to socket. With them, `pump` moves items from the last stage to the
first, as far as they are due and the next one accepts them, sets the alarm for the next due time, and lets the source
read only while the first stage accepts: memory is bounded, and a slow receiver slows the sender down. Nothing here
ever waits, so that a toxic can be changed whatever state its connections are in.
"""

import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Protocol

from chaos.toxiproxy.installed import InstalledToxic, Stream
from chaos.toxiproxy.toxics.stage import Chunk, Ending, Item, Stage

_LONGEST_ALARM_S: Final = 3600.0
"""Alarms further away are set in steps: event loops refuse very long ones."""
_ALARM_STEP_S: Final = 0.001
"""Event loops know no shorter time; waking earlier would only mean waking again."""


class Source(Protocol):
    """Where a link's data comes from."""

    def set_reading(self, *, wanted: bool) -> None:
        """Whether data is wanted now; calling it again with the same wish costs little."""


class Sink(Protocol):
    """Where a link's data goes."""

    def ready(self) -> bool:
        """Whether it takes data now; otherwise it calls the link's `pump` once it does."""

    def write(self, data: bytes) -> None:
        """Sends data."""

    def end(self, ending: Ending) -> None:
        """Sends the end, or cuts the connection."""


class Alarm(Protocol):
    """Something that will ring."""

    def cancel(self) -> None:
        """It does not ring."""


class Alarms(Protocol):
    """What rings later: an event loop."""

    def call_soon(self, callback: Callable[[], object], /) -> Alarm:
        """Calls back in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Alarm:
        """Calls back after `delay` seconds."""


class Slot:
    """A toxic's place in a link: the stage that runs, which is a plain one where the dice fell against the toxic."""

    __slots__ = ("_dice", "_random", "_touched", "active", "installed", "stage")

    def __init__(self, installed: InstalledToxic, seed_text: str, now_s: float) -> None:
        self.installed = installed
        # Two generators, so that how the data was cut on its way does not decide how the dice fall later.
        self._dice = Random(f"{seed_text}/{installed.name}/dice")  # noqa: S311 -- repeatable on purpose
        self._random = Random(f"{seed_text}/{installed.name}")  # noqa: S311 -- repeatable on purpose
        self._touched = False
        self._start(now_s, passed_bytes=0)

    def restart(self, now_s: float) -> None:
        """Rolls the dice again and starts a new stage with what the old one held."""
        held = self.stage.leave()
        self._start(now_s, passed_bytes=self.stage.passed_bytes)
        for item in held:
            self.stage.put(item, now_s)

    def put(self, item: Item, now_s: float) -> None:
        """Puts an item in and counts it where the toxic is in force."""
        if self.active:
            self.touch()
            if not isinstance(item, Ending):
                self.installed.effect.bytes += len(item.data)
        self.stage.put(item, now_s)

    def touch(self) -> None:
        """Counts the connection as affected, once."""
        if not self._touched:
            self._touched = True
            self.installed.effect.connections += 1

    def _start(self, now_s: float, *, passed_bytes: int) -> None:
        self.active = self.installed.in_force(self._dice)
        if self.active:
            self.stage = self.installed.toxic.stage(self._random, now_s=now_s, passed_bytes=passed_bytes)
        else:
            self.stage = Stage()
            self.stage.passed_bytes = passed_bytes


class Link:
    """One direction of one connection; `seed_text` is what its toxics' chances hang on."""

    __slots__ = (
        "_alarm",
        "_alarm_s",
        "_alarms",
        "_clock",
        "_one_by_one",
        "_seed_text",
        "_slots",
        "_write",
        "ended",
        "received_bytes",
        "sent_bytes",
        "sink",
        "source",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        toxics: Sequence[InstalledToxic],
        *,
        source: Source,
        sink: Sink,
        seed_text: str,
        alarms: Alarms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._alarms = alarms
        self._clock = clock
        self.stream = stream
        self.source = source
        self.sink = sink
        self.received_bytes = 0
        self.sent_bytes = 0
        self._write: Callable[[bytes], None] = sink.write
        self._seed_text = seed_text
        self._alarm: Alarm | None = None
        self._alarm_s = float("inf")
        self.ended = False
        now_s = clock()
        self._slots = [Slot(one, seed_text, now_s) for one in toxics]
        self._arrange()

    def feed(self, data: bytes) -> None:
        """Takes what the source read."""
        self.received_bytes += len(data)
        if self.ended:
            return
        if not self._slots:
            self.sent_bytes += len(data)
            self._write(data)
            return
        now_s = self._clock()
        self._slots[0].put(Chunk(now_s, data), now_s)
        self.pump()

    def feed_end(self) -> None:
        """Takes the end of the source's data."""
        if self.ended:
            return
        if not self._slots:
            self._finish(Ending.END)
            return
        self._slots[0].put(Ending.END, self._clock())
        self.pump()

    def stop(self) -> None:
        """Nothing passes any more; for a sink that is gone."""
        self.ended = True
        self._slots.clear()
        self._set_alarm(None)

    def pump(self) -> None:
        """Moves everything that may move now, and sets the alarm for the rest."""
        if self.ended:
            return
        now_s = self._clock()
        spent = self._move_all(now_s)
        if not self._finished():
            self.source.set_reading(wanted=self._slots[0].stage.accepts() if self._slots else self.sink.ready())
            self._set_alarm(now_s if spent else self._next_due_s())

    def add(self, installed: InstalledToxic) -> None:
        """Puts a toxic behind the last one, whose dice are rolled again."""
        if self.ended:
            return
        now_s = self._clock()
        if self._slots:
            self._slots[-1].restart(now_s)
        self._slots.append(Slot(installed, self._seed_text, now_s))
        self._arrange()
        self.pump()

    def update(self, installed: InstalledToxic) -> None:
        """Starts a toxic over with its new attributes."""
        for slot in self._slots:
            if slot.installed is installed:
                slot.restart(self._clock())
        self._arrange()
        self.pump()

    def remove(self, installed: InstalledToxic) -> None:
        """Takes a toxic out; what it held goes on at once. The dice of the one before it are rolled again."""
        index = next((i for i, slot in enumerate(self._slots) if slot.installed is installed), None)
        if index is None:
            return
        now_s = self._clock()
        slot = self._slots.pop(index)
        self._arrange()
        if slot.active and installed.toxic.CLOSES_WHEN_REMOVED:
            slot.touch()
            self._pass_on(index, Ending.CLOSE, now_s)
        else:
            for item in slot.stage.leave():
                self._pass_on(index, item, now_s)
        if index > 0 and not self.ended:
            self._slots[index - 1].restart(now_s)
        self.pump()

    def _arrange(self) -> None:
        self._one_by_one = any(slot.stage.PASSES_ONE_BY_ONE for slot in self._slots)

    def _finished(self) -> bool:
        return self.ended

    def _move_all(self, now_s: float) -> bool:
        """Moves what may move; whether it stopped because items are to leave one by one."""
        moved = True
        while moved:
            moved = False
            for index in range(len(self._slots) - 1, -1, -1):
                while not self._finished() and self._may_move(index, now_s):
                    self._move(index, now_s)
                    moved = True
                    if self._one_by_one and index == len(self._slots) - 1:
                        return True
            if self._finished():
                return False
        return False

    def _may_move(self, index: int, now_s: float) -> bool:
        stage = self._slots[index].stage
        due_s = stage.due_s()
        return due_s is not None and due_s <= now_s and self._next_accepts(index, stage)

    def _next_accepts(self, index: int, stage: Stage) -> bool:
        if index + 1 < len(self._slots):
            return self._slots[index + 1].stage.accepts()
        return stage.PASSES_ONLY_ENDINGS or self.sink.ready()

    def _move(self, index: int, now_s: float) -> None:
        slot = self._slots[index]
        item = slot.stage.take(now_s)
        if slot.active and isinstance(item, Ending):
            slot.touch()
        self._pass_on(index + 1, item, now_s)

    def _pass_on(self, index: int, item: Item, now_s: float) -> None:
        if self.ended:
            return
        if index < len(self._slots):
            self._slots[index].put(item, now_s)
        elif isinstance(item, Ending):
            self._finish(item)
        else:
            self.sent_bytes += len(item.data)
            self._write(item.data)

    def _finish(self, ending: Ending) -> None:
        self.stop()
        self.sink.end(ending)

    def _next_due_s(self) -> float | None:
        """When something can move that cannot now; what waits for the sink or the next stage is moved by those."""
        due = [
            due_s
            for index, slot in enumerate(self._slots)
            if (due_s := slot.stage.due_s()) is not None and self._next_accepts(index, slot.stage)
        ]
        return min(due, default=None)

    def _set_alarm(self, due_s: float | None) -> None:
        if self._alarm is not None:
            if self._alarm_s == due_s:
                return
            self._alarm.cancel()
            self._alarm = None
        if due_s is None:
            return
        self._alarm_s = due_s
        delay_s = due_s - self._clock()
        if delay_s <= 0:
            self._alarm = self._alarms.call_soon(self._ring)
        else:
            self._alarm = self._alarms.call_later(min(max(delay_s, _ALARM_STEP_S), _LONGEST_ALARM_S), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.pump()
