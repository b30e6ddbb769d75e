"""The hiccup meter: notices when the machine itself stood still, so that nobody blames the system under test for it."""

import threading
import time
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 0.005
FREEZE_NS: Final = 25_000_000
"""Five missed wake-ups: above the jitter of a busy machine, below a tenth of the usual limit on gaps (250 ms)."""


class HiccupMeter:
    """A thread that wakes every 5 ms; a pause of more than 25 ms between two wakes is a freeze.

    `report(end_ns, stalled_ns)` is called in that thread; the freeze lies in the `stalled_ns` before `end_ns` of
    CLOCK_MONOTONIC, the pause as seen: up to one interval longer than the freeze itself.
    """

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self._report = report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hiccup-meter", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch; afterwards nothing more is reported."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        woken_ns = time.monotonic_ns()
        while not self._ended.is_set():
            time.sleep(INTERVAL_S)
            now_ns = time.monotonic_ns()
            if now_ns - woken_ns > FREEZE_NS:
                self._report(now_ns, now_ns - woken_ns)
            woken_ns = now_ns
