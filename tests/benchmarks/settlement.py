"""How fast a queue that gathered while the service was closed is settled, paid out and sealed; also by killed settlers.

`python -m tests.benchmarks.settlement 1000000` measures that many, which takes minutes to prepare.
"""

import asyncio
import itertools
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.measure import Figure, descendants, proportional_set_size_bytes
from tests.integration.platform.custody_room import start_room
from tests.integration.platform.customers import until
from tests.integration.platform.queues import QueueDatabase, Wish, ask, out_of_order, undecided
from tests.integration.platform.stage import Process, Stage, await_ready

_REDEMPTIONS: Final = 50_000
_AT_ONCE: Final = 5_000
_SINGLES: Final = 100
_WEIGHED: Final = 4
"""How often the processes are weighed during a drain: at each quarter but the last."""
_LIMIT_S: Final = 300.0
_LOOK_EVERY_S: Final = 0.02
_PAID: Final = """
select p.considered >= s.decided and not exists (select from payout_batch b where b.transfer is null)
from payout_progress p, settlement s
"""
_SEALED: Final = "select coalesce((select max(last_seq) from sealed_batch), 0) >= (select max(seq) from transfer)"
_ACTIVE: Final = "select split_part(holder, '/', 1) from lease where name = 'settlement'"

_HOLD: Final = """
update lease set holder = 'bench', token = token + 1, expires_at = clock_timestamp() + interval '1 hour'
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


def measure_settlement(redemptions: int = _REDEMPTIONS) -> Iterator[Figure]:
    """Two settlers, three signers, the maintenance process and the database; as many accounts as redemptions."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(folder=Path(name))
        try:
            postgres = start_room(stage).postgres
            stage.add_maintenance(postgres)
            for settler in ("settlement-1", "settlement-2"):
                await_ready(stage.add_settlement(settler, postgres))
            yield from asyncio.run(_measure(stage, QueueDatabase(postgres=postgres), redemptions))
        finally:
            stage.close()


async def _measure(stage: Stage, queue: QueueDatabase, redemptions: int) -> list[Figure]:
    async with queue.connected() as owner:
        accounts = await queue.new_customers(min(redemptions, 250_000))
        single_s = await _single(owner, accounts)
        plain = await _drain(stage, owner, accounts, redemptions, kills=0)
        killed = await _drain(stage, owner, accounts, redemptions, kills=2)
        if wrong := await out_of_order(owner):
            raise RuntimeError(f"settled out of order: {wrong[:5]}")
    name = f"settle {redemptions:,} redemptions"
    return [
        Figure(name="from a ticket to its outcome, queue at rest, median", value=single_s * 1e3, unit="ms"),
        Figure(name=name, value=plain.settled_s, unit="s"),
        Figure(name="  until all were paid out under manifests", value=plain.paid_s, unit="s"),
        Figure(name="  until all was sealed", value=plain.sealed_s, unit="s"),
        Figure(
            name="  memory of all processes near its end, PSS",
            value=plain.memory_bytes[-1] / 1e6,
            unit="MB",
            compared_to="after a quarter",
            ratio=plain.memory_bytes[-1] / plain.memory_bytes[0],
        ),
        Figure(
            name=f"{name}, settler killed twice",
            value=killed.settled_s,
            unit="s",
            compared_to="not killed",
            ratio=killed.settled_s / plain.settled_s,
        ),
    ]


async def _single(owner: Any, accounts: list[str]) -> float:
    """The median time from a ticket to its outcome, one at a time."""
    for _ in range(_SINGLES):
        await ask(owner, [Wish(accounts[0], f"single-{next(_keys)}", 1)])
        await until(lambda: undecided(owner), lambda left: left == 0)
    rows = await owner.fetch("select o.decided_at - r.recorded_at as took from outcome o join redemption r using (seq)")
    return statistics.median([float(row["took"].total_seconds()) for row in rows])


async def _drain(stage: Stage, owner: Any, accounts: list[str], redemptions: int, *, kills: int) -> Drain:
    """Fills the queue while nobody may settle, lets go, and waits; kills the active settler so many times."""
    await owner.execute(_HOLD)
    draw = random.Random(redemptions)  # noqa: S311 - the same requests each time
    for start in range(0, redemptions, _AT_ONCE):
        count = min(_AT_ONCE, redemptions - start)
        await ask(
            owner, [Wish(draw.choice(accounts), f"bench-{next(_keys)}", draw.randint(1, 900)) for _ in range(count)]
        )
    # So that the server's own housekeeping after so much writing is not measured.
    await owner.execute("vacuum analyze account, transfer, redemption, outcome")
    kill_at = [redemptions * (kill + 1) // (kills + 1) for kill in range(kills)]
    victims: list[Process] = []
    memory: list[int] = []
    started = time.perf_counter()
    await owner.execute(_LET_GO)
    while left := await undecided(owner):
        if kill_at and left <= redemptions - kill_at[0]:
            kill_at.pop(0)
            victims.append(stage.processes[await owner.fetchval(_ACTIVE)])
            victims[-1].end(signal.SIGKILL)
            victims[-1].start()
        if not kills and len(memory) < _WEIGHED * (redemptions - left) // redemptions:
            memory.append(_memory(stage))
        if time.perf_counter() - started > _LIMIT_S:
            raise RuntimeError(f"{left} still wait after {_LIMIT_S} s")
        # Often enough for the figure, and seldom enough not to be what is measured.
        await asyncio.sleep(_LOOK_EVERY_S)
    settled_s = time.perf_counter() - started
    ends_s = []
    for done in (_PAID, _SEALED):
        await until(partial(owner.fetchval, done), bool)
        ends_s.append(time.perf_counter() - started)
    for victim in victims:
        await asyncio.to_thread(await_ready, victim)
    return Drain(settled_s=settled_s, paid_s=ends_s[0], sealed_s=ends_s[1], memory_bytes=memory)


def _memory(stage: Stage) -> int:
    running = [process.pid for process in stage.processes.values()]
    return proportional_set_size_bytes({below for pid in running for below in descendants(pid)})


if __name__ == "__main__":
    for figure in measure_settlement(int(sys.argv[1])):
        beside = "" if figure.ratio is None else f"  ({figure.ratio:.2f} of {figure.compared_to})"
        print(f"{figure.name:<60} {figure.value:10.4g} {figure.unit}{beside}", flush=True)
