"""The event stream: what a session's owner is told as it happens, and that it ends well."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import asyncpg
import pytest

from system_under_test.services.portal.events import HEARTBEAT_S
from system_under_test.services.portal.feed import STREAMS_OF_A_SESSION_MAX
from system_under_test.storage.seed import open_sessions
from tests.integration.platform.customers import Customer, log_in, send, until
from tests.integration.platform.stage import Platform, get, start_platform
from tests.integration.platform.watching import Watching, watching


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two portals of this module's own: its tests close the service and stop nodes."""
    yield from start_platform(tmp_path_factory.mktemp("events"), portals=2, customers=40)


@pytest.fixture
async def owner(platform: Platform) -> AsyncIterator[Any]:
    """A connection as the owner of all, for what the tests arrange; the service is left open."""
    connection = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    try:
        yield connection
        await connection.execute("update service_state set stage = 'open', gate = 'open'")
    finally:
        await connection.close()


def node_url(platform: Platform, number: int) -> str:
    """One node, without the balancer."""
    return f"http://127.0.0.1:{platform.portals[number].port}"


def balance_is(amount: int) -> Any:
    """Accepts a stream whose newest balance is current and this one."""
    return lambda stream: (told := stream.newest("balance")) and (told["state"], told["balance"]) == ("current", amount)


def state_is(state: str) -> Any:
    """Accepts a stream whose newest balance event says `state`."""
    return lambda stream: (told := stream.newest("balance")) and told["state"] == state


async def test_a_stream_begins_with_all_there_is_and_goes_on_with_what_changes(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Watches at one node and pays in at the other: the new balance is told, with a head that grew."""
    saver = await log_in(session, platform, 0, url=node_url(platform, 1))
    async with watching(node_url(platform, 0), saver.token) as stream:
        await stream.until(lambda it: it.newest("balance"))
        first = stream.newest("balance")
        assert stream.newest("hello") == {"scale": 2, "silence_s": 2 * HEARTBEAT_S}
        assert {name: first[name] for name in ("account", "balance")} == {
            "account": saver.account,
            "balance": 1_000_000,
        }
        paid = await saver.order("deposits", {"amount": 700})
        await stream.until(balance_is(1_000_700))
        assert stream.newest("balance")["head"] == paid.body["id"] > first["head"]


async def test_a_stream_tells_its_own_account_alone(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Two customers watch the same node while one of them pays in: the other is told nothing of it."""
    one, other = await log_in(session, platform, 1), await log_in(session, platform, 2)
    url = node_url(platform, 0)
    async with watching(url, one.token) as mine, watching(url, other.token) as theirs:
        await one.order("deposits", {"amount": 5})
        await mine.until(balance_is(1_000_005))
        await one.order("deposits", {"amount": 5})
        await mine.until(balance_is(1_000_010))
        accounts = {event.data["account"] for event in theirs.events if event.kind == "balance"}
        assert accounts == {other.account}
        assert len([event for event in theirs.events if event.kind == "balance"]) == 1


async def test_redemptions_are_told_as_the_api_tells_them(
    platform: Platform, session: aiohttp.ClientSession, owner: Any
) -> None:
    """Queues two while nothing is settled: the stream has what GET /v1/redemptions has; then that they are settled."""
    saver = await log_in(session, platform, 9)
    await owner.execute("update service_state set stage = 'closed'")
    headers = {"Authorization": f"Bearer {saver.token}"}
    async with watching(node_url(platform, 0), saver.token) as stream:
        await stream.until(lambda it: it.newest("redemptions") == {"redemptions": []})
        for amount in (3, 4):
            assert (await saver.order("redemptions", {"amount": amount})).status == 202
        await stream.until(lambda it: len(it.newest("redemptions")["redemptions"]) == 2)
        told = stream.newest("redemptions")["redemptions"]
        asked = (await send(session, "GET", f"{platform.url}/v1/redemptions", headers=headers)).body["redemptions"]
        assert [one["amount"] for one in told] == [4, 3]
        # When it is expected moves on with the time, and both are asked at different moments.
        assert [{**one, "expected_at": None} for one in told] == [{**one, "expected_at": None} for one in asked]
        assert {type(one["expected_at"]) for one in (*told, *asked)} == {str}
        await owner.execute("update service_state set stage = 'open'")
        await stream.until(lambda it: {one["status"] for one in it.newest("redemptions")["redemptions"]} == {"settled"})


async def test_no_number_is_told_while_balances_are_closed_or_synchronised(
    platform: Platform, session: aiohttp.ClientSession, owner: Any
) -> None:
    """Closes and reopens: `closed`, then `synchronising`, both without numbers, then the balance again."""
    saver = await log_in(session, platform, 3)
    async with watching(platform.url, saver.token) as stream:
        await stream.until(state_is("current"))
        await owner.execute("update service_state set stage = 'closed'")
        await stream.until(state_is("closed"))
        await owner.execute("update service_state set stage = 'open', epoch = epoch + 1")
        await stream.until(state_is("synchronising"))
        await owner.fetch("select * from synchronise_sessions(5000)")
        await stream.until(state_is("current"))
    told = [event.data for event in stream.events if event.kind == "balance"]
    assert [data["state"] for data in told] == ["current", "closed", "synchronising", "current"]
    assert all(data["balance"] is data["interest"] is data["head"] is None for data in told[1:3])


async def test_a_stream_ends_when_its_customer_logs_out(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Logs out elsewhere: the stream says why, and ends."""
    saver = await log_in(session, platform, 4)
    async with watching(node_url(platform, 0), saver.token) as stream:
        await stream.until(state_is("current"))
        left = await send(
            session,
            "DELETE",
            f"{node_url(platform, 1)}/v1/sessions/current",
            headers={"Authorization": f"Bearer {saver.token}"},
        )
        assert left.status == 204
        await stream.until(lambda it: it.ended)
        assert stream.newest("end") == {"reason": "unauthenticated"}


async def test_the_balancer_does_not_cut_a_quiet_stream(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Watches through the balancer for longer than its limit on any other request: it lives, and still tells news."""
    saver = await log_in(session, platform, 5)
    async with watching(platform.url, saver.token) as stream:
        await stream.until(state_is("current"))
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):  # nothing happens, and that is the point
            await stream.until(lambda it: it.ended, within_s=3.5)
        await saver.order("deposits", {"amount": 1})
        await stream.until(balance_is(1_000_001))
        assert time.monotonic() - began_s > 3.0


async def test_hundreds_of_streams_at_one_node_are_told_together(
    platform: Platform, session: aiohttp.ClientSession, owner: Any
) -> None:
    """Opens 300 streams of as many sessions at one node and pays into ten accounts: each is told its own news.

    The node asks the database for all of them at once, so the answers to others do not slow down.
    """
    accounts = [row["account"] for row in platform.customers[10:40]]
    opened = await open_sessions(owner, accounts=accounts, sessions=300)
    async with AsyncExitStack() as stack:
        streams = await asyncio.gather(
            *(stack.enter_async_context(watching(node_url(platform, 0), token)) for token, _ in opened)
        )
        await asyncio.gather(*(stream.until(state_is("current")) for stream in streams))
        await streams_are(platform, 300)
        payers = [
            Customer(session=session, url=node_url(platform, 1), token=token, account=account)
            for token, account in opened[:10]
        ]
        await asyncio.gather(*(payer.order("deposits", {"amount": 9}) for payer in payers))
        paid = {payer.account for payer in payers}
        for stream, (_, account) in zip(streams, opened, strict=True):
            if account in paid:
                await stream.until(balance_is(1_000_009))
        unpaid = [one for one, (_, account) in zip(streams, opened, strict=True) if account not in paid]
        assert len(unpaid) == 200
        assert all(len([event for event in one.events if event.kind == "balance"]) == 1 for one in unpaid)
        assert "savings_http_requests_in_flight 0.0" in get(platform.portals[0].port, "/metrics")[1].decode()

    await streams_are(platform, 0)


async def streams_are(platform: Platform, count: int) -> None:
    """Waits until the first node says that it has so many; a client that is gone shows at the next heartbeat."""

    def seen() -> bool:
        return f"savings_event_streams {count:.1f}" in get(platform.portals[0].port, "/metrics")[1].decode()

    async with asyncio.timeout(6 * HEARTBEAT_S):
        await until(lambda: asyncio.to_thread(seen), bool)


async def test_one_session_has_a_bounded_number_of_streams(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Asks for twice as many at the same moment: as many as allowed are served, the rest are 429 with Retry-After."""
    saver = await log_in(session, platform, 6)
    headers = {"Authorization": f"Bearer {saver.token}"}
    async with AsyncExitStack() as stack:

        async def ask() -> aiohttp.ClientResponse:
            return await stack.enter_async_context(session.get(f"{node_url(platform, 0)}/v1/events", headers=headers))

        replies = await asyncio.gather(*(ask() for _ in range(2 * STREAMS_OF_A_SESSION_MAX)))
        refused = [reply for reply in replies if reply.status == 429]
        assert sorted(reply.status for reply in replies) == [200] * STREAMS_OF_A_SESSION_MAX + [429] * len(refused)
        assert {reply.headers["Retry-After"] for reply in refused} == {"5"}


async def test_a_stream_says_when_its_node_cannot_see_the_database(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Freezes PostgreSQL's connections of the node: `feed` is not current; thawed, it is again, with the balance."""
    saver = await log_in(session, platform, 7)
    async with watching(node_url(platform, 0), saver.token) as stream:
        await stream.until(state_is("current"))
        assert stream.newest("feed") == {"current": True}
        platform.postgres.signal_family(signal.SIGSTOP)
        try:
            await stream.until(lambda it: it.newest("feed") == {"current": False}, within_s=30)
        finally:
            platform.postgres.signal_family(signal.SIGCONT)
        await stream.until(lambda it: it.newest("feed") == {"current": True}, within_s=30)
    async with asyncio.timeout(30):  # left as it was found: the balancer had taken both nodes out
        await until(lambda: asyncio.to_thread(platform.balancer.answers, "/v1/status"), bool)


async def test_a_draining_node_ends_its_streams_with_a_hint_and_they_come_back_elsewhere(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Stops one node of two: its streams end with a reason and a time to come back, and the node ends well.

    The client that comes back after that time, through the balancer, is served by the other node.
    """
    saver = await log_in(session, platform, 8)
    node = platform.portals[0]
    async with AsyncExitStack() as stack:
        streams: list[Watching] = [
            await stack.enter_async_context(watching(node_url(platform, 0), saver.token)) for _ in range(4)
        ]
        for stream in streams:
            await stream.until(state_is("current"))
        node.send_signal(signal.SIGTERM)
        for stream in streams:
            await stream.until(lambda it: it.ended)
            assert stream.newest("end") == {"reason": "draining"}
            assert stream.retry_ms is not None
            assert 300 <= stream.retry_ms < 1500
        assert len({stream.retry_ms for stream in streams}) > 1, "they would all come back at the same moment"
        assert await asyncio.to_thread(node.end) == 0
        await asyncio.sleep(max(stream.retry_ms or 0 for stream in streams) / 1000)
        async with watching(platform.url, saver.token) as again:
            await again.until(state_is("current"))
            assert again.node.startswith("portal-2@")
    node.start()
    async with asyncio.timeout(15):
        await until(lambda: asyncio.to_thread(node.answers, "/readyz"), bool)
