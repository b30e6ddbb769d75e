"""What the original does not have: a time to live, proxies made with their toxics, live connections, effects."""

from typing import Any

import pytest

from tests.integration.toxiproxy.client import Client
from tests.integration.toxiproxy.wires import dial, until, upstream


def connections(server: Client) -> Any:
    """The live connections of the proxy."""
    return server.ask("GET", "/holdfast/proxies/p/connections").json


async def test_a_toxic_with_a_time_to_live_is_removed_by_itself(server: Client) -> None:
    """A black hole of 300 ms: still there at once, with less than that left; then gone, which ends its connections."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        server.toxic("timeout", timeout=0, ttl_ms=300)
        await wire.send(b"lost")
        shown = server.ask("GET", "/holdfast/proxies/p/toxics").json[0]
        assert 0 <= shown["ttl_ms"] <= 300

        assert await wire.rest() == b""
        assert server.ask("GET", "/proxies/p/toxics").json == []


def test_a_time_to_live_can_be_changed_and_taken_back(server: Client) -> None:
    """What is shown by the original's interface knows nothing of it."""
    server.proxy("127.0.0.1:1")
    server.toxic("noop", ttl_ms=600_000)
    toxic = "/proxies/p/toxics/noop_downstream"
    for ttl_ms, bounds in ((60_000, (0, 60_000)), (0, None)):
        assert list(server.ask("PATCH", toxic, {"ttl_ms": ttl_ms}).json) == [
            "attributes", "name", "type", "stream", "toxicity",
        ]  # fmt: skip
        left = server.ask("GET", "/holdfast/proxies/p/toxics").json[0]["ttl_ms"]
        assert left is None if bounds is None else bounds[0] < left <= bounds[1]


async def test_a_proxy_is_made_with_its_toxics(server: Client) -> None:
    """The first connection meets them."""
    async with upstream() as address:
        toxics = [{"type": "limit_data", "attributes": {"bytes": 3}}]
        body = {"name": "p", "listen": "127.0.0.1:0", "upstream": address, "toxics": toxics}
        answer = server.ask("POST", "/holdfast/proxies", body)
        assert answer.status == 201
        assert [one["name"] for one in answer.json["toxics"]] == ["limit_data_downstream"]
        async with dial(int(answer.json["listen"].rpartition(":")[2])) as wire:
            await wire.send(b"abcdef")
            assert await wire.rest() == b"abc"


@pytest.mark.parametrize(
    ("toxics", "message"),
    [
        ([{"type": "noop"}, {"type": "none"}], "invalid toxic type"),
        ([{"type": "noop"}, {"type": "noop"}], "toxic already exists"),
        ({}, "bad request body: toxics is a list, not object"),
    ],
)
def test_a_proxy_with_a_wrong_toxic_is_not_made(server: Client, toxics: object, message: str) -> None:
    """All or nothing."""
    body = {"name": "p", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:1", "toxics": toxics}

    assert server.ask("POST", "/holdfast/proxies", body).json["error"] == message
    assert server.ask("GET", "/proxies").json == {}


async def test_live_connections_and_effects_are_shown(server: Client) -> None:
    """Two connections, one of which sends 5 bytes through a latency."""
    async with upstream() as address:
        port = server.proxy(address)
        server.toxic("latency", latency=1)
        async with dial(port) as first, dial(port) as second:
            await first.send(b"12345")
            await first.receive(5)
            await until(lambda: len(connections(server)) == 2)
            by_client = {one["client"]: one for one in connections(server)}
            own = by_client["{}:{}".format(*first.writer.get_extra_info("sockname"))]
            other = by_client["{}:{}".format(*second.writer.get_extra_info("sockname"))]
            assert own["downstream"] == {"received_bytes": 5, "sent_bytes": 5, "ended": False}
            assert other["upstream"] == {"received_bytes": 0, "sent_bytes": 0, "ended": False}
            assert {own["number"], other["number"]} == {1, 2}
            assert own["age_ms"] >= 0

        effect = server.ask("GET", "/holdfast/proxies/p/toxics").json[0]["effect"]
        assert effect["bytes"] == 5
        assert effect["connections"] >= 1


def test_what_is_unknown_is_refused_as_elsewhere(server: Client) -> None:
    """With the original's words."""
    for path in ("/holdfast/proxies/no/toxics", "/holdfast/proxies/no/connections"):
        answer = server.ask("GET", path)
        assert (answer.status, answer.json["error"]) == (404, "proxy not found")
