"""What the platform survives: nodes killed, hung, stopped and overloaded while orders go on."""

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.integration.platform.customers import Customer, Reply, at_rate, log_in, send, until
from tests.integration.platform.stage import Platform, Process, Stage, await_ready, free_port, get

_RATE = 150.0  # one order each 7 ms: at every moment of a fault some request is under way


def failed(replies: Sequence[Reply]) -> list[Reply]:
    """The replies that are no answer of the service."""
    return [reply for reply in replies if reply.status not in {200, 201, 422}]


async def settle(platform: Platform, portal: Process) -> None:
    """Waits until the balancer sends to `portal` again: it answers as ready and a status came from it."""
    await asyncio.to_thread(await_ready, portal)
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        await until(
            lambda: send(session, "GET", f"{platform.url}/v1/status"),
            lambda reply: reply.headers.get("X-Served-By", "").startswith(f"{portal.name}@"),
        )


def retries(balancer: Process) -> int:
    """How many tries the balancer has made beyond the first."""
    return counted(balancer, "upstream_rq_retry")


def counted(balancer: Process, name: str) -> int:
    """What the balancer has counted of its portals so far."""
    text = get(int(balancer.environment["HOLDFAST_PORT_ADMIN"]), f"/stats?filter=cluster.portal.{name}$")[1]
    return int(text.decode().split(":")[1])


async def test_both_zones_and_all_nodes_take_traffic(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Forty statuses through the balancer are answered by each of the four nodes ten times."""
    replies = [await send(session, "GET", f"{platform.url}/v1/status") for _ in range(40)]
    nodes = [reply.headers["X-Served-By"] for reply in replies]
    assert {node: nodes.count(node) for node in set(nodes)} == {f"{portal.name}@v1": 10 for portal in platform.portals}


async def test_a_killed_node_costs_no_keyed_request(platform: Platform, customer: Customer) -> None:
    """SIGKILL of two nodes under load: nothing fails, the balancer tried again, each deposit counts once."""
    before = (await customer.balance())["balance"]
    retried = retries(platform.balancer)
    loop = asyncio.get_running_loop()
    victims = platform.portals[:2]
    for delay_s, victim in zip((0.4, 0.9), victims, strict=True):
        loop.call_later(delay_s, victim.send_signal, signal.SIGKILL)
    try:
        replies = await at_rate(_RATE, 1.6, lambda _: customer.order("deposits", {"amount": 1}))
    finally:
        for victim in victims:
            victim.end(signal.SIGKILL)
            victim.start()
    for victim in victims:
        await settle(platform, victim)
    assert failed(replies) == []
    assert retries(platform.balancer) > retried
    assert (await customer.balance())["balance"] == before + len(replies)


async def test_a_hung_node_makes_no_request_wait_for_it(platform: Platform, customer: Customer) -> None:
    """SIGSTOP of a node for 1.5 s under load, on one hot account: nothing fails, and no request waits for that node.

    One that did would take the 1.5 s. How much faster than that all are is for `hung-node` to say, which knows of
    freezes of the machine.
    """
    before = (await customer.balance())["balance"]
    loop = asyncio.get_running_loop()
    victim = platform.portals[2]
    loop.call_later(0.3, victim.send_signal, signal.SIGSTOP)
    loop.call_later(1.8, victim.send_signal, signal.SIGCONT)
    try:
        replies = await at_rate(_RATE, 2.0, lambda _: customer.order("deposits", {"amount": 1}))
    finally:
        victim.send_signal(signal.SIGCONT)
    await settle(platform, victim)
    assert failed(replies) == []
    assert 0.35 < max(reply.took_s for reply in replies) < 1.4, "some request hung, and none until the end"
    assert (await customer.balance())["balance"] == before + len(replies)


async def test_a_drained_node_costs_no_request_even_without_retries(platform: Platform, customer: Customer) -> None:
    """SIGTERM of a node under load behind a balancer that never tries again: nothing fails, the node exits with 0."""
    balancer = platform.stage.add_balancer("no-retries", platform.portals, retries="off")
    victim = platform.portals[3]
    try:
        saver = Customer(
            session=customer.session, url=balancer.outputs()["url"], token=customer.token, account=customer.account
        )
        load = asyncio.create_task(at_rate(_RATE, 1.8, lambda _: saver.order("deposits", {"amount": 1})))
        await asyncio.sleep(0.3)
        ended = await asyncio.to_thread(victim.end, signal.SIGTERM)
        replies = await load
    finally:
        balancer.end()
        victim.start()
        await settle(platform, victim)
    assert ended == 0
    assert failed(replies) == []
    assert victim.lines("node.stopped")[-1]["in_flight"] == 0


async def test_without_retries_a_killed_node_does_cost_requests(platform: Platform, customer: Customer) -> None:
    """The same kill behind a balancer that never tries again: requests fail, so the clients here hide nothing."""
    balancer = platform.stage.add_balancer("no-retries-kill", platform.portals, retries="off")
    victim = platform.portals[0]
    try:
        saver = Customer(
            session=customer.session, url=balancer.outputs()["url"], token=customer.token, account=customer.account
        )
        asyncio.get_running_loop().call_later(0.3, victim.send_signal, signal.SIGKILL)
        replies = await at_rate(_RATE, 0.8, lambda _: saver.order("deposits", {"amount": 1}))
    finally:
        balancer.end()
        victim.end(signal.SIGKILL)
        victim.start()
        await settle(platform, victim)
    assert failed(replies)


async def test_a_keyless_post_is_not_sent_to_a_second_node(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """Log-ins carry no key: one that was sent to a node that dies is lost, and not sent to the other node."""
    nodes = [stage.add_portal(f"portal-{number}", platform.postgres) for number in (1, 2)]
    for node in nodes:
        await asyncio.to_thread(await_ready, node)
    balancer = await asyncio.to_thread(stage.add_balancer, "balancer", nodes)
    row = platform.customers[0]
    body = {"email": row["email"], "password": row["password"]}
    nodes[0].send_signal(signal.SIGSTOP)
    url = f"{balancer.outputs()['url']}/v1/sessions"
    attempts = [asyncio.create_task(send(session, "POST", url, json=body)) for _ in range(2)]
    await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
    nodes[0].end(signal.SIGKILL)
    replies = await asyncio.gather(*attempts)
    assert sorted(reply.status for reply in replies) == [201, 503]
    assert {reply.headers.get("Retry-After") for reply in replies} == {None}
    assert retries(balancer) == 0


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_deliberate_503_is_neither_tried_again_nor_held_against_the_node(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession, *, keyed: bool
) -> None:
    """Nodes that take one request at a time get 40 at once: each reaches one node once, and no node is put out."""
    nodes = [stage.add_portal(f"portal-{n}", platform.postgres, MAX_IN_FLIGHT="1") for n in (1, 2, 3)]
    for node in nodes:
        await asyncio.to_thread(await_ready, node)
    balancer = await asyncio.to_thread(stage.add_balancer, "balancer", nodes)
    url = balancer.outputs()["url"]
    saver = await log_in(session, platform, 7, url=url)
    logged = sum(len(node.lines("http.request")) for node in nodes)
    if keyed:
        replies = await asyncio.gather(*(saver.order("deposits", {"amount": 1}) for _ in range(40)))
    else:
        authorization = {"Authorization": f"Bearer {saver.token}"}
        reads = (send(session, "GET", f"{url}/v1/balance", headers=authorization) for _ in range(40))
        replies = await asyncio.gather(*reads)
    shed = [reply for reply in replies if reply.status == 503]
    assert shed
    assert len(shed) < len(replies)
    for reply in shed:
        assert reply.body["type"] == "shed"
        assert reply.headers["Retry-After"] == "1"
    assert sum(len(node.lines("http.request")) for node in nodes) - logged == 40
    stats = get(int(balancer.environment["HOLDFAST_PORT_ADMIN"]), "/stats?filter=cluster.portal")[1].decode()
    assert "cluster.portal.outlier_detection.ejections_enforced_total: 0" in stats
    assert "cluster.portal.upstream_rq_retry: 0" in stats


async def test_a_later_try_never_promises_that_nothing_happened(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """An order shed at its second try has no Retry-After, a read has: the first try may have been carried out."""
    node = stage.add_portal("portal-1", platform.postgres, MAX_IN_FLIGHT="1", ACQUIRE_SECONDS="5")
    await asyncio.to_thread(await_ready, node)
    url = f"http://127.0.0.1:{node.port}"
    saver = await log_in(session, platform, 8, url=url)
    second = {"x-envoy-attempt-count": "2", "Authorization": f"Bearer {saver.token}"}

    async def flood() -> list[Reply]:
        orders = (saver.order("deposits", {"amount": 1}, **{"x-envoy-attempt-count": "2"}) for _ in range(8))
        reads = (send(session, "GET", f"{url}/v1/balance", headers=second) for _ in range(8))
        return list(await asyncio.gather(*orders, *reads))

    replies = await flood()
    orders = [reply for reply in replies[:8] if reply.status == 503]
    reads = [reply for reply in replies[8:] if reply.status == 503]
    assert orders
    assert reads
    assert {reply.headers.get("Retry-After") for reply in orders} == {None}
    assert {reply.headers.get("Retry-After") for reply in reads} == {"1"}
    assert {reply.headers["x-envoy-ratelimited"] for reply in orders + reads} == {"true"}


async def test_no_node_left_is_said_at_once_and_honestly(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """All nodes drain: 503 with Retry-After and a problem document, from the balancer, without waiting.

    What had waited for a node would not be counted as one for which there was none, and would be 504 at its time limit.
    """
    node = stage.add_portal("portal-1", platform.postgres, DRAIN_SECONDS="60")
    await asyncio.to_thread(await_ready, node)
    balancer = await asyncio.to_thread(stage.add_balancer, "balancer", [node])
    url = balancer.outputs()["url"]
    node.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        reply = await until(lambda: send(session, "GET", f"{url}/v1/status"), lambda reply: reply.status != 200)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.body["status"] == 503
    assert counted(balancer, "upstream_cx_none_healthy") == 1


async def test_no_node_left_after_a_try_was_sent_promises_nothing(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """The only node hangs with an order sent to it: the balancer's 503 has no Retry-After, it may have happened."""
    node = stage.add_portal("portal-1", platform.postgres)
    await asyncio.to_thread(await_ready, node)
    balancer = await asyncio.to_thread(stage.add_balancer, "balancer", [node])
    saver = await log_in(session, platform, 18, url=balancer.outputs()["url"])
    node.send_signal(signal.SIGSTOP)
    first = await saver.order("deposits", {"amount": 1})
    assert (first.status, first.headers.get("Retry-After")) == (503, None)
    assert int(first.headers["x-envoy-attempt-count"]) > 1
    second = await saver.order("deposits", {"amount": 1})
    assert (second.status, second.headers.get("Retry-After")) == (503, "1")


async def test_a_draining_node_says_so_and_still_serves(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """After SIGTERM /readyz is 503 with the balancer's marks, orders are still taken, connections end with answers."""
    node = stage.add_portal("portal-1", platform.postgres, DRAIN_SECONDS="60")
    await asyncio.to_thread(await_ready, node)
    url = f"http://127.0.0.1:{node.port}"
    saver = await log_in(session, platform, 9, url=url)
    node.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        readiness = await until(lambda: send(session, "GET", f"{url}/readyz"), lambda reply: reply.status != 200)
    assert (readiness.status, readiness.body["type"]) == (503, "draining")
    assert (readiness.headers["Retry-After"], readiness.headers["x-envoy-ratelimited"]) == ("1", "true")
    order = await saver.order("deposits", {"amount": 1})
    assert (order.status, order.headers["Connection"]) == (201, "close")
    assert node.running is not None
    assert node.running.poll() is None, "it has ended before its time to drain was over"


async def test_a_node_that_is_ready_but_fails_is_put_out(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """A node whose /readyz is 200 and whose answers are 503 without the mark gets no more after three, for a second."""
    asked = 0

    async def lie(request: web.Request) -> web.Response:
        nonlocal asked
        asked += request.path != "/readyz"
        return web.Response(status=200 if request.path == "/readyz" else 503)

    application = web.Application()
    application.router.add_get("/{path:.*}", lie)
    liar = TestServer(application, port=free_port())
    await liar.start_server()
    assert liar.port is not None
    try:
        lying = replace(platform.portals[0], name="liar", port=liar.port)
        balancer = await asyncio.to_thread(stage.add_balancer, "balancer", [lying, platform.portals[1]])
        url = f"{balancer.outputs()['url']}/v1/status"
        started_s = time.monotonic()
        replies = [await send(session, "GET", url) for _ in range(30)]
        took_s = time.monotonic() - started_s
    finally:
        await liar.close()
    assert failed(replies) == []
    # Let in again after each second, and put out again.
    assert 3 <= asked <= 3 * (1 + int(took_s))
