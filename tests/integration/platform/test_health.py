"""Traffic leaves a node that does badly before it fails, and comes back; a lost zone is carried by the other one."""

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from tests.integration.platform.customers import at_rate, log_in, send, until
from tests.integration.platform.gates import Gate, open_gates
from tests.integration.platform.stage import PATIENT, Platform, Process, Stage, await_ready, get

_SLOW_S = 0.3  # above the 0.25 s at which a node calls itself degraded, below the 0.4 s that the balancer gives a try
_ROUND = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Four nodes in two zones, each with a way of its own to the database, behind a balancer."""

    nodes: list[Process]
    gates: list[Gate]
    balancer: Process

    @property
    def url(self) -> str:
        """Where clients go."""
        return self.balancer.outputs()["url"]


@pytest.fixture(scope="module")
def house(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Shared by this module's tests: each leaves it as it finds it."""
    stage = Stage(folder=tmp_path_factory.mktemp("house"))
    with open_gates(platform.postgres.outputs()["dsn"], 4) as gates:
        try:
            nodes = [
                stage.add(f"node-{n}", "portal", DATABASE_URL=gate.url, **PATIENT)
                for n, gate in enumerate(gates, start=1)
            ]
            for node in nodes:
                await_ready(node)
            yield House(nodes=nodes, gates=gates, balancer=stage.add_balancer("balancer", nodes))
        finally:
            stage.close()


def metric(node: Process, name: str) -> float:
    """A metric of a node."""
    lines = get(node.port, "/metrics")[1].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


def degraded(house: House) -> list[bool]:
    """What each node says of itself."""
    return [metric(node, "savings_node_degraded") == 1 for node in house.nodes]


async def shares(house: House, session: aiohttp.ClientSession) -> list[int]:
    """How many of forty statuses each node answered."""
    replies = [await send(session, "GET", f"{house.url}/v1/status") for _ in range(_ROUND)]
    assert {reply.status for reply in replies} == {200}
    found = Counter(reply.headers["X-Served-By"].partition("@")[0] for reply in replies)
    return [found[node.name] for node in house.nodes]


async def await_well(house: House, session: aiohttp.ClientSession) -> None:
    """Waits until no node is degraded and each gets a quarter."""
    async with asyncio.timeout(60):
        await until(lambda: asyncio.to_thread(degraded, house), lambda found: not any(found))
        await until(lambda: shares(house, session), lambda found: set(found) == {_ROUND // 4})


@contextmanager
def slowed(node: Process) -> Iterator[None]:
    """Leaves a node a tenth of its time: stopped for 180 ms of each 200 ms."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.is_set():
            node.send_signal(signal.SIGSTOP)
            over.wait(0.18)
            node.send_signal(signal.SIGCONT)
            over.wait(0.02)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def assert_left_and_given_back(house: House, session: aiohttp.ClientSession, ill: int, sign: str) -> None:
    """Call while a node is made ill: waits until it says so and has no traffic; its log names the sign."""
    async with asyncio.timeout(45):
        await until(lambda: shares(house, session), lambda found: found[ill] == 0)
    told = house.nodes[ill].lines("node.degraded")
    assert sign in told[-1]["signs"]
    others = [share for number, share in enumerate(await shares(house, session)) if number != ill]
    assert sum(others) == _ROUND


async def test_a_node_with_a_slow_database_loses_its_traffic_and_gets_it_back(
    house: House, session: aiohttp.ClientSession
) -> None:
    """Answers of one node's database come 0.3 s late: it says so and stays ready, the others serve all; then back."""
    await await_well(house, session)
    house.gates[1].delay_s = _SLOW_S
    try:
        await assert_left_and_given_back(house, session, 1, "database_latency")
        readiness = await send(session, "GET", f"http://127.0.0.1:{house.nodes[1].port}/readyz")
        assert (readiness.status, readiness.headers["x-envoy-degraded"]) == (200, "true")
    finally:
        house.gates[1].delay_s = 0.0
    await await_well(house, session)
    assert house.nodes[1].lines("node.recovered")
    readiness = await send(session, "GET", f"http://127.0.0.1:{house.nodes[1].port}/readyz")
    assert "x-envoy-degraded" not in readiness.headers


async def test_a_node_that_hardly_gets_to_run_loses_its_traffic_and_gets_it_back(
    house: House, session: aiohttp.ClientSession
) -> None:
    """A node has a tenth of its time: its event loop is late, and the others serve all until it is well again."""
    await await_well(house, session)
    with slowed(house.nodes[2]):
        await assert_left_and_given_back(house, session, 2, "event_loop_lag")
    await await_well(house, session)


async def test_what_makes_all_nodes_slow_takes_none_out(house: House, session: aiohttp.ClientSession) -> None:
    """The database is slow for everybody: all are degraded, and each keeps its quarter."""
    await await_well(house, session)
    try:
        for gate in house.gates:
            gate.delay_s = _SLOW_S
        async with asyncio.timeout(45):
            await until(lambda: asyncio.to_thread(degraded, house), all)
            await until(lambda: shares(house, session), lambda found: set(found) == {_ROUND // 4})
    finally:
        for gate in house.gates:
            gate.delay_s = 0.0
    await await_well(house, session)


async def test_one_zone_carries_everything_when_the_other_is_lost(
    platform: Platform, house: House, session: aiohttp.ClientSession
) -> None:
    """Both nodes of zone a are killed under deposits: none fails, zone b serves all, and a gets its half back."""
    await await_well(house, session)
    saver = await log_in(session, platform, 20, url=house.url)
    before = await shares(house, session)
    lost = house.nodes[0::2]
    loop = asyncio.get_running_loop()
    killed_s = time.monotonic() + 0.4
    for node in lost:
        loop.call_later(0.4, node.send_signal, signal.SIGKILL)
    try:
        replies = await at_rate(40, 1.6, lambda _: saver.order("deposits", {"amount": 1}))
        after = await shares(house, session)
    finally:
        for node in lost:
            node.end(signal.SIGKILL)
            node.start()
    for node in lost:
        await asyncio.to_thread(await_ready, node)
    assert killed_s < time.monotonic()
    assert [reply for reply in replies if reply.status != 201] == []
    assert sum(before[0::2]) == sum(before[1::2]) == _ROUND // 2
    assert sum(after[1::2]) == _ROUND
    await await_well(house, session)
