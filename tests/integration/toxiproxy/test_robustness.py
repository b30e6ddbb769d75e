"""Many connections, bad peers and bad requests: the server goes on, and nothing of them stays."""

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.cli import execute
from chaos.toxiproxy.server import Settings, serving
from tests.benchmarks.measure import proportional_set_size_bytes
from tests.integration.toxiproxy.client import Client
from tests.integration.toxiproxy.wires import dial, until, upstream


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    """As many sockets as the machine allows, since both ends of 1,000 connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def live(server: Client) -> int:
    """How many connections a proxy has."""
    return len(server.ask("GET", "/holdfast/proxies/p/connections").json)


async def gone(server: Client) -> None:
    """Waits until the proxy has no connection."""
    await until(lambda: live(server) == 0)


@pytest.mark.usefixtures("_many_descriptors")
async def test_a_thousand_connections_are_served_at_once(server: Client) -> None:
    """All are open before the first is used; each gets its own bytes back, and none is left."""
    async with upstream() as address, contextlib.AsyncExitStack() as stack:
        port = server.proxy(address)
        server.toxic("latency", latency=1)
        wires = [await stack.enter_async_context(dial(port)) for _ in range(1000)]

        async def use(number: int) -> bytes:
            await wires[number].send(b"%08d" % number)
            return await wires[number].receive(8)

        assert await asyncio.gather(*map(use, range(1000))) == [b"%08d" % number for number in range(1000)]
        assert live(server) == 1000
        await stack.aclose()
        await gone(server)


async def test_peers_that_behave_badly_leave_nothing_behind(server: Client) -> None:
    """Reset at once, reset with data under way, half-closed, silent: with and without toxics."""
    async with upstream() as address:
        port = server.proxy(address)
        for kind in (None, "latency", "slicer", "bandwidth"):
            if kind is not None:
                server.toxic(kind, latency=50, rate=1, average_size=1, delay=10)
            for data, reset, half in (
                (b"", True, False),
                (bytes(50_000), True, False),
                (b"x", False, True),
                (b"", False, False),
            ):
                with socket.create_connection(("127.0.0.1", port)) as peer:
                    if reset:
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    peer.sendall(data)
                    if half:
                        peer.shutdown(socket.SHUT_WR)
        server.ask("POST", "/reset")
        await gone(server)
        async with dial(port) as wire:
            await wire.send(b"fine")
            assert await wire.receive(4) == b"fine"


@pytest.mark.parametrize(
    "request_text",
    [
        bytes(range(256)) * 8,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /version HTTP/1.1\r\n" + b"X-Long: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(30_000)) + b"\r\n",
        b"POST /proxies HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        b"POST /proxies HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /proxies HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["garbage", "tls", "long header", "long path", "many headers", "cut off", "length", "chunk"],
)
def test_a_bad_request_to_the_interface_harms_nobody_else(server: Client, request_text: bytes) -> None:
    """Sent raw, read to the end of what comes; others are answered meanwhile and afterwards."""
    with socket.create_connection((server.host, server.port), timeout=30) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(request_text)
        assert server.ask("GET", "/version").status == 200
        with contextlib.suppress(OSError):  # it may have closed already
            peer.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in peer.recv(65536)
    assert server.ask("GET", "/version").status == 200


def test_deeply_nested_and_large_bodies_are_refused(server: Client) -> None:
    """20,000 brackets, which would exhaust a recursive reader's stack, and 9 MB."""
    nested = server.ask("POST", "/proxies", "[" * 20_000)
    assert (nested.status, nested.json["error"]) == (400, "bad request body: exceeded max depth")

    with contextlib.suppress(ConnectionError):  # it may stop reading before everything is sent
        assert server.ask("POST", "/proxies", bytes(9_000_000)).status == 413
    assert server.ask("GET", "/version").status == 200


async def test_a_server_starts_with_the_proxies_of_its_file(tmp_path: Path) -> None:
    """And with none where the file cannot be used, which it only tells."""
    config = tmp_path / "proxies.json"
    for text, names in (
        ('[{"name":"a","listen":"127.0.0.1:0","upstream":"127.0.0.1:1"}]', ["a"]),
        ("[{", []),
        (None, []),
    ):
        config.unlink(missing_ok=True)
        if text is not None:
            config.write_text(text)
        async with serving(Settings(host="127.0.0.1", port="0", config=config)) as server:
            assert list(server.collection.proxies) == names


async def test_the_same_seed_chooses_the_same_connections() -> None:
    """40 connections, one after another, half of them limited: two servers agree, one of another seed does not."""

    async def chosen(seed: int) -> list[bytes]:
        async with upstream() as address, serving(Settings(host="127.0.0.1", port="0", seed=seed)) as server:
            client = Client(server.url)
            port = await asyncio.to_thread(client.proxy, address)
            await asyncio.to_thread(client.toxic, "limit_data", toxicity=0.5, bytes=2)
            answers = []
            for _ in range(40):
                async with dial(port) as wire:
                    await wire.send(b"four")
                    wire.writer.write_eof()
                    answers.append(await wire.rest())
            return answers

    first = await chosen(1)
    assert set(first) == {b"fo", b"four"}
    assert await chosen(1) == first
    assert await chosen(2) != first


def test_a_port_in_use_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """What to do about it as well; exit code 2 as for everything that the machine lacks."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert execute(["toxiproxy", "-host", "127.0.0.1", "-port", address.rpartition(":")[2]]) == 2

    assert f"{address}: bind: address already in use; choose others with --host and --port" in capsys.readouterr().err


@pytest.mark.prove
async def test_ten_thousand_connections_leave_nothing_behind(server: Client) -> None:
    """Memory and descriptors of the server after 2,000 connections and after 10,000 more; half of them with toxics.

    What a connection keeps would be kept 10,000 times: 2 MiB allow 200 bytes, less than any object of a connection.
    """
    async with upstream() as address:
        port = server.proxy(address)

        async def use() -> None:
            async with dial(port) as wire:
                await wire.send(b"x" * 100)
                await wire.receive(100)

        async def many(rounds: int) -> tuple[int, int]:
            for number in range(rounds):
                await asyncio.gather(*(use() for _ in range(50)))
                if number == rounds // 2:
                    server.toxic("latency", latency=1)
                    server.toxic("slicer", stream="upstream", average_size=10)
            server.ask("POST", "/reset")
            await gone(server)
            return _footprint(server.port)

        memory_before, descriptors_before = await many(40)
        memory_after, descriptors_after = await many(200)

    assert descriptors_after <= descriptors_before + 1
    assert memory_after <= memory_before + 2 * 1024 * 1024


def _footprint(port: int) -> tuple[int, int]:
    """Memory in bytes and open descriptors of the process that listens at a port."""
    pid = _listener_pid(port)
    return proportional_set_size_bytes([pid]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _listener_pid(port: int) -> int:
    """The process that listens at a port, as /proc shows it."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inode = next(
        line.split()[9] for line in lines if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    )
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if fd.readlink() == Path(f"socket:[{inode}]"):
                return int(fd.parts[2])
    raise AssertionError(f"nobody listens at {port}")
