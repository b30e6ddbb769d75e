"""Whether the ledger is right: every check of it, one signed record of what they found, and with it the gate.

    seal what is over -> one moment of the database: records, chain, transfers, balances, ... -> record -> gate

What is wrong is named by its row. A whole check looks at everything there is, from the first row on, whatever was found
before (docs/decisions/0009); the other one at what came since the newest record that passed and at the accounts which
that touched. Only a whole check that passed opens the gate, and anything that fails shuts it.
"""

import asyncio
import dataclasses
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg

from system_under_test.domain.signatures import public_key
from system_under_test.settings import PlatformError
from system_under_test.storage.custody_audit import audit
from system_under_test.storage.database import Database, NotDoneError
from system_under_test.storage.problem import Problem
from system_under_test.storage.reconciliation_records import (
    BEGINNING,
    Anchor,
    Record,
    read_anchor,
    read_key,
    read_records,
    record_of,
    signed,
    write_anchor,
)

_CHECK_WITHIN_S: Final = 120.0
_TRANSFERS_PER_S: Final = 20_000
"""A tenth of what the slowest check was seen to do on a machine that does nothing else."""
_BATCH_MAX: Final = 10_000
"""Transfers sealed at once: some 25 ms."""
_PROBLEMS_MAX: Final = 20
"""How many rows one check names: of a ledger that is wrong in a thousand places, these will do."""
_HOURS_AT_ONCE: Final = 6
_SALT_BITS: Final = 63
_BATCHES_AT_ONCE: Final = 50
"""Of the chain: at most 500,000 transfers, about a second."""
_TOLD_MAX: Final = 3
_PROGRESS: Final = ("head", "batch", "decided", "accrued_to", "paid_to")
"""How far everything has come: while all of it stays, nothing is new."""
_RECORD: Final = f"select record_reconciliation({', '.join(f'${n}' for n in range(1, 18))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What a reconciliation found of the ledger up to the transfer `head`."""

    passed: bool
    head: int
    problems: tuple[Problem, ...]


class Verifier(Protocol):
    """The process that reconciles: its database, and its own folder for key and anchor."""

    @property
    def database(self) -> Database:
        """Where the ledger is."""

    @property
    def data_dir(self) -> Path | None:
        """The folder of key and anchor."""


Check = Callable[[Any], Awaitable[list[Problem]]]
"""What it finds wrong, asked on a connection."""


def check_within_s(transfers: int) -> float:
    """How long one check of a ledger of that many transfers may take.

    It grows with the ledger, so that none is too large to be verified; a database that hangs is given up all the same.
    """
    return _CHECK_WITHIN_S + transfers / _TRANSFERS_PER_S


async def reconcile(service: Verifier, *, full: bool, side_by_side: int = 1) -> Reconciliation:
    """Verifies the ledger, records the result with our signature, and sets the gate by it.

    The checks are made on `side_by_side` connections at once, all of the same moment: for a machine whose cores have
    nothing better to do meanwhile.

    A `full` check takes all hours of interest by their weighted totals, which no change of a snapshot leaves as they
    are, and compares each snapshot of those that came since the newest record that passed, or whose totals are wrong.
    A check that is not full is one all the same where no record passed yet; where nothing came since the newest record,
    it gives that one's result and records nothing.

    Raises:
        NotDoneError: the database cannot be asked now, or another reconciliation was recorded meanwhile.
        OutcomeUnknownError: the database did not answer; the result may have been recorded.
        PlatformError: this process has no folder, or its key or its anchor is damaged.
    """
    if service.data_dir is None:
        raise PlatformError("HOLDFAST_DATA_DIR is not set: the ledger's verification is signed with a key kept there")
    started_s = time.monotonic()
    key, anchor = read_key(service.data_dir), read_anchor(service.data_dir)
    await seal_all(service)
    within_s = check_within_s((await service.database.row("select head from ledger_moment()"))["head"])
    async with AsyncExitStack() as connections:
        connection = await connections.enter_async_context(service.database.snapshot(within_s=within_s))
        moment = await connection.fetchrow("select * from ledger_moment()")
        newest = await _newest(connection, passed=False)
        if not full and newest is not None and all(getattr(newest, name) == moment[name] for name in _PROGRESS):
            return _result(newest)
        desks = [connection]
        for _ in range(1, side_by_side):
            beside = service.database.snapshot(within_s=within_s, beside=connection)
            desks.append(await connections.enter_async_context(beside))
        trusted = await _newest(connection, passed=True)
        since = None if full else trusted
        whole = since is None
        problems = await _wrong_ends(connection, anchor, trusted)
        problems += [problem async for problem in _wrong_records(connection, newest, whole=whole)]
        found = await _all_found(desks, await _checks(connection, since, moment["batch"], within_s))
        problems += found
        parts = await _hours(connection, None if trusted is None else trusted.accrued_to, moment["accrued_to"])
        accounted = {hour for part in parts for hour in part}
        # To name the snapshots that are behind a wrong total.
        parts += [[hour] for hour in sorted(_named_hours(found) - accounted)]
        problems += await _all_found(desks, [_check_of_hours(part, within_s) for part in parts])
        if whole and not problems:
            await _keep_balances(connection, within_s)
    record = Record(
        number=1 if newest is None else newest.number + 1,
        full=whole,
        passed=not problems,
        **{name: moment[name] for name in (*_PROGRESS, "batch_hash", "stage_changes")},
        problems=json.dumps([dataclasses.asdict(problem) for problem in problems], separators=(",", ":")),
        took_s=time.monotonic() - started_s,
        recorded_at=moment["wall"],
        previous=BEGINNING if newest is None else newest.digest,
        public_key=public_key(key),
    )
    record = dataclasses.replace(record, signature=signed(record, key))
    await _write(
        service,
        record,
        reason="; ".join(map(str, problems[:_TOLD_MAX])),
        enrol=newest is None or newest.public_key != record.public_key,
    )
    # After the database has it: an anchor that is older than the newest record holds all the same. One that moved on to
    # a record that failed would forget what it failed for, and let the next check pass.
    if record.passed:
        write_anchor(service.data_dir, record)
    return Reconciliation(passed=record.passed, head=record.head, problems=tuple(problems))


async def seal_all(service: Verifier) -> int:
    """Seals every transfer whose transaction is over and gives their number; raises as `Database.row` does."""
    total = 0
    while True:
        row = await service.database.row("select seal($1) as sealed", _BATCH_MAX)
        sealed: int = row["sealed"]
        total += sealed
        if sealed < _BATCH_MAX:
            return total


async def _newest(connection: Any, *, passed: bool) -> Record | None:
    row = await connection.fetchrow("select * from newest_reconciliation($1)", passed)
    return None if row is None else record_of(row)


def _result(record: Record) -> Reconciliation:
    problems = tuple(Problem(**problem) for problem in json.loads(record.problems))
    return Reconciliation(passed=record.passed, head=record.head, problems=problems)


async def _all_found(desks: Sequence[Any], checks: Sequence[Check]) -> list[Problem]:
    """What all the checks find, in their order; each connection takes the next one as soon as it is free."""
    found: dict[int, list[Problem]] = {}
    # From the end: the parts of the chain, which are small, are made last, so that no connection waits for another.
    waiting = list(enumerate(checks))

    async def work(desk: Any) -> None:
        while waiting:
            number, check = waiting.pop()
            found[number] = await check(desk)

    working = [asyncio.create_task(work(desk)) for desk in desks]
    try:
        await asyncio.gather(*working)
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    return [problem for number in sorted(found) for problem in found[number]]


async def _checks(connection: Any, since: Record | None, last_batch: int, within_s: float) -> list[Check]:
    batch, decided, paid_to = (0, 0, 0) if since is None else (since.batch, since.decided, since.paid_to)
    begin = await connection.fetchrow("select * from batch_end($1)", batch)
    touched = (begin["transaction"], begin["seq"])
    statements: list[tuple[str, Sequence[Any]]] = [
        ("select * from check_chain($1, $2)", (first, first + _BATCHES_AT_ONCE - 1))
        for first in range(batch + 1, last_batch + 1, _BATCHES_AT_ONCE)
    ]
    statements += [
        ("select * from check_transfers($1::text::xid8, $2)", touched),
        ("select * from check_balances($1::text::xid8, $2)", touched),
        ("select * from check_queue($1, $2::text::xid8, $3)", (decided, *touched)),
        ("select * from check_decisions($1, $2::text::xid8, $3)", (decided, *touched)),
    ]
    if since is None:
        statements += [("select * from check_wallets()", ())]
        statements += [("select * from check_hours($1)", (secrets.randbits(_SALT_BITS),))]

    async def audited(desk: Any) -> list[Problem]:
        return (await audit(desk, after=paid_to))[:_PROBLEMS_MAX]

    return [*(_check(statement, arguments, within_s) for statement, arguments in statements), audited]


async def _hours(connection: Any, after: datetime | None, last: datetime | None) -> list[list[datetime]]:
    rows = await connection.fetch("select hour from hours_between($1, $2)", after, last)
    hours = [row["hour"] for row in rows]
    return [hours[first : first + _HOURS_AT_ONCE] for first in range(0, len(hours), _HOURS_AT_ONCE)]


def _named_hours(problems: Sequence[Problem]) -> set[datetime]:
    """The hours that are named as wrong."""
    named = (problem.key for problem in problems if problem.table == "accrual_hour")
    return {datetime.strptime(f"{key}+0000", "%Y-%m-%dT%HZ%z") for key in named}


def _check_of_hours(part: Sequence[datetime], within_s: float) -> Check:
    return _check("select * from check_snapshots($1, $2)", (part[0], part[-1]), within_s)


def _check(statement: str, arguments: Sequence[Any], within_s: float) -> Check:
    return lambda desk: _found(desk, statement, *arguments, within_s=within_s)


async def _found(connection: Any, check: str, *arguments: Any, within_s: float) -> list[Problem]:
    cursor = await connection.cursor(check, *arguments, timeout=within_s)
    rows = await cursor.fetch(_PROBLEMS_MAX, timeout=within_s)
    return [Problem(table=row["place"], key=row["key"], expected=row["expected"], found=row["found"]) for row in rows]


async def _keep_balances(connection: Any, within_s: float) -> None:
    # From here on the transaction has written, and nothing can be sealed past it: the role's own limit holds again.
    await connection.execute("set local idle_in_transaction_session_timeout to default")
    await connection.execute("select keep_verified_balances()", timeout=within_s)


async def _wrong_ends(connection: Any, anchor: Anchor | None, trusted: Record | None) -> list[Problem]:
    """That records and chain contain those which the anchor, and the newest record that passed, tell of."""
    problems = []
    ends: dict[int, str] = {}
    if trusted is not None:
        ends[trusted.batch] = trusted.batch_hash.hex()
    if anchor is not None:
        rows = await connection.fetch("select * from read_reconciliations($1, 1)", anchor.number)
        there = record_of(rows[0]) if rows else None
        found = "none" if there is None or there.number != anchor.number else there.digest.hex()
        if found != anchor.digest:
            expected = f"digest {anchor.digest}"
            problems.append(Problem(table="reconciliation", key=str(anchor.number), expected=expected, found=found))
        ends[anchor.batch] = anchor.batch_hash
    for batch, batch_hash in ends.items():
        sealed = await connection.fetchval("select sealed_hash($1)", batch)
        found = "none" if sealed is None else sealed.hex()
        if batch and found != batch_hash:
            problems.append(Problem(table="sealed_batch", key=str(batch), expected=f"hash {batch_hash}", found=found))
    return problems


async def _wrong_records(connection: Any, newest: Record | None, *, whole: bool) -> AsyncIterator[Problem]:
    """That the newest record is signed, and that the others lead up to it.

    A record holds the digest of the one before; so a genuine newest one proves all that it can be traced back to.
    """
    if newest is not None and not newest.is_genuine:
        yield _forged(newest)
    before: Record | None = None
    if not whole:
        return
    async for record in read_records(connection, 1):
        if (record.number, record.previous) != _after(before):
            # Whichever of the two was changed: its own signature tells.
            if before is not None and not before.is_genuine:
                yield _forged(before)
            else:
                number, digest = _after(before)
                yield Problem(
                    table="reconciliation",
                    key=str(number),
                    expected=f"record {number} after one of digest {digest.hex()}",
                    found=f"record {record.number} after one of digest {record.previous.hex()}",
                )
        before = record


def _after(before: Record | None) -> tuple[int, bytes]:
    return (1, BEGINNING) if before is None else (before.number + 1, before.digest)


def _forged(record: Record) -> Problem:
    expected = f"a signature by the key {record.public_key.hex()}"
    return Problem(table="reconciliation", key=str(record.number), expected=expected, found="another signature")


async def _write(service: Verifier, record: Record, *, reason: str, enrol: bool) -> None:
    try:
        if enrol:
            await service.database.row("select enrol_reconciliation_key($1)", record.public_key)
        await service.database.row(_RECORD, *dataclasses.astuple(record), reason)
    except asyncpg.UniqueViolationError as error:
        raise NotDoneError(f"another reconciliation was recorded meanwhile: {error}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise PlatformError(f"the reconciliation cannot be recorded: {error}; {error.hint}") from error
