"""Starts that cannot work say why and end; starts in another order work all the same."""

import asyncio
import json
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from system_under_test.storage.database import Database, DatabaseLimits, NotDoneError
from tests.integration.platform.stage import Platform, Stage, await_ready, await_true, free_port


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("postgres", "Address already in use"),
        ("portal", r"portal: cannot listen on 127\.0\.0\.1:\d+"),
        ("balancer", "Address already in use|cannot bind"),
    ],
)
async def test_a_port_in_use_ends_the_start_with_a_reason(
    platform: Platform, stage: Stage, taken_port: int, module: str, said: str
) -> None:
    """Each process on a port that is taken: it ends with an error, names the port, and shows no traceback."""
    process = stage.add(
        "process",
        module,
        HOLDFAST_PORT=str(taken_port),
        HOLDFAST_PORT_ADMIN=str(free_port()),
        DATABASE_URL=platform.postgres.outputs()["dsn"],
        UPSTREAMS="127.0.0.1:1@a",
    )
    assert process.running is not None
    assert await asyncio.to_thread(process.running.wait, 20) == 1
    log = process.log.read_text(encoding="utf-8")
    assert re.search(said, log)
    assert str(taken_port) in log
    assert "Traceback" not in log


async def test_two_balancers_never_share_a_port(platform: Platform, stage: Stage) -> None:
    """A second balancer on the first one's port ends, instead of taking a part of its connections in silence."""
    second = stage.add(
        "second",
        "balancer",
        HOLDFAST_PORT=str(platform.balancer.port),
        HOLDFAST_PORT_ADMIN=str(free_port()),
        UPSTREAMS="127.0.0.1:1@a",
    )
    assert second.running is not None
    assert await asyncio.to_thread(second.running.wait, 20) == 1


async def test_a_portal_started_before_its_database_waits_for_it(stage: Stage) -> None:
    """A portal whose database is not there: alive, not ready, refusing honestly; ready once the database is back."""
    postgres = await asyncio.to_thread(stage.add_database)
    assert await asyncio.to_thread(postgres.end, signal.SIGINT) == 0
    portal = stage.add_portal("portal-1", postgres)
    await asyncio.to_thread(await_true, lambda: portal.answers("/healthz"), "the node lives")
    assert portal.answers("/readyz", 503)
    assert portal.answers("/v1/status")
    postgres.start()
    await asyncio.to_thread(await_ready, portal)
    told = portal.lines("database")
    assert told[0]["problem"].startswith("ConnectionRefusedError: ")
    assert [line["ready"] for line in told] == [False] * (len(told) - 1) + [True]
    # One line for each reason: after the refusal perhaps that the server is starting up.
    problems = [line["problem"] for line in told]
    assert len(problems) == len(set(problems))


async def test_a_call_that_gets_no_connection_says_how_long_it_waited(platform: Platform) -> None:
    """One connection, kept by a snapshot: a call beside it is not done, with the limit of its waiting in the reason."""
    database = Database(
        platform.postgres.outputs()["dsn"],
        DatabaseLimits(pool_size=1, acquire_within_s=0.05, statement_within_s=1.0),
        application="test",
        on_change=lambda _ready, _problem: None,
    )
    watching = asyncio.create_task(database.keep_connected())
    try:
        async with asyncio.timeout(10):
            while not database.ready:  # noqa: ASYNC110 - another task's state: no event can be awaited
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        async with database.snapshot(within_s=5.0):
            with pytest.raises(NotDoneError, match=r"^no connection free within 0\.05 s$"):
                await database.row("select 1")
    finally:
        await database.close()


async def test_readiness_goes_with_the_database_and_comes_back(stage: Stage) -> None:
    """SIGSTOP of the database server and its processes: not ready within 3 s; ready again after SIGCONT."""
    postgres = await asyncio.to_thread(stage.add_database)
    portal = stage.add_portal("portal-1", postgres)
    await asyncio.to_thread(await_ready, portal)
    try:
        postgres.signal_family(signal.SIGSTOP)
        await asyncio.to_thread(
            await_true, lambda: portal.answers("/readyz", 503), "the node says that it cannot serve", within_s=4
        )
        assert portal.answers("/healthz")
    finally:
        postgres.signal_family(signal.SIGCONT)
    await asyncio.to_thread(await_ready, portal)


async def test_the_balancer_is_the_started_process_and_reports_where_it_is(platform: Platform) -> None:
    """The pid that was started is Envoy; its ready file has the addresses that clients and operators use."""
    assert platform.balancer.program().name == "envoy"
    outputs = json.loads(platform.balancer.ready_file.read_text(encoding="utf-8"))
    assert outputs == {
        "url": f"http://127.0.0.1:{platform.balancer.port}",
        "admin_url": f"http://127.0.0.1:{platform.balancer.environment['HOLDFAST_PORT_ADMIN']}",
    }


async def test_everything_ends_when_told_to(stage: Stage) -> None:
    """A small platform, each process ended by its own signal: exit codes of an orderly end, ports free again."""
    postgres = await asyncio.to_thread(stage.add_database)
    portal = stage.add_portal("portal-1", postgres, DRAIN_SECONDS="0.1")
    await asyncio.to_thread(await_ready, portal)
    balancer = await asyncio.to_thread(stage.add_balancer, "balancer", [portal])
    ended = [
        await asyncio.to_thread(process.end, number)
        for process, number in ((balancer, signal.SIGTERM), (portal, signal.SIGTERM), (postgres, signal.SIGINT))
    ]
    assert ended == [0, 0, 0]
    assert not (postgres.folder / "pgdata" / "postmaster.pid").exists()
    for process in (postgres, portal, balancer):
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", process.port))
