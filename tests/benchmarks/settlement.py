"""How fast a queue that gathered while the service was closed is settled, paid out and sealed; also by killed settlers.

Every decision is taken again afterwards by an independent replay; a difference ends the measurement.
"""

import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.killing import kill_settler
from tests.benchmarks.measure import Figure, descendants, proportional_set_size_bytes
from tests.benchmarks.replay import replay
from tests.integration.platform.custody_room import start_room
from tests.integration.platform.customers import until
from tests.integration.platform.queues import QueueDatabase, Wish, ask, undecided
from tests.integration.platform.stage import Process, Stage, await_ready

_REDEMPTIONS: Final = 50_000
_DRAINS: Final = 3
"""The median of them counts: the first makes plans, and writes pages whole after a checkpoint."""
_MANY_REDEMPTIONS: Final = 1_000_000
_ACCOUNTS_MAX: Final = 250_000
_AT_ONCE: Final = 5_000
_SINGLES: Final = 100
_WEIGHED: Final = 4
"""How often the processes are weighed during a drain: at each quarter but the last."""
_FLAT: Final = 1.1
"""Memory that grows by no more than this, while four times as much is settled, is flat."""
_LIMIT_S: Final = 300.0
_LOOK_EVERY_S: Final = 0.02
PAID: Final = """
select p.considered >= s.decided and not exists (select from payout_batch b where b.transfer is null)
from payout_progress p, settlement s
"""
SEALED: Final = "select coalesce((select max(last_seq) from sealed_batch), 0) >= (select max(seq) from transfer)"

_HOLD: Final = """
update lease
set holder = 'bench', token = token + 1, lasts = interval '1 hour', expires_at = clock_timestamp() + interval '1 hour'
where name = 'settlement'
"""
_LET_GO: Final = "update lease set expires_at = clock_timestamp() where name = 'settlement'"
_keys = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How long a queue took to be settled, paid and sealed, and what all processes held while it did."""

    settled_s: float
    paid_s: float
    sealed_s: float
    memory_bytes: Sequence[int]

    @property
    def whole_s(self) -> float:
        """Until nothing was left to do."""
        return max(self.settled_s, self.paid_s, self.sealed_s)


def measure_settlement(*, large: bool = False) -> Iterator[Figure]:
    """50,000, and again with the settler killed between two chunks and in the middle of one; a million if `large`."""
    yield from _on_stage(_measure)
    if large:
        yield from _on_stage(_measure_many)


def _on_stage(measure: Callable[[Stage, QueueDatabase], Awaitable[list[Figure]]]) -> list[Figure]:
    """Two settlers, three signers, the maintenance process and the database."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(folder=Path(name))
        try:
            postgres = start_room(stage).postgres
            stage.add_maintenance(postgres)
            for settler in ("settlement-1", "settlement-2"):
                await_ready(stage.add_settlement(settler, postgres))
            return asyncio.run(_awaited(measure(stage, QueueDatabase(postgres=postgres))))
        finally:
            stage.close()


async def _awaited(figures: Awaitable[list[Figure]]) -> list[Figure]:
    return await figures


async def _measure(stage: Stage, queue: QueueDatabase) -> list[Figure]:
    async with queue.connected() as owner:
        accounts = await queue.new_customers(_REDEMPTIONS)
        single_s = await _single(owner, accounts)
        drains = [await _drain(stage, owner, accounts, _REDEMPTIONS) for _ in range(_DRAINS)]
        killed = await _drain(stage, owner, accounts, _REDEMPTIONS, kill=True)
    replayed = await replay(queue)
    plain = sorted(drains, key=lambda drain: drain.whole_s)[_DRAINS // 2]
    return [
        Figure(name="from a ticket to its outcome, queue at rest, median", value=single_s * 1e3, unit="ms"),
        *_drained(plain, _REDEMPTIONS, at_most_s=2),
        Figure(
            name="  settler killed at a chunk's boundary and in mid-statement",
            value=killed.whole_s,
            unit="s",
            compared_to="not killed",
            ratio=killed.whole_s / plain.whole_s,
            at_most=6,
        ),
        Figure(name="  decided otherwise by a replay, or out of order", value=0, unit=f"of {replayed:,}", at_most=0),
    ]


async def _measure_many(stage: Stage, queue: QueueDatabase) -> list[Figure]:
    async with queue.connected() as owner:
        accounts = await queue.new_customers(_ACCOUNTS_MAX)
        drain = await _drain(stage, owner, accounts, _MANY_REDEMPTIONS, weigh=True)
    replayed = await replay(queue)
    after_a_quarter = drain.memory_bytes[0] / 1e6
    return [
        *_drained(drain, _MANY_REDEMPTIONS, at_most_s=30),
        Figure(
            name="  memory of all processes near its end, PSS",
            value=drain.memory_bytes[-1] / 1e6,
            unit="MB",
            compared_to="after a quarter",
            ratio=drain.memory_bytes[-1] / 1e6 / after_a_quarter,
            at_most=_FLAT * after_a_quarter,
        ),
        Figure(name="  decided otherwise by a replay, or out of order", value=0, unit=f"of {replayed:,}", at_most=0),
    ]


def _drained(drain: Drain, redemptions: int, *, at_most_s: float) -> list[Figure]:
    """The target is for all of it: decided and booked, paid out under manifests, and in the hash chain."""
    return [
        Figure(
            name=f"settle {redemptions:,} redemptions, paid out and sealed",
            value=drain.whole_s,
            unit="s",
            at_most=at_most_s,
        ),
        Figure(name="  until all were decided and booked", value=drain.settled_s, unit="s"),
        Figure(name="  until all were paid out under manifests", value=drain.paid_s, unit="s"),
    ]


async def _single(owner: Any, accounts: list[str]) -> float:
    """The median time from a ticket to its outcome, one at a time."""
    for _ in range(_SINGLES):
        await ask(owner, [Wish(accounts[0], f"single-{next(_keys)}", 1)])
        await until(lambda: undecided(owner), lambda left: left == 0)
    rows = await owner.fetch("select o.decided_at - r.recorded_at as took from outcome o join redemption r using (seq)")
    return statistics.median([float(row["took"].total_seconds()) for row in rows])


async def _drain(
    stage: Stage, owner: Any, accounts: list[str], redemptions: int, *, kill: bool = False, weigh: bool = False
) -> Drain:
    """Fills the queue while nobody may settle, lets go, and waits; kills and weighs if told to."""
    await owner.execute(_HOLD)
    draw = random.Random(redemptions)  # noqa: S311 - the same requests each time
    for start in range(0, redemptions, _AT_ONCE):
        count = min(_AT_ONCE, redemptions - start)
        await ask(
            owner, [Wish(draw.choice(accounts), f"bench-{next(_keys)}", draw.randint(1, 900)) for _ in range(count)]
        )
    # So that the server's own housekeeping after so much writing is not measured.
    await owner.execute("vacuum analyze account, transfer, redemption, outcome")
    # At a third of the queue and at two: whether a statement is to be under way.
    kills = [False, True] if kill else []
    victims: list[Process] = []
    memory: list[int] = []
    started = time.perf_counter()
    await owner.execute(_LET_GO)
    while left := await undecided(owner):
        if kills and left * 3 <= redemptions * len(kills):
            victims.append(await kill_settler(stage, owner, in_mid_statement=kills.pop(0)))
            victims[-1].start()
        if weigh and len(memory) < _WEIGHED * (redemptions - left) // redemptions:
            memory.append(_memory(stage))
        if time.perf_counter() - started > _LIMIT_S:
            raise RuntimeError(f"{left} still wait after {_LIMIT_S} s")
        # Often enough for the figure, and seldom enough not to be what is measured.
        await asyncio.sleep(_LOOK_EVERY_S)
    settled_s = time.perf_counter() - started
    if kills:
        raise RuntimeError("all was settled before the settler could be killed twice")
    ends_s = []
    for done in (PAID, SEALED):
        await until(partial(owner.fetchval, done), bool)
        ends_s.append(time.perf_counter() - started)
    for victim in victims:
        await asyncio.to_thread(await_ready, victim)
    return Drain(settled_s=settled_s, paid_s=ends_s[0], sealed_s=ends_s[1], memory_bytes=memory)


def _memory(stage: Stage) -> int:
    running = [process.pid for process in stage.processes.values()]
    return proportional_set_size_bytes({below for pid in running for below in descendants(pid)})
