"""Maintenance windows on real processes: closed as announced, open only when verified, whatever is killed meanwhile."""

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.integration.platform.customers import Customer, Reply, log_in, send, until
from tests.integration.platform.operations import Company, Operator, operate
from tests.integration.platform.stage import Platform, await_ready, get

WHOLE = ["scheduled", "noticed", "draining", "closed", "verifying", "opened"]


@pytest.fixture
async def operator(company: Company, session: aiohttp.ClientSession) -> AsyncIterator[Operator]:
    """An operator who leaves nothing behind."""
    async with operate(company, session) as operator:
        yield operator


@pytest.fixture
async def saver(company: Company, session: aiohttp.ClientSession) -> Customer:
    """A customer, logged in."""
    platform = Platform(
        stage=company.stage,
        postgres=company.postgres,
        portals=company.portals,
        balancer=company.balancer,
        customers=company.customers,
    )
    return await log_in(session, platform, 0)


async def public_status(operator: Operator, *, stage: str, queued: int = 0) -> Any:
    """The status that each node gives, one of them, as soon as all say `stage` and that so many are queued."""
    bodies: list[Any] = []
    for portal in operator.company.portals:
        async with asyncio.timeout(5):
            reply = await until(
                lambda url=f"http://127.0.0.1:{portal.port}/v1/status": send(operator.session, "GET", url),  # type: ignore[misc]
                lambda reply: reply.body["stage"] == stage and reply.body["queue_length"] >= queued,
            )
        bodies.append(reply.body)
    return bodies[0]


async def test_a_window_closes_reads_and_nothing_else_and_opens_by_itself(operator: Operator, saver: Customer) -> None:
    """30 business minutes at a rate of 60, nobody near: each stage in order, redemptions queued meanwhile."""
    epoch = await operator.owner.fetchval("select epoch from service_state")
    before = await saver.balance()
    number = await operator.closed()
    row = await operator.row(number)
    refused = await saver.read("balance")
    taken = await saver.order("redemptions", {"amount": 5})
    paid_in = await saver.order("deposits", {"amount": 7})
    listed = await saver.read(f"redemptions/{taken.body['id']}")
    status = await public_status(operator, stage="closed", queued=1)
    ready = [get(portal.port, "/readyz")[0] for portal in operator.company.portals]

    assert (refused.status, refused.body["type"], refused.body["service"]["stage"]) == (503, "closed", "closed")
    assert refused.headers["x-envoy-ratelimited"] == "true"
    # 30 business minutes at a rate of 60 are 30 seconds, some of them gone.
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert datetime.fromisoformat(refused.body["service"]["window"]["expected_end"]) == row["planned_end"]
    assert (taken.status, paid_in.status, listed.body["status"]) == (202, 201, "queued")
    assert ("balance" in paid_in.body, paid_in.body["balance_withheld"]) == (False, "closed")
    waits = datetime.fromisoformat(listed.body["expected_at"]) - datetime.fromisoformat(listed.body["accepted_at"])
    assert timedelta(seconds=1) < waits <= timedelta(seconds=31)
    assert (status["balances"], status["window"]["id"], status["window"]["overdue"]) == ("closed", number, False)
    assert 0 < status["window"]["ends_in_s"] <= 30 * 60
    assert ready == [200, 200]

    await operator.forward(row["planned_end"] - timedelta(minutes=10))
    opened = await operator.reaches(number, "open")
    assert await operator.changes(number) == WHOLE
    assert opened["verified_head"] >= opened["verify_head"] > 0
    assert opened["published_end"] == opened["planned_end"]
    assert await operator.owner.fetchval("select epoch from service_state") == epoch + 1
    decided = await saver.decided(taken.body["id"])
    assert (decided["status"], decided["place"], decided["expected_at"]) == ("settled", None, None)
    async with asyncio.timeout(5):
        after = await until(lambda: saver.read("balance"), lambda reply: reply.body.get("state") == "current")
    assert after.body["balance"] == before["balance"] + 7 - 5


async def test_refusals_of_a_window_eject_no_node_and_are_not_tried_again(operator: Operator, saver: Customer) -> None:
    """Reads of a closed portal through the balancer, ten at a time: all 503 with Retry-After, both nodes stay in."""
    balancer = operator.company.balancer
    admin = int(balancer.environment["HOLDFAST_PORT_ADMIN"])

    def counted() -> bytes:
        return get(
            admin,
            "/stats?filter=cluster.portal.(outlier_detection.ejections_(enforced_total|active)|upstream_rq_retry)$",
        )[1]

    async def read_ten_times_ten() -> tuple[bytes, list[Reply]]:
        before = counted()
        return before, [
            reply for _ in range(10) for reply in await asyncio.gather(*(saver.read("balance") for _ in range(10)))
        ]

    await operator.closed()
    assert counted().count(b"\n") == 3
    async with asyncio.timeout(60):
        # On a busy machine a try can run into the balancer's time limit, 0.4 s, and is tried again for that.
        before, replies = await until(read_ten_times_ten, lambda seen: max(reply.took_s for reply in seen[1]) < 0.3)
    assert {(reply.status, "Retry-After" in reply.headers) for reply in replies} == {(503, True)}
    assert {reply.headers["x-envoy-attempt-count"] for reply in replies} == {"1"}
    assert {reply.headers["X-Served-By"] for reply in replies} == {"portal-1@v1", "portal-2@v1"}
    assert counted() == before


async def test_the_maintenance_process_can_be_killed_at_every_stage(operator: Operator) -> None:
    """SIGKILL as soon as each stage is seen, then a new start: the window goes on to its end all the same.

    A lock on the sealed batches keeps the verification from ending before it was seen.
    """
    maintenance = operator.company.maintenance

    async def kill() -> None:
        await asyncio.to_thread(maintenance.end, signal.SIGKILL)
        maintenance.start()
        await asyncio.to_thread(await_ready, maintenance)

    number = await operator.plan()
    await kill()
    await operator.tell_everybody()
    await operator.reaches(number, "noticed")
    await kill()
    row = await operator.row(number)
    await operator.forward(row["planned_start"], rate=10)
    await operator.reaches(number, "draining")
    await kill()
    await operator.reaches(number, "closed")
    await kill()
    holding = operator.owner.transaction()
    await holding.start()
    await operator.owner.execute("lock table sealed_batch in exclusive mode")
    await operator.forward(row["planned_end"] - timedelta(minutes=10))
    await operator.reaches(number, "verifying")
    await kill()
    await holding.commit()
    await operator.reaches(number, "open")
    assert await operator.changes(number) == WHOLE


async def test_a_wrong_ledger_keeps_the_service_closed_and_the_public_told(operator: Operator, saver: Customer) -> None:
    """A cached balance is falsified in a window: it overruns, says until when and why, and opens once mended."""
    account = operator.company.customers[5]["account"]

    async def falsify(units: int) -> None:
        async with operator.owner.transaction():
            await operator.owner.execute("alter table account disable trigger user")
            await operator.owner.execute("update account set balance = balance + $2 where id = $1", account, units)
            await operator.owner.execute("alter table account enable trigger user")

    number = await operator.closed()
    row = await operator.row(number)
    await falsify(1)
    try:
        await operator.forward(row["planned_end"] - timedelta(minutes=2))
        async with asyncio.timeout(15):
            late = await until(lambda: operator.row(number), lambda row: row["published_end"] > row["planned_end"])
        status = await public_status(operator, stage="verifying")
        taken = await saver.order("redemptions", {"amount": 1})
        again = await operator.row(number)
        assert (late["stage"], late["planned_end"]) == ("verifying", row["planned_end"])
        assert "the verification of the ledger found 2 problems" in again["reason"]
        assert datetime.fromisoformat(status["window"]["expected_end"]) > datetime.fromisoformat(
            status["business_time"]
        )
        assert (status["window"]["overdue"], status["balances"], taken.status) == (False, "closed", 202)
        assert account not in str(status)
    finally:
        await falsify(-1)
    opened = await operator.reaches(number, "open")
    changes = await operator.changes(number)
    assert changes[:5] == WHOLE[:5]
    assert set(changes[5:-1]) == {"overrun"}
    assert changes[-1] == "opened"
    assert opened["verified_head"] >= opened["verify_head"]
    assert (await saver.decided(taken.body["id"]))["status"] == "settled"


async def test_the_database_itself_opens_nothing_unverified(operator: Operator) -> None:
    """The database is asked to open a verifying window that no verification covers: refused, with any head."""
    number = await operator.closed()
    maintenance = operator.company.maintenance
    maintenance.send_signal(signal.SIGSTOP)
    try:
        async with operator.owner.transaction():
            row = await operator.row(number)
            plan = (row["planned_start"], row["planned_end"], row["published_end"])
            step = "select step_window($1, $2, $3, $4, $5, $6, $7, 'as the test wants it', $8)"
            assert await operator.owner.fetchval(step, number, row["version"], "verifying", "verifying", *plan, None)
        row = await operator.row(number)
        head = row["verify_head"]
        opening = (number, row["version"], "opened", "open", *plan)
        assert not await operator.owner.fetchval(step, *opening, None)
        assert not await operator.owner.fetchval(step, *opening, head - 1)
        # Not covered by any record since verifying began.
        assert not await operator.owner.fetchval(step, *opening, head)
        assert (await operator.row(number))["stage"] == "verifying"
    finally:
        maintenance.send_signal(signal.SIGCONT)
    await operator.reaches(number, "open")


async def test_what_was_decided_about_an_older_version_of_a_window_is_not_done(operator: Operator) -> None:
    """Two steps decided on the same look: the first is done, the second refused; so are steps that lead nowhere."""
    number = await operator.plan()
    row = await operator.row(number)
    plan = (row["planned_start"], row["planned_end"], row["published_end"])
    step = "select step_window($1, $2, $3, $4, $5, $6, $7, 'as the test wants it', 0)"
    assert await operator.owner.fetchval(step, number, row["version"], "noticed", "noticed", *plan)
    assert not await operator.owner.fetchval(step, number, row["version"], "moved", "scheduled", *plan)
    for change, stage in (("closed", "closed"), ("verifying", "verifying"), ("overrun", "noticed")):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="cannot be"):
            await operator.owner.fetchval(step, number, row["version"] + 1, change, stage, *plan)
    assert await operator.changes(number) == ["scheduled", "noticed"]


async def test_a_window_whose_notices_are_late_moves_and_says_so(operator: Operator) -> None:
    """A provider that is down until a day before the start: another time, a new revision and notices, the reason."""
    number = await operator.plan(hours_ahead=26)
    planned = await operator.row(number)
    await operator.forward(planned["planned_start"] - timedelta(hours=23, minutes=59))
    async with asyncio.timeout(10):
        moved = await until(lambda: operator.row(number), lambda row: row["revision"] == 2)
    assert moved["stage"] == "scheduled"
    assert moved["planned_start"] >= planned["planned_start"] - timedelta(hours=23, minutes=59) + timedelta(hours=26)
    assert moved["planned_end"] - moved["planned_start"] == timedelta(minutes=30)
    assert moved["reason"] == "12 of 12 notices could not be sent 24 hours ahead"
    assert await operator.tell_everybody() == 12
    await operator.reaches(number, "noticed")
    schedule = await send(operator.session, "GET", f"{operator.company.url}/v1/schedule")
    listed = next(window for window in schedule.body["windows"] if window["id"] == number)
    assert [(event["change"], event["revision"]) for event in listed["events"]] == [
        ("scheduled", 1),
        ("moved", 2),
        ("noticed", 2),
    ]
    assert listed["events"][1]["reason"] == moved["reason"]


async def test_a_start_that_was_slept_through_is_planned_anew(operator: Operator) -> None:
    """The clock jumps past the whole of a noticed window: nobody is shut out unannounced, the window moves."""
    number = await operator.noticed()
    row = await operator.row(number)
    await operator.forward(row["planned_end"] + timedelta(hours=3))
    async with asyncio.timeout(10):
        moved = await until(lambda: operator.row(number), lambda row: row["revision"] == 2)
    assert moved["planned_start"] > row["planned_end"] + timedelta(hours=27)
    assert moved["reason"].endswith("was missed")
    assert await operator.changes(number) == ["scheduled", "noticed", "moved"]


async def test_a_window_makes_way_for_one_that_overran_into_its_time(operator: Operator) -> None:
    """Two windows five minutes apart, the first is held in verifying past the start of the second: the second moves."""
    first = await operator.noticed(hours_ahead=26)
    ends = (await operator.row(first))["planned_end"]
    reply = await operator.ask(
        "POST", "windows", {"starts_at": (ends + timedelta(minutes=5)).isoformat(), "minutes": 30}
    )
    second = reply.body["id"]
    await operator.tell_everybody()
    await operator.reaches(second, "noticed")
    await operator.forward((await operator.row(first))["planned_start"], rate=10)
    await operator.reaches(first, "closed")
    holding = operator.owner.transaction()
    await holding.start()
    await operator.owner.execute("lock table sealed_batch in exclusive mode")
    await operator.forward(ends - timedelta(seconds=30))
    async with asyncio.timeout(10):
        moved = await until(lambda: operator.row(second), lambda row: row["revision"] == 2)
    assert moved["reason"].startswith("the window before it lasts until")
    assert (await operator.row(first))["stage"] == "verifying"
    await holding.commit()
    await operator.reaches(first, "open")


async def test_draining_waits_for_what_was_under_way_but_not_for_ever(operator: Operator) -> None:
    """A portal's transaction is open when draining begins: closed when it ends, or when the time is over."""
    portal = await asyncpg.connect(operator.company.postgres.outputs()["dsn"])
    try:
        await portal.execute("set idle_in_transaction_session_timeout = 0")
        for commits in (True, False):
            number = await operator.noticed()
            held = portal.transaction()
            await held.start()
            await portal.execute("select 1")
            await operator.forward((await operator.row(number))["planned_start"], rate=1)
            begun = await operator.reaches(number, "draining")
            if commits:
                await asyncio.sleep(1.0)  # beyond the least time that draining takes: only the transaction can hold it
                assert (await operator.row(number))["stage"] == "draining"
                await held.commit()
            closed = await operator.reaches(number, "closed")
            took_s = (closed["entered_at"] - begun["entered_at"]).total_seconds()
            assert closed["reason"] == ("what was under way has ended" if commits else "the time for draining is over")
            assert took_s >= (1.0 if commits else 5.0)
            if not commits:
                await held.rollback()
            await operator.opened(number)
    finally:
        await portal.close(timeout=5)


async def test_a_cancelled_window_never_comes(operator: Operator) -> None:
    """Cancelled after everybody was told: everybody is told that too, and its time passes with the service open."""
    number = await operator.noticed()
    row = await operator.row(number)
    reply = await operator.ask("POST", f"windows/{number}/cancel", {"reason": "not needed any more"})
    assert reply.status == 200
    assert await operator.tell_everybody() == 12
    await operator.forward(row["planned_start"] + timedelta(minutes=1))
    follower = await operator.plan()  # the maintenance process has looked at the windows since
    await operator.tell_everybody()
    await operator.reaches(follower, "noticed")
    after = await operator.row(number)
    assert (after["stage"], after["revision"], after["reason"]) == ("cancelled", 2, "not needed any more")
    assert (await public_status(operator, stage="open"))["balances"] == "open"


async def test_the_status_is_told_without_a_database_and_says_its_age(operator: Operator) -> None:
    """SIGSTOP of the database in a closed window: each node goes on telling the stage, and how old that is."""
    await operator.closed()
    await public_status(operator, stage="closed")
    postgres = operator.company.postgres
    url = f"http://127.0.0.1:{operator.company.portals[0].port}/v1/status"
    postgres.signal_family(signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            # A statement is given up after 3 s: by then a reading has failed, too.
            old = await until(lambda: send(operator.session, "GET", url), lambda reply: reply.body["age_s"] > 3.5)
    finally:
        postgres.signal_family(signal.SIGCONT)
    assert (old.status, old.body["stage"]) == (200, "closed")
    async with asyncio.timeout(10):
        await until(lambda: send(operator.session, "GET", url), lambda reply: reply.body["age_s"] < 0.5)


async def test_what_has_been_of_a_window_cannot_be_changed(operator: Operator) -> None:
    """The owner itself is refused to change or remove history, and to remove a window."""
    number = await operator.plan()
    assert await operator.changes(number) == ["scheduled"]
    for statement in (
        "update window_event set reason = 'other'",
        "delete from window_event",
        "delete from maintenance_window",
        "truncate window_event",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await operator.owner.execute(statement)


async def test_the_expected_settlement_is_after_the_window_and_further_back_later(operator: Operator) -> None:
    """Open: within a second for the first place; closed: not before the published end, in wall time; by place.

    Each is compared with the time just before it was asked for and just after, however long that took.
    """
    second = timedelta(seconds=1)
    opened = await operator.owner.fetchrow(
        "select clock_timestamp() as before, expected_settlement(1) as first, clock_timestamp() as after"
    )
    assert opened["before"] <= opened["first"] < opened["after"] + second
    number = await operator.closed()
    row = await operator.owner.fetchrow(
        """
        select wall_time(published_end) as end, clock_timestamp() as before, expected_settlement(1) as first,
               expected_settlement(50000) as last, clock_timestamp() as after
        from maintenance_window where id = $1
        """,
        number,
    )
    assert max(row["end"], row["before"]) <= row["first"] <= max(row["end"], row["after"]) + second
    assert timedelta(0) < row["last"] - row["first"] <= 50 * second + (row["after"] - row["before"])
    assert await operator.owner.fetchval("select expected_settlement(null)") is None


async def test_a_fast_clock_is_slowed_when_a_window_begins(operator: Operator) -> None:
    """Business time runs at 600 when the start comes: from the draining on at 60, so that the window can be kept."""
    number = await operator.noticed()
    await operator.forward((await operator.row(number))["planned_start"], rate=600)
    await operator.reaches(number, "closed")
    assert await operator.owner.fetchval("select rate from business_clock order by wall desc limit 1") == 60
    await operator.opened(number)
