"""Faults on requests at a real Envoy: whom they hit, how hard, and that nothing stays behind."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from chaos.errors import TargetError
from chaos.targets.envoy import EnvoyAdmin
from chaos.undo import carry_out
from tests.integration.faults.served import LIMIT_S, Served, built

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = "balancer.admin_url"
_FASTEST_OF = 12


@pytest_asyncio.fixture(loop_scope="module")
async def client(balanced: Served) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the balancer that hides nothing, once every node is known to be well."""
    async with aiohttp.ClientSession(base_url=balanced.target.url, trust_env=False) as session:
        async with asyncio.timeout(LIMIT_S):
            while len(await nodes_asked(session, 8)) < 4:  # noqa: ASYNC110  (Envoy offers no event)
                await asyncio.sleep(0.05)
        yield session


async def statuses(client: aiohttp.ClientSession, path: str, count: int) -> Counter[int]:
    """What so many requests are answered with."""
    found: Counter[int] = Counter()
    for _ in range(count):
        async with client.get(path) as answer:
            found[answer.status] += 1
    return found


async def took_s(client: aiohttp.ClientSession, path: str) -> float:
    """How long one request takes."""
    began_s = time.monotonic()
    async with client.get(path) as answer:
        assert answer.status == 200
    return time.monotonic() - began_s


async def test_the_asked_share_of_requests_is_answered_with_the_status(
    balanced: Served, client: aiohttp.ClientSession
) -> None:
    """A quarter of 400 draws is 100 give or take 8.7: five times that off happens once in two million runs.

    No node answers so, and the draw comes before a node is chosen.
    """
    async with balanced.playing("http_abort", admin=ADMIN, status=507, percent="25%") as played:
        found = await statuses(client, "/v1/status", 400)
        proof = await played.effect()
    assert 56 <= found[507] <= 144
    assert proof.evidence["harmed"] >= found[507]
    assert (await statuses(client, "/v1/status", 50))[507] == 0


async def test_only_requests_below_the_path_are_harmed(balanced: Served, client: aiohttp.ClientSession) -> None:
    """All below one path, none beside it."""
    async with balanced.playing("http_abort", admin=ADMIN, path="/v1/deposits", status=507) as played:
        assert (await statuses(client, "/v1/deposits/7", 20))[507] == 20
        assert (await statuses(client, "/v1/status", 20))[507] == 0
        await played.effect()


@pytest.mark.parametrize("asked_ms", [40, 150])
async def test_requests_take_longer_by_what_was_asked(
    balanced: Served, client: aiohttp.ClientSession, asked_ms: int
) -> None:
    """The fastest, which no freeze of the machine overlaps, within 10 ms or 10 %; so none takes less than that.

    Envoy counts from when its loop last looked at the clock, which may be some milliseconds before the request.
    """
    usual_s = min([await took_s(client, "/v1/status") for _ in range(_FASTEST_OF)])
    async with balanced.playing("http_delay", admin=ADMIN, by=f"{asked_ms}ms", **{"for": "60s"}) as played:
        took = [await took_s(client, "/v1/status") for _ in range(_FASTEST_OF)]
        await played.effect()
    asked_s = asked_ms / 1000
    off_s = max(0.010, 0.1 * asked_s)
    assert min(took) >= asked_s - off_s
    assert min(took) - usual_s <= asked_s + off_s
    assert min([await took_s(client, "/v1/status") for _ in range(_FASTEST_OF)]) < asked_s - off_s


async def test_both_at_once_are_taken_back_each_by_its_own_record(
    balanced: Served, client: aiohttp.ClientSession
) -> None:
    """Another process has nothing but the record; carried out twice, it leaves the other fault in force."""
    async with (
        balanced.playing("http_delay", admin=ADMIN, by="1ms", **{"for": "60s"}) as delay,
        balanced.playing("http_abort", admin=ADMIN, status=507, **{"for": "60s"}) as abort,
    ):
        assert (await statuses(client, "/v1/status", 5))[507] == 5
        (step,) = abort.recorded[0]
        for _ in range(2):
            await asyncio.to_thread(carry_out, step)
            assert (await statuses(client, "/v1/status", 5))[507] == 0
        await delay.effect()
        assert (await abort.fault.effect(abort.scene)).proven is False


async def test_a_second_one_of_a_kind_below_one_path_is_refused_and_harms_not_the_first(balanced: Served) -> None:
    """It would change the first one's size, and its healing would end both."""
    async with balanced.playing("http_abort", admin=ADMIN, status=500, **{"for": "60s"}) as first:
        second = built("http_abort", admin=ADMIN, status=501)
        scene = balanced.scene(second, [])
        with pytest.raises(TargetError, match="another fault has requests below / in its hands"):
            await second.inject(scene)
        await second.heal(scene)
        assert (await first.effect()).evidence["settings"]["fault.http.abort.http_status"] == "500"


async def test_a_balancer_that_was_not_started_for_it_has_no_filter_and_says_so(balanced: Served) -> None:
    """Nothing is in the path of requests then; and there is nobody to count."""
    fault = built("http_abort", admin="plain.admin_url")
    scene = balanced.scene(fault, [])
    with pytest.raises(TargetError, match=r"no fault filter: start it with HTTP_FAULTS set, or name envoy\.filters"):
        await fault.inject(scene)
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.get(f"{balanced.target.output('plain.admin_url')}/config_dump") as answer,
    ):
        assert "type.googleapis.com/envoy.extensions.filters.http.fault" not in await answer.text()


async def test_where_no_request_comes_no_effect_is_claimed(balanced: Served) -> None:
    """The settings are in force, but nobody asks for that path."""
    async with balanced.playing("http_abort", admin=ADMIN, path="/v1/deposits") as played:
        proof = await played.fault.effect(played.scene)
        assert (proof.proven, proof.evidence["harmed"]) == (False, 0)


async def nodes_asked(client: aiohttp.ClientSession, count: int) -> Counter[str]:
    """Who answers so many requests."""
    found: Counter[str] = Counter()
    for _ in range(count):
        async with client.get("/v1/status") as answer:
            if answer.status == 200:
                found[answer.headers["X-Served-By"].partition("@")[0]] += 1
    return found


async def test_a_node_that_is_called_sick_gets_no_request_though_it_is_well(
    balanced: Served, client: aiohttp.ClientSession
) -> None:
    """It is ready all the time, and serves again after healing; the others get its share meanwhile."""
    lie = {"admin": ADMIN, "role": "portal", "instance": "portal-2", "says": "sick", "for": "60s"}
    assert (await nodes_asked(client, 40))["portal-2"] > 0
    async with balanced.playing("false_health", **lie) as played:
        proof = await played.effect()
        assert proof.evidence["out"] == ["portal-2"]
        assert await balanced.target.is_ready("portal-2")
        assert set(await nodes_asked(client, 40)) == {"portal-1", "portal-3", "portal-4"}
    assert (await nodes_asked(client, 40))["portal-2"] > 0


async def test_a_node_that_is_called_well_is_not_taken_out_by_its_health_though_it_is_dead(balanced: Served) -> None:
    """Stopped in order, which its health check would tell; after healing it does."""
    admin = EnvoyAdmin(balanced.target.address(ADMIN))
    (port,) = (it.port for it in balanced.target.instances() if it.name == "portal-3")
    lie = {"admin": ADMIN, "role": "portal", "instance": "portal-3", "says": "well", "for": "60s"}
    try:
        async with balanced.playing("false_health", **lie) as played:
            first = (await played.effect()).evidence["told"]["portal-3"]
            await balanced.target.stop_instance("portal-3")
            async with asyncio.timeout(LIMIT_S):  # four more checks: two in a row would have taken it out
                while (await played.effect()).evidence["told"]["portal-3"] < first + 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert port not in await admin.failing()
        async with asyncio.timeout(LIMIT_S):
            while port not in await admin.failing():  # noqa: ASYNC110  (Envoy offers no event)
                await asyncio.sleep(0.05)
    finally:
        if balanced.target.identity("portal-3") is None:
            await balanced.target.start_instance("portal-3")


async def test_a_balancer_that_was_not_started_for_lies_says_so(balanced: Served) -> None:
    """Nothing stands between it and its nodes then."""
    fault = built("false_health", admin="plain.admin_url", role="portal", instance="portal-1", says="sick")
    scene = balanced.scene(fault, [])
    with pytest.raises(TargetError, match="no listener for the health of portal-1: start it with HEALTH_LIES=on"):
        await fault.inject(scene)
