"""The fixed-rate prober: on schedule, one request a probe, every kind of trouble by its name."""

import itertools
import json
import signal
import time

import pytest

from metrics.history import FAIL, OK, PROBE, Row
from tests.integration.loadtests.bench import Bench
from tests.integration.loadtests.server import Reply, Request
from tests.integration.loadtests.test_open_loop import until


def assert_each_client_does_one_thing_at_a_time(pairs: list[tuple[Row, Row]]) -> None:
    """Probes in flight at the same time are different logical clients."""
    busy_until_ns: dict[int, int] = {}
    for asked, done in sorted(pairs, key=lambda pair: pair[0].t_ns):
        assert asked.t_ns >= busy_until_ns.get(asked.process, 0)
        busy_until_ns[asked.process] = done.t_ns


def test_a_gap_can_be_read_back_from_the_history(bench: Bench) -> None:
    """The server is killed for 400 ms: the longest time between successes is that and little more.

    Little more is two intervals, 150 ms for the server to be up again, and freezes of the machine. Each probe sent in
    the gap is `refused`.
    """
    server = bench.server(lambda _: Reply())
    process = bench.prober("--interval", "0.02", url=server.url)
    process.until("ready")
    until(lambda: len(server.requests) >= 25)
    killed_ns = time.monotonic_ns()
    server.kill()
    dead_ns = time.monotonic_ns()
    time.sleep(0.4)  # the length of the gap is what is measured
    back_ns = time.monotonic_ns()
    server.start()
    started_ns = time.monotonic_ns()
    seen = len(server.requests)
    until(lambda: len(server.requests) >= seen + 25)
    ended = process.end()
    assert (ended.code, ended.stderr) == (0, "")
    pairs = bench.operations(PROBE)
    successes_ns = sorted(done.t_ns for _, done in pairs if done.type == OK)
    gap_ns = max(after - before for before, after in itertools.pairwise(successes_ns))
    stalled_ns = sum(line["stalled_ns"] for line in ended.said if line["load"] == "hiccup")
    assert back_ns - dead_ns <= gap_ns <= started_ns - killed_ns + 190_000_000 + stalled_ns
    inside = [done for asked, done in pairs if dead_ns <= asked.t_ns and done.t_ns <= back_ns]
    assert len(inside) >= 18
    assert {(done.type, done.error) for done in inside} == {(FAIL, "refused")}
    assert ended.finished["unsent"] == 0
    assert ended.finished["fail"] == sum(done.type == FAIL for _, done in pairs)


def test_probes_keep_their_schedule_while_the_service_hangs(bench: Bench) -> None:
    """A server that answers nothing for the first second: probes go on every 20 ms, each times out by itself."""
    server = bench.server(lambda _: Reply(after_s=60))
    process = bench.prober("--interval", "0.02", "--timeout", "0.3", url=server.url)
    until(lambda: len(server.requests) >= 30)
    server.behaviour = lambda _: Reply()
    seen = len(server.requests)
    until(lambda: len(server.requests) >= seen + 10)
    finished = process.end().finished
    pairs = bench.operations(PROBE)
    start_ns = pairs[0][0].intended_ns
    assert [asked.intended_ns - start_ns for asked, _ in pairs] == [n * 20_000_000 for n in range(len(pairs))]
    # A prober that waited for answers would start most probes 300 ms late or more.
    punctual = [asked for asked, _ in pairs if asked.t_ns - asked.intended_ns < 100_000_000]
    assert len(punctual) >= 0.8 * len(pairs)
    late = [(asked, done) for asked, done in pairs if done.error == "timeout"]
    assert len(late) >= 20
    assert all(done.t_ns - asked.t_ns >= 290_000_000 for asked, done in late)
    assert finished["intended"] == finished["completed"] == len(pairs) == len(server.requests)
    assert_each_client_does_one_thing_at_a_time(pairs)


def test_fresh_and_kept_connections_take_turns(bench: Bench) -> None:
    """Every other probe opens a connection of its own, the rest share one; the history says which is which."""
    server = bench.server(lambda _: Reply(headers={"X-Served-By": "portal-2@v1", "x-envoy-attempt-count": "3"}))
    process = bench.prober("--interval", "0.02", url=server.url)
    until(lambda: len(server.requests) >= 40)
    process.end()
    pairs = bench.operations(PROBE)
    modes = [json.loads(asked.value or "")["mode"] for asked, _ in pairs]
    assert modes == ["fresh" if number % 2 == 0 else "keepalive" for number in range(len(modes))]
    assert server.connections == modes.count("fresh") + 1
    assert {(done.node, done.attempt) for _, done in pairs} == {("portal-2@v1", 3)}
    assert {int(request.headers["x-request-id"]) for request in server.requests} == {asked.index for asked, _ in pairs}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=503), "http-503"),
        (Reply(status=500), "http-500"),
        (Reply(status=404), "http-404"),
        (Reply(drop="rst"), "reset"),
        (Reply(drop="eof"), "eof"),
        (Reply(drop="midway"), "eof-midway"),
    ],
)
def test_each_kind_of_trouble_has_its_name_and_is_seen_once(bench: Bench, reply: Reply, error: str) -> None:
    """Half of the probes meet it, over fresh and kept connections alike; the server sees each probe exactly once."""
    server = bench.server(lambda _: reply if len(server.requests) % 4 in {1, 2} else Reply())
    process = bench.prober("--interval", "0.01", url=server.url)
    until(lambda: len(server.requests) >= 40)
    finished = process.end().finished
    pairs = bench.operations(PROBE)
    troubled = [asked for asked, done in pairs if done.error == error]
    assert len(pairs) == len(server.requests) == finished["started"]
    assert {(done.type, done.error) for _, done in pairs} == {(OK, None), (FAIL, error)}
    assert {json.loads(asked.value or "")["mode"] for asked in troubled} == {"fresh", "keepalive"}


def test_a_service_that_speaks_no_tls_is_told_as_such(bench: Bench) -> None:
    """An https address of a plain server."""
    server = bench.server(lambda _: Reply())
    process = bench.prober("--interval", "0.05", url=server.url.replace("http", "https"))
    until(lambda: server.connections >= 5)
    process.end()
    assert {(done.type, done.error) for _, done in bench.operations(PROBE)} == {(FAIL, "tls")}


def test_bodies_in_chunks_and_to_the_end_of_the_stream_are_read(bench: Bench) -> None:
    """Neither has a Content-Length; both are complete answers."""

    def behave(request: Request) -> Reply:
        chunked = int(request.headers["x-request-id"]) % 2 == 0
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        return Reply(raw=raw if chunked else b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhi")

    server = bench.server(behave)
    process = bench.prober("--interval", "0.01", url=server.url)
    until(lambda: len(server.requests) >= 20)
    finished = process.end().finished
    assert finished["ok"] == finished["intended"] >= 20


def test_what_is_no_http_is_malformed(bench: Bench) -> None:
    """A service that answers with something else, and one whose length is nonsense."""
    server = bench.server(
        lambda _: Reply(
            raw=b"SSH-2.0\r\n\r\n" if len(server.requests) % 2 else b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"
        )
    )
    process = bench.prober("--interval", "0.01", url=server.url)
    until(lambda: len(server.requests) >= 20)
    process.end()
    assert {(done.type, done.error) for _, done in bench.operations(PROBE)} == {(FAIL, "malformed")}


def test_a_freeze_of_the_machine_is_reported_and_missed_probes_are_made_up(bench: Bench) -> None:
    """The prober is stopped by signal for 200 ms: one `hiccup` line at least that long, and no probe left out."""
    server = bench.server(lambda _: Reply())
    process = bench.prober("--interval", "0.02", url=server.url)
    until(lambda: len(server.requests) >= 10)
    process.send(signal.SIGSTOP)
    frozen_ns = time.monotonic_ns()
    time.sleep(0.2)  # the length of the freeze is what is measured
    thawed_ns = time.monotonic_ns()
    process.send(signal.SIGCONT)
    while (hiccup := process.until("hiccup"))["t_ns"] < thawed_ns:
        continue
    assert hiccup["stalled_ns"] >= thawed_ns - frozen_ns
    finished = process.end().finished
    assert finished["unsent"] == 0
    assert finished["lateness_max_s"] >= 0.15
    pairs = bench.operations(PROBE)
    assert finished["intended"] == len(pairs)
    assert_each_client_does_one_thing_at_a_time(pairs)


def test_the_prober_ends_when_nobody_listens_any_more(bench: Bench) -> None:
    """The process that started it dies: without a reader of its lines it ends by itself, history flushed."""
    server = bench.server(lambda _: Reply())
    process = bench.prober("--interval", "0.02", url=server.url)
    process.until("ready")
    process.deafen()
    assert process.wait(within_s=5) == 0
    assert bench.operations(PROBE)
