"""Every request goes out once, and what became of it is recorded as it is."""

import json
import subprocess
import sys
from typing import Any

import pytest

from metrics.history import FAIL, INFO, OK, TYPES
from tests.integration.loadtests.bench import REPOSITORY, Bench
from tests.integration.loadtests.server import PROBLEM, Reply, Request
from tests.integration.loadtests.test_open_loop import until

CASES = """
CASES = {cases}

class Visitor(HonestUser):
    total_timeout_s = 1.0

    @task
    def ask(self):
        case, method = CASES[self.arrival_number % len(CASES)]
        self.client.request(method, "/" + case, f=f"{{case}} {{method}}")
"""
RETRY_AFTER = {"Retry-After": "1"}
DECLINED = b'{"type": "https://savings.example/problems/insufficient-funds"}'
MISBEHAVIOUR: dict[str, tuple[Reply, int, int, str]] = {
    "rst": (Reply(drop="rst"), FAIL, INFO, "reset"),
    "eof": (Reply(drop="eof"), FAIL, INFO, "eof"),
    "midway": (Reply(drop="midway"), FAIL, INFO, "eof-midway"),
    "slow": (Reply(after_s=30), FAIL, INFO, "timeout"),
    "500": (Reply(status=500), FAIL, INFO, "http-500"),
    "502": (Reply(status=502), FAIL, INFO, "http-502"),
    "503-bare": (Reply(status=503), FAIL, INFO, "http-503"),
    "503-retry-after": (Reply(status=503, headers=RETRY_AFTER), FAIL, FAIL, "http-503"),
    "504": (Reply(status=504), FAIL, INFO, "http-504"),
    "400": (Reply(status=400, body=DECLINED, content_type=PROBLEM), FAIL, FAIL, "http-400"),
    "422": (Reply(status=422, body=DECLINED, content_type=PROBLEM), FAIL, FAIL, "declined:insufficient-funds"),
    "404-bare": (Reply(status=404), FAIL, INFO, "http-404"),
}
METHODS = ("GET", "POST")


def certificate(client: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and trials of the self-test."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "loadtests.certify", "--client", client],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return result.returncode, [json.loads(line) for line in result.stdout.splitlines()]


def test_the_client_reports_exactly_what_the_server_dropped() -> None:
    """20 requests to a server that drops every second: 10 dropped, 10 reported; kept and fresh, GET and POST."""
    code, trials = certificate("honest")
    assert code == 0
    assert [(trial["connections"], trial["method"]) for trial in trials] == [
        ("kept", "GET"),
        ("kept", "POST"),
        ("fresh", "GET"),
        ("fresh", "POST"),
    ]
    assert all((trial["seen"], trial["dropped"], trial["reported"]) == (20, 10, 10) for trial in trials)


def test_the_self_test_finds_a_client_that_hides_drops() -> None:
    """Locust's FastHttpUser resends reads: the server drops 19, it reports none. The self-test must say so."""
    code, trials = certificate("fasthttp")
    assert code == 1
    hiding = [trial for trial in trials if not trial["honest"]]
    assert {trial["method"] for trial in hiding} == {"GET"}
    assert all(trial["reported"] == 0 and trial["dropped"] >= 10 for trial in hiding)


def test_under_load_reported_failures_equal_drops(bench: Bench) -> None:
    """300/s to a server that resets every second request: each drop is one failure, in history and counts."""
    server = bench.server(lambda _: Reply(drop="rst") if len(server.requests) % 2 == 0 else Reply())
    cases = [("x", method) for method in METHODS]
    process = bench.load(
        bench.locustfile(CASES.format(cases=cases)), "--arrivals", "300/s", "--users", "10", url=server.url
    )
    until(lambda: len(server.requests) >= 300)
    finished = process.end().finished
    pairs = bench.operations("x GET") + bench.operations("x POST")
    dropped = len(server.requests) // 2
    assert len(pairs) == len(server.requests) == finished["completed"]
    assert sum(done.type != OK for _, done in pairs) == dropped == finished["fail"] + finished["info"]


def test_each_way_to_fail_is_told_as_the_table_says(bench: Bench) -> None:
    """Every misbehaviour of a real server, as a read and as an effect; the table is that of docs/formats.md."""

    def behave(request: Request) -> Reply:
        return MISBEHAVIOUR[request.path[1:]][0]

    server = bench.server(behave)
    cases = [(case, method) for case in MISBEHAVIOUR for method in METHODS]
    process = bench.load(
        bench.locustfile(CASES.format(cases=cases)), "--arrivals", "60/s", "--users", "30", url=server.url
    )
    until(lambda: len(server.requests) >= 2 * len(cases))
    assert process.end().code == 0
    for case, (_, read, effect, error) in MISBEHAVIOUR.items():
        for method, expected in zip(METHODS, (read, effect), strict=True):
            seen = {(TYPES[done.type], done.error) for _, done in bench.operations(f"{case} {method}")}
            assert seen == {(TYPES[expected], error)}, (case, method)


def test_a_client_goes_on_under_a_new_process_after_an_unknown_outcome(bench: Bench) -> None:
    """One user whose effects are all reset: each operation has its own process; reads keep theirs."""
    server = bench.server(lambda _: Reply(drop="eof"))
    cases = [("x", "POST"), ("x", "GET")]
    process = bench.load(
        bench.locustfile(CASES.format(cases=cases)), "--arrivals", "50/s", "--users", "1", url=server.url
    )
    until(lambda: len(server.requests) >= 20)
    process.end()
    posts = [asked.process for asked, _ in bench.operations("x POST")]
    gets = [asked.process for asked, _ in bench.operations("x GET")]
    assert len(set(posts)) == len(posts) > 5
    assert gets[:5] == posts[1:6], "the read that follows an unknown effect is the new client's first"


def test_a_service_that_is_gone_is_refused_and_nothing_was_sent(bench: Bench) -> None:
    """The server dies under load and comes back: connections are refused meanwhile, which for an effect is `fail`."""
    server = bench.server()
    process = bench.load(
        bench.locustfile(CASES.format(cases=[("x", "POST")])), "--arrivals", "100/s", "--users", "5", url=server.url
    )
    server.behaviour = lambda _: Reply()
    until(lambda: len(server.requests) >= 30)
    server.kill()
    assert process.until("status")["fail"] > 0
    seen = len(server.requests)
    server.start()
    until(lambda: len(server.requests) >= seen + 30)
    process.end()
    outcomes = [(done.type, done.error) for _, done in bench.operations("x POST")]
    assert outcomes.count((FAIL, "refused")) > 10
    assert set(outcomes) <= {(OK, None), (FAIL, "refused"), (INFO, "reset"), (INFO, "eof")}


def test_a_handshake_that_fails_has_sent_nothing(bench: Bench) -> None:
    """An https address of a plain server: `tls`, and a `fail` even for an effect."""
    server = bench.server(lambda _: Reply())
    text = CASES.format(cases=[("x", "POST")])
    process = bench.load(bench.locustfile(text), "--arrivals", "50/s", url=server.url.replace("http", "https"))
    until(lambda: server.connections >= 10)
    assert process.end().code == 0
    assert {(done.type, done.error) for _, done in bench.operations("x POST")} == {(FAIL, "tls")}
    assert not server.requests


def test_a_connection_closed_while_idle_is_replaced_before_anything_is_sent(bench: Bench) -> None:
    """A server that answers and then closes without a word: no request fails, and none is sent twice."""
    server = bench.server(lambda _: Reply(then_close=True))
    text = CASES.format(cases=[("x", "POST")])
    process = bench.load(bench.locustfile(text), "--arrivals", "50/s", "--users", "1", url=server.url)
    until(lambda: len(server.requests) >= 20)
    process.end()
    pairs = bench.operations("x POST")
    assert {done.type for _, done in pairs} == {OK}
    assert len(pairs) == len(server.requests)


@pytest.mark.parametrize(("keep_alive", "most"), [(True, 5), (False, None)])
def test_connections_are_kept_or_fresh_as_asked(bench: Bench, *, keep_alive: bool, most: int | None) -> None:
    """Five users make at most five connections when kept alive, and one a request when not."""
    server = bench.server(lambda _: Reply())
    text = CASES.format(cases=[("x", "GET")]).replace("total_timeout_s = 1.0", f"keep_alive = {keep_alive}")
    process = bench.load(bench.locustfile(text), "--arrivals", "200/s", "--users", "5", url=server.url)
    until(lambda: len(server.requests) >= 100)
    process.end()
    # One more is the generator's look whether somebody listens.
    assert server.connections == 1 + (len(server.requests) if most is None else most)
