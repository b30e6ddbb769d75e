"""Every decision taken again, by the checker that shares no code with the platform, from what its auditor may read."""

from itertools import islice
from typing import Any, Final

from metrics.checkers.queue import mistakes
from system_under_test.storage.dump import DUMPS
from tests.integration.platform.queues import QueueDatabase, out_of_order

_TOLD_MAX: Final = 5


async def replay(queue: QueueDatabase) -> int:
    """Takes every decision again, compares order, balances and payments, and gives the number of redemptions.

    Raises:
        RuntimeError: naming the first rows that differ.
    """
    async with queue.connected("auditor") as auditor, auditor.transaction(isolation="repeatable_read", readonly=True):
        rows: list[Any] = await auditor.fetch(*DUMPS["redemptions"].queries)
        transfers: list[Any] = await auditor.fetch(DUMPS["ledger"].queries[1])
        wrong = list(islice(mistakes(rows, transfers), _TOLD_MAX))
        if wrong:
            raise RuntimeError(f"a replay decides otherwise: {wrong}")
        if unordered := await out_of_order(auditor):
            raise RuntimeError(f"settled out of order: {unordered[:_TOLD_MAX]}")
    return len(rows)
