"""A whole maintenance window with a rush on it: 50,000 redemptions queued while closed, and 50,000 sessions afterwards.

    noticed -> closed (customers queue) -> verified -> open (customers read) -> all settled -> paid -> sealed

Four nodes behind the balancer, two settlers, three signers and the maintenance process; once the clock has come to the
window's start nobody but customers does anything. The notices are marked as sent: what e-mail costs is not measured.
"""

import asyncio
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from tests.benchmarks.balances import CONNECTIONS, TRANSFERS, Readings
from tests.benchmarks.measure import Figure
from tests.benchmarks.orders import Ledger, rush
from tests.benchmarks.replay import replay
from tests.benchmarks.requests import Load, exchange
from tests.benchmarks.settlement import PAID, SEALED
from tests.integration.platform.custody_room import start_room
from tests.integration.platform.customers import honest_session, until
from tests.integration.platform.operations import OFTEN, Company, Operator, operate
from tests.integration.platform.queues import OPENING, QueueDatabase, undecided
from tests.integration.platform.stage import Process, Stage, await_ready

_SESSIONS: Final = 50_000
_REDEMPTIONS: Final = 50_000
_TWICE: Final = _REDEMPTIONS // 10
_REUSED: Final = _REDEMPTIONS // 100
_AT_ONCE: Final = 256
_MINUTES: Final = 60
"""Of business time: closed for 50 wall seconds at the fastest rate at which a window runs."""
_WITHIN_S: Final = 300.0
_TIMES: Final = "select change, min(recorded_at) as at from window_event where window_id = $1 group by change"
_BY_HAND: Final = """
select count(*) from window_event
where window_id = $1 and change in ('finished', 'moved', 'cancelled')
"""
_QUEUED: Final = "select seq, account, key, amount, recorded_at from redemption order by seq"
_ENDS: Final = """
select (select max(decided_at) from outcome) as settled, (select max(paid_at) from payout_batch) as paid,
       (select max(sealed_at) from sealed_batch) as sealed
"""
_SYNCHRONISED: Final = """
select extract(epoch from r.synchronised_at - r.reopened_at)::float8
from reopening r join service_state s on s.epoch = r.epoch
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rush:
    """What became of a window and of those who came in it."""

    orders: Ledger
    taken: Load
    readings: Readings
    read: Load


def measure_window() -> Iterator[Figure]:
    """One window from close to everything settled, paid and sealed; everything that was told compared with the rows."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(folder=Path(name))
        try:
            company = _open_company(stage)
            sessions = _seed(stage, company.postgres)
            yield from uvloop.run(_measure(company, sessions))
        finally:
            stage.close()


def _open_company(stage: Stage) -> Company:
    postgres = start_room(stage).postgres
    maintenance = stage.add_maintenance(postgres)
    portals = [stage.add_portal(f"portal-{number}", postgres) for number in range(1, 5)]
    settlers = [stage.add_settlement(f"settlement-{number}", postgres) for number in (1, 2)]
    for process in (*portals, *settlers):
        await_ready(process)
    balancer = stage.add_balancer("balancer", portals)
    return Company(
        stage=stage, postgres=postgres, portals=portals, maintenance=maintenance, balancer=balancer, customers=[]
    )


def _seed(stage: Stage, postgres: Process) -> list[tuple[str, str]]:
    """Opens an account and a session for each customer; gives tokens and accounts."""
    file = stage.folder / "sessions.csv"
    seeded = stage.run(
        *("seed", "--accounts", str(_SESSIONS), "--opening-balance", str(OPENING)),
        *("--out", str(stage.folder / "savers.csv"), "--sessions", str(_SESSIONS), "--sessions-out", str(file)),
        DATABASE_ADMIN_URL=postgres.outputs()["admin_dsn"],
    )
    if seeded.returncode != 0:
        raise RuntimeError(seeded.stderr)
    with file.open(encoding="utf-8", newline="") as text:
        return [(row["token"], row["account"]) for row in csv.DictReader(text)]


async def _measure(company: Company, sessions: list[tuple[str, str]]) -> list[Figure]:
    async with honest_session() as session, operate(company, session) as operator:
        number = await operator.plan(minutes=_MINUTES)
        await operator.tell_everybody()
        row = await operator.reaches(number, "noticed", within_s=_WITHIN_S)
        await operator.forward(row["planned_start"], rate=OFTEN)
        await operator.reaches(number, "closed")
        rush = await _live_through(operator, number, sessions)
        times = dict(await operator.owner.fetch(_TIMES, number))
        figures = [
            *await _window_figures(operator, number, rush, times),
            *await _reading_figures(operator, rush, times),
        ]
        await replay(QueueDatabase(postgres=company.postgres))
    return figures


async def _live_through(operator: Operator, number: int, sessions: list[tuple[str, str]]) -> Rush:
    """What customers do: order while it is closed, read as soon as it is open; then waits until all is sealed."""
    url = operator.company.url
    orders = Ledger(orders=rush(sessions, _REDEMPTIONS, twice=_TWICE, reused=_REUSED, amount_max=OPENING - 100))
    requests = [order.request() for order in orders.orders]
    taken = await exchange(url, requests, connections=_AT_ONCE, judge=orders.judge)
    await operator.reaches(number, "open", within_s=_WITHIN_S)
    readings = Readings(sessions=sessions)
    reading = asyncio.create_task(readings.read_all(url))
    async with asyncio.timeout(_WITHIN_S):
        await until(lambda: undecided(operator.owner), lambda left: left == 0)
        for done in (PAID, SEALED):
            await until(partial(operator.owner.fetchval, done), bool)
        read = await reading
    return Rush(orders=orders, taken=taken, readings=readings, read=read)


async def _window_figures(operator: Operator, number: int, rush: Rush, times: dict[str, datetime]) -> list[Figure]:
    rows: list[Any] = await operator.owner.fetch(_QUEUED)
    if wrong := rush.orders.mistakes(rows):
        raise RuntimeError(f"{len(wrong)} orders were not taken exactly once: {wrong[:5]}")
    while_closed = sum(times["closed"] <= row["recorded_at"] <= times["opened"] for row in rows)
    ends = await operator.owner.fetchrow(_ENDS)
    ends_s = {end: (at - times["opened"]).total_seconds() for end, at in ends.items()}
    by_hand = await operator.owner.fetchval(_BY_HAND, number)
    verified_s = (times["opened"] - times["verifying"]).total_seconds()
    return [
        Figure(name="a whole window with 50,000 redemptions: steps by hand", value=by_hand, unit="steps", at_most=0),
        Figure(
            name="  wrong counts, answers or rows, with 10 % sent twice and 1 % of keys reused",
            value=0,
            unit="orders",
            at_most=0,
        ),
        Figure(
            name="  redemptions queued while it was closed",
            value=while_closed,
            unit="redemptions",
            at_least=_REDEMPTIONS,
        ),
        Figure(name="  tries answered in a second meanwhile", value=rush.taken.per_second, unit="1/s"),
        Figure(name="  tries that were told to come again", value=rush.orders.refused, unit="tries"),
        Figure(name="  tries answered with an error, sent again", value=rush.orders.failed, unit="tries"),
        Figure(name="  from verifying to open", value=verified_s, unit="s"),
        Figure(name="  from open to all settled, while sessions read", value=ends_s["settled"], unit="s"),
        Figure(name="  from open to all paid out under manifests", value=ends_s["paid"], unit="s"),
        Figure(name="  from open to all sealed", value=ends_s["sealed"], unit="s"),
    ]


async def _reading_figures(operator: Operator, rush: Rush, times: dict[str, datetime]) -> list[Figure]:
    transfers: list[Any] = await operator.owner.fetch(TRANSFERS)
    wrong = rush.readings.inexact(transfers, times["opened"])
    if wrong:
        raise RuntimeError(f"{len(wrong)} balances were not exact: {wrong[:5]}")
    lag_s = await operator.owner.fetchval(_SYNCHRONISED)
    return [
        Figure(
            name="50,000 sessions read their balance after the window",
            value=rush.read.took_s,
            unit="s",
            at_most=60,
        ),
        Figure(name="  of them not exact at the head they name", value=len(wrong), unit="answers", at_most=0),
        Figure(name="  over so many connections", value=CONNECTIONS, unit="connections"),
        Figure(name="  asked again as the session was synchronising", value=rush.readings.synchronising, unit="times"),
        Figure(name="  told to come again", value=rush.readings.turned_away, unit="times"),
        Figure(name="  answered with an error, asked again", value=rush.readings.failed, unit="times"),
        Figure(name="  until the last session was synchronised", value=lag_s, unit="s"),
    ]
