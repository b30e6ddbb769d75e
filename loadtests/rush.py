"""Withdrawers in a rush: nearly everybody redeems, one order in ten is sent again, and deposits go on.

A repeated order has the key and the amount of the same saver's order before: it must be answered from what was stored.
"""

from loadtests import savers  # not the class: Locust would run every user class that it finds here
from loadtests.intents import DEPOSIT, REDEEM, Intent, intend, repeats

WEIGHTS = {DEPOSIT: 1, REDEEM: 19}
REDEEM_RANGE = (1, 2_000)
"""Minor units: half of what the accounts hold, in a rush of a hundred thousand."""


class Withdrawer(savers.Saver):
    """Logs in, then takes money out."""

    def on_start(self) -> None:
        """Logs in; nothing has been ordered yet."""
        super().on_start()
        self._before: Intent | None = None

    def intent(self) -> Intent:
        """A new order, or the one before once more."""
        load = self.load
        number = self.arrival_number
        if self._before is None or not repeats(load.seed, load.journal.writer, number):
            self._before = intend(
                load.seed, load.journal.writer, number, run_id=load.run_id, weights=WEIGHTS, redeem=REDEEM_RANGE
            )
        return self._before
