"""What each toxic does to real connections, measured as a client sees it, and what switching does to them."""

import asyncio
import time

import pytest

from tests.integration.toxiproxy.client import Client
from tests.integration.toxiproxy.wires import about, answer_at_end, dial, fastest, pour, until, upstream


async def test_without_toxics_everything_arrives(server: Client) -> None:
    """A megabyte there and back, compared byte for byte."""
    sent = bytes(range(256)) * 4096
    async with upstream() as address, dial(server.proxy(address)) as wire:
        await wire.send(sent[:700_000])
        sending = asyncio.create_task(wire.send(sent[700_000:]))
        assert await wire.receive(len(sent)) == sent
        await sending


async def test_a_client_that_has_sent_its_last_byte_still_gets_the_answer(server: Client) -> None:
    """The server answers only at the end of the request, so that end must pass without closing the way back."""
    async with upstream(answer_at_end) as address, dial(server.proxy(address)) as wire:
        await wire.send(bytes(1000))
        wire.writer.write_eof()
        assert await wire.rest() == b"1000 bytes"


@pytest.mark.parametrize("streams", [{"downstream": 200}, {"upstream": 100, "downstream": 100}])
async def test_latency_delays(server: Client, streams: dict[str, int]) -> None:
    """A round trip of one byte, on one stream or both."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        for stream, delay_ms in streams.items():
            server.toxic("latency", stream=stream, latency=delay_ms)

        async def round_trip() -> None:
            await wire.send(b"x")
            await wire.receive(1)

        assert about(0.2, await fastest(round_trip))


async def test_bandwidth_limits(server: Client) -> None:
    """40 kB at 100 kB/s."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        server.toxic("bandwidth", rate=100)

        async def transfer() -> None:
            await wire.send(bytes(40_000))
            await wire.receive(40_000)

        assert about(0.4, await fastest(transfer))


async def test_slow_close_keeps_the_connection_open(server: Client) -> None:
    """From the end that the client sends, which the server returns, to the end that the client sees."""
    async with upstream() as address:
        port = server.proxy(address)
        server.toxic("slow_close", delay=300)

        async def finish() -> None:
            async with dial(port) as wire:
                wire.writer.write_eof()
                assert await wire.rest() == b""

        assert about(0.3, await fastest(finish))


async def test_timeout_drops_and_closes(server: Client) -> None:
    """Nothing of what was sent comes back; the end comes after 300 ms."""
    async with upstream() as address:
        port = server.proxy(address)
        server.toxic("timeout", timeout=300)

        async def wait() -> None:
            async with dial(port) as wire:
                assert await wire.rest() == b""

        assert about(0.3, await fastest(wait))


async def test_a_black_hole_ends_when_it_is_removed(server: Client) -> None:
    """Nothing comes for as long as it is there; then the end."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        await wire.send(b"x")
        await wire.receive(1)
        server.toxic("timeout", timeout=0)
        await wire.send(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.reader.read(1), timeout=0.2)

        server.ask("DELETE", "/proxies/p/toxics/timeout_downstream")

        assert await wire.rest() == b""


async def test_reset_peer_resets_new_connections_in_time(server: Client) -> None:
    """200 ms after the first data; with a reset, not with an end."""
    async with upstream() as address:
        port = server.proxy(address)
        server.toxic("reset_peer", timeout=200)

        async def meet() -> None:
            async with dial(port) as wire:
                await wire.send(b"x")
                with pytest.raises(ConnectionResetError):
                    await wire.receive(1)

        assert about(0.2, await fastest(meet))


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
async def test_reset_peer_resets_connections_that_were_open_before(server: Client, stream: str) -> None:
    """A connection that was in use gets a reset at its next data."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        await wire.send(b"x")
        await wire.receive(1)
        server.toxic("reset_peer", stream=stream)
        await wire.send(b"x")

        with pytest.raises(ConnectionResetError):
            await wire.receive(1)


async def test_limit_data_closes_after_its_bytes(server: Client) -> None:
    """25 bytes of 100, then the end."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        server.toxic("limit_data", bytes=25)
        await wire.send(bytes(range(100)))

        assert await wire.rest() == bytes(range(25))


async def test_a_slicer_sends_pieces(server: Client) -> None:
    """With 5 ms between them each is read by itself: none longer than average + variation."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        server.toxic("slicer", average_size=10, size_variation=3, delay=5000)
        await wire.send(bytes(range(60)))
        pieces = [await wire.reader.read(100)]
        while sum(map(len, pieces)) < 60:
            pieces.append(await wire.reader.read(100))

        assert b"".join(pieces) == bytes(range(60))
        # Two pieces may meet at a reader that a busy machine woke late, but not most of them.
        assert len(pieces) >= 3
        assert len(pieces[0]) <= 13


async def test_a_slicer_without_attributes_lets_everything_pass(server: Client) -> None:
    """And the server goes on."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        server.toxic("slicer")
        await wire.send(bytes(5000))
        assert await wire.receive(5000) == bytes(5000)


async def test_toxics_upstream_and_downstream_are_told_apart(server: Client) -> None:
    """With a limit upstream the server sees 5 bytes, and its answer passes whole."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        server.toxic("limit_data", stream="upstream", bytes=1_000)
        await wire.send(bytes(999))
        assert await wire.receive(999) == bytes(999)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/proxies/p", {"enabled": False}),
        ("DELETE", "/proxies/p", None),
        ("POST", "/proxies/p", {"upstream": "127.0.0.1:1"}),
    ],
)
async def test_switching_a_proxy_off_drops_its_connections(
    server: Client, method: str, path: str, body: dict[str, object] | None
) -> None:
    """Disabled, deleted or given another upstream: the client sees the end."""
    async with upstream() as address, dial(server.proxy(address)) as wire:
        await wire.send(b"x")
        await wire.receive(1)

        assert server.ask(method, path, body).status < 300

        assert await wire.rest() == b""


async def test_an_unreachable_server_looks_like_an_immediate_end(server: Client) -> None:
    """The proxy accepts and closes."""
    async with dial(server.proxy("127.0.0.1:1")) as wire:
        assert await wire.rest() == b""


async def test_taking_toxics_off_never_waits_for_a_stuck_connection(server: Client) -> None:
    """A client that does not read, a server that pours: every change is answered, and the proxy goes on."""
    async with upstream(pour) as address, dial(server.proxy(address)) as stuck:
        for kind in ("latency", "bandwidth", "slicer", "slow_close"):
            server.toxic(kind)
        await asyncio.sleep(0.2)  # every buffer on the way fills; without that the next requests prove nothing
        started = time.monotonic()
        for kind in ("bandwidth", "latency", "slow_close", "slicer"):
            assert server.ask("PATCH", f"/proxies/p/toxics/{kind}_downstream", {"toxicity": 0.5}).status == 200
            assert server.ask("DELETE", f"/proxies/p/toxics/{kind}_downstream").status == 204
        assert time.monotonic() - started < 25  # where the original gives up

        assert await stuck.receive(1_000_000) == bytes(1_000_000)
        assert server.ask("DELETE", "/proxies/p").status == 204


async def test_metrics_count_the_bytes_of_finished_connections(server: Client) -> None:
    """By direction, with the names and labels of the original."""
    async with upstream() as address:
        port = server.proxy(address, "counted")
        async with dial(port) as wire:
            await wire.send(bytes(1_500_000))
            await wire.receive(1_500_000)
        labels = f'listener="127.0.0.1:{port}",proxy="counted",upstream="{address}"'
        wanted = [
            f'toxiproxy_proxy_{kind}_bytes_total{{direction="{direction}",{labels}}} 1.5e+06'
            for kind in ("received", "sent")
            for direction in ("downstream", "upstream")
        ]
        await until(lambda: set(wanted) <= set(server.ask("GET", "/metrics").body.decode().splitlines()))
    assert b"# TYPE toxiproxy_proxy_sent_bytes_total counter\n" in server.ask("GET", "/metrics").body
