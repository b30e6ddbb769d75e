"""What a run is doing, for whoever watches: one updated line on a terminal, a line every few seconds elsewhere."""

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from chaos.engine.clients import failed_of
from chaos.planner import Occurrence

PLAIN_EVERY_S: Final = 5.0
LIVE_EVERY_S: Final = 0.25
RATE_OVER_S: Final = 0.5
"""What a client said while the runner was busy is read all at once: a rate needs more time than lies between those."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """The state that is shown; the engine changes it, a display reads it."""

    title: str = ""
    step: str = "starting the target"
    ends_s: float | None = None
    """When the step is planned to end, on the monotonic clock."""
    rate_per_s: float | None = None
    errors: int = 0
    failed_probes: int = 0
    in_force: Mapping[str, Occurrence] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences to be shown once."""
    _seen: dict[str, tuple[float, int]] = field(default_factory=dict)
    _rates: dict[str, float] = field(default_factory=dict)
    _errors: dict[str, int] = field(default_factory=dict)

    def begin(self, step: str, *, planned_s: float | None = None) -> None:
        """Another step begins now."""
        self.step = step
        if planned_s is None:
            self.rate_per_s = None  # nobody asks anything any more
        self.ends_s = None if planned_s is None else time.monotonic() + planned_s

    def take(self, client: str, said: Mapping[str, Any]) -> None:
        """Counts of one client as of now."""
        now_s, completed = time.monotonic(), int(said.get("completed", 0))
        before_s, before = self._seen.setdefault(client, (now_s, completed))
        if now_s - before_s >= RATE_OVER_S:
            self._rates[client] = (completed - before) / (now_s - before_s)
            self._seen[client] = (now_s, completed)
            # The load says how fast things go; the prober only where there is no load.
            self.rate_per_s = self._rates.get("load", self._rates[client])
        self._errors[client] = failed_of(said)
        self.errors = self._errors.get("load", self._errors[client])
        self.failed_probes = self._errors.get("prober", 0) if "load" in self._errors else 0

    def line(self) -> str:
        """All of it in one line."""
        parts = [f"{self.step:<9}"]
        if self.ends_s is not None:
            parts.append(f"{max(0.0, self.ends_s - time.monotonic()):4.0f} s left")
        if self.rate_per_s is not None:
            parts.append(f"{self.rate_per_s:6.0f}/s")
            parts.append(f"{self.errors} errors")
            if self.failed_probes:
                parts.append(f"probes failed: {self.failed_probes}")
        parts += [f"{one.name} {one.aim}" for one in self.in_force.values()]
        return "   ".join(parts)


async def show(progress: Progress, out: TextIO | None = None) -> None:
    """Shows the progress until cancelled: live when `out` (standard error) is a terminal, as plain lines otherwise."""
    out = sys.stderr if out is None else out
    # A reader that has gone away (`holdfast run ... 2>&1 | head`) ends the showing, never the run.
    with suppress(BrokenPipeError):
        if out.isatty():
            await _show_live(progress, out)
        else:
            await _show_plain(progress, out)


async def _show_plain(progress: Progress, out: TextIO) -> None:
    began_s = time.monotonic()
    shown, shown_s = "", 0.0
    while True:
        notes, progress.notes[:] = list(progress.notes), []
        if notes or progress.step != shown or time.monotonic() - shown_s >= PLAIN_EVERY_S:
            shown, shown_s = progress.step, time.monotonic()
            out.writelines(f"{shown_s - began_s:6.1f} s  {line}\n" for line in (*notes, progress.line()))
            out.flush()
        await asyncio.sleep(LIVE_EVERY_S)


async def _show_live(progress: Progress, out: TextIO) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=out, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            notes, progress.notes[:] = list(progress.notes), []
            for note in notes:
                console.print(Text(note))
            live.update(Text(progress.line(), no_wrap=True, overflow="ellipsis"), refresh=True)
            await asyncio.sleep(LIVE_EVERY_S)
