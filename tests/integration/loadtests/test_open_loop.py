"""Requests start on schedule whatever earlier ones do: real Locust, real sockets, a server that misbehaves."""

import itertools
import json
import math
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from metrics.history import INFO, OK
from tests.integration.loadtests.bench import Bench
from tests.integration.loadtests.server import Behaviour, Reply, Request

VISITOR = """
class Visitor(HonestUser):
    total_timeout_s = {timeout_s}

    @task
    def look(self):
        self.client.get("/x", f="look")
"""
EVERYTHING_LOCUST_HAS = """
import json, sys
from locust import TaskSet, between, constant, events

@events.quitting.add_listener
def tell(environment, **_):
    total = environment.stats.total
    told = {"requests": total.num_requests, "failures": total.num_failures, "slowest_ms": total.max_response_time}
    print(json.dumps(told), file=sys.stderr)

class Visitor(HonestUser):
    wait_time = between(50, 60)

    @task
    class Nested(TaskSet):
        wait_time = constant(70)

        @task
        def inside(self):
            self.user.client.get("/inside", f="inside")
            self.interrupt()

    @task
    def outside(self):
        self.client.get("/outside", f="outside")
        self.client.get("/again", f="follow-up")
"""


def stalling(after_s: float, for_s: float) -> Behaviour:
    """Answers at once, but holds all that arrives in the stall until its end; times count from the first request."""
    first_ns: list[int] = []

    def behave(request: Request) -> Reply:
        first_ns.append(request.t_ns)
        age_s = (request.t_ns - first_ns[0]) / 1e9
        return Reply(after_s=max(0.0, after_s + for_s - age_s) if age_s >= after_s else 0.0)

    return behave


def until(holds: Callable[[], bool], within_s: float = 10) -> None:
    """Waits until a condition holds."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.01)


def test_a_stall_is_seen_in_full_and_no_arrival_is_lost(bench: Bench) -> None:
    """A server stalls for 2 s in a run at 200/s with 60 users, so that most of those stalled queue in the generator.

    Who is due k / 200 s into the stall waits 2 s - k / 200 s. The slowest 1 % of n arrivals are the first n / 100 of
    the stall, so p99 is 2 s - n / 100 / 200 s: 1.96 s for 4 s. A closed loop of 60 users would have 60 slow requests,
    and 340 arrivals fewer.
    """
    server = bench.server(stalling(after_s=0.5, for_s=2.0))
    process = bench.load(
        bench.locustfile(VISITOR.format(timeout_s=5)), "--arrivals", "200/s", "--users", "60", url=server.url
    )
    process.until("ready")
    until(lambda: len(server.requests) >= 800)
    ended = process.end()
    assert ended.code == 0, ended.stderr
    finished = ended.finished
    assert finished["unsent"] == 0
    assert finished["intended"] == finished["started"] == finished["ok"] == len(server.requests)

    pairs = bench.operations("look")
    assert len(pairs) == finished["intended"]
    latencies_s = sorted((done.t_ns - asked.intended_ns) / 1e9 for asked, done in pairs)
    p99_s = latencies_s[math.ceil(0.99 * len(pairs)) - 1]
    analytic_s = 2.0 - len(pairs) / 100 / 200
    assert abs(p99_s - analytic_s) <= 0.05 * analytic_s
    # The schedule itself: the n-th is meant to start n / 200 s after the first, whatever happened.
    start_ns = pairs[0][0].intended_ns
    assert [asked.intended_ns - start_ns for asked, _ in pairs] == [number * 5_000_000 for number in range(len(pairs))]
    # 60 users in flight and about 340 arrivals that found none free: they are told apart from the generator's lateness.
    assert finished["queued"] >= 300
    assert finished["lateness_p99_s"] < 0.5 < finished["queueing_p99_s"]


def test_nothing_starts_before_its_time_nor_twice(bench: Bench) -> None:
    """At 400/s no request reaches the server before its intended start, and each carries its own operation's number."""
    server = bench.server()
    process = bench.load(
        bench.locustfile(VISITOR.format(timeout_s=5)), "--arrivals", "400/s", "--users", "10", url=server.url
    )
    until(lambda: len(server.requests) >= 400)
    process.end()
    arrived_ns = {int(request.headers["x-request-id"]): request.t_ns for request in server.requests}
    assert len(arrived_ns) == len(server.requests)
    pairs = bench.operations("look")
    assert {asked.index for asked, _ in pairs} == arrived_ns.keys()
    assert all(asked.intended_ns <= asked.t_ns <= arrived_ns[asked.index] <= done.t_ns for asked, done in pairs)


def test_arrivals_missed_in_a_freeze_of_the_generator_are_made_up_with_their_intended_times(bench: Bench) -> None:
    """Stopped by signal for 300 ms at 100/s: about 30 arrivals start late, none is lost, and the lateness is told.

    Ten users hold the next ten of them; the others nobody had taken yet.
    """
    server = bench.server()
    process = bench.load(
        bench.locustfile(VISITOR.format(timeout_s=5)), "--arrivals", "100/s", "--users", "10", url=server.url
    )
    process.until("ready")
    until(lambda: len(server.requests) >= 50)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.3)  # the length of the freeze is what is measured
    os.kill(process.pid, signal.SIGCONT)
    seen = len(server.requests)
    until(lambda: len(server.requests) >= seen + 50)
    finished = process.end().finished
    pairs = bench.operations("look")
    start_ns = pairs[0][0].intended_ns
    assert [asked.intended_ns - start_ns for asked, _ in pairs] == [number * 10_000_000 for number in range(len(pairs))]
    assert sum(asked.t_ns - asked.intended_ns > 100_000_000 for asked, _ in pairs) >= 15
    assert finished["lateness_max_s"] >= 0.25
    assert finished["unsent"] == 0


def test_what_found_no_user_until_the_end_is_counted_as_unsent(bench: Bench) -> None:
    """Three users, a server that never answers, 50/s: three requests in flight, everything else unsent.

    The three are `info`-free reads that fail by timeout, within the grace after the end.
    """
    server = bench.server(lambda _: Reply(after_s=60))
    process = bench.load(
        bench.locustfile(VISITOR.format(timeout_s=1.2)), "--arrivals", "50/s", "--users", "3", url=server.url
    )
    process.until("ready")
    assert process.until("status")["unsent"] > 10
    ended = process.end()
    finished = ended.finished
    assert ended.code == 0
    assert finished["started"] == finished["completed"] == finished["fail"] == 3
    assert finished["unsent"] == finished["intended"] - 3 > 30
    assert {done.error for _, done in bench.operations("look")} == {"timeout"}


def test_what_is_still_in_flight_after_the_grace_is_unknown(bench: Bench) -> None:
    """An effect that is not answered within the grace after SIGTERM is recorded as `info`, and the process ends."""
    text = VISITOR.format(timeout_s=60).replace("self.client.get(", "self.client.post(")
    server = bench.server(lambda _: Reply(after_s=60))
    process = bench.load(bench.locustfile(text), "--arrivals", "50/s", "--users", "2", "--grace", "0.3", url=server.url)
    until(lambda: len(server.requests) == 2)
    ended = process.end(within_s=5)
    assert ended.code == 0
    assert ended.finished["info"] == 2
    assert [(done.type, done.error) for _, done in bench.operations("look")] == [(INFO, "unfinished")] * 2


def test_ordinary_locust_users_become_open_loop(bench: Bench) -> None:
    """Nested TaskSets, interrupts and wait times of a minute: each task still starts with its own arrival.

    A second request in a task is a step of the same visit: it counts from its own start and is no arrival.
    """
    server = bench.server()
    process = bench.load(bench.locustfile(EVERYTHING_LOCUST_HAS), "--arrivals", "100/s", "--users", "5", url=server.url)
    until(lambda: len(server.requests) >= 150)
    ended = process.end()
    assert ended.code == 0, ended.stderr
    arrivals = [asked for f in ("inside", "outside") for asked, _ in bench.operations(f)]
    intended_ns = sorted(asked.intended_ns for asked in arrivals)
    assert [t_ns - intended_ns[0] for t_ns in intended_ns] == [n * 10_000_000 for n in range(len(intended_ns))]
    follow_ups = bench.operations("follow-up")
    assert {asked.f for asked in arrivals} == {"inside", "outside"}
    assert len(follow_ups) == len(bench.operations("outside"))
    assert statistics.median(asked.t_ns - asked.intended_ns for asked, _ in follow_ups) < 1_000_000
    assert ended.finished["intended"] == ended.finished["started"] == len(arrivals) + len(follow_ups)
    # Locust's own statistics count the same requests.
    told = json.loads(ended.stderr)
    assert told["requests"] == len(server.requests)
    assert told["failures"] == 0
    assert 0 < told["slowest_ms"] < 5_000


def test_sigterm_flushes_everything(bench: Bench, accounts: Path) -> None:
    """After exit 0 the history holds an invoke and a completion of every request that the server has seen."""
    assert accounts.exists()
    server = bench.server()
    process = bench.load("loadtests/savers.py", "--arrivals", "300/s", "--users", "20", url=server.url)
    process.until("ready")
    until(lambda: len(server.requests) >= 300)
    ended = process.end()
    assert (ended.code, ended.stderr) == (0, "")
    rows = bench.rows()
    recorded = {row.index for row in rows}
    assert len(rows) == 2 * len(recorded)
    assert recorded == {int(request.headers["x-request-id"]) for request in server.requests}
    assert {row.type for row in rows} == {0, OK}


def test_a_surge_starts_on_schedule_and_every_refusal_of_it_counts(bench: Bench) -> None:
    """20/s, from 500 ms on within 250 ms to 400/s, at 1.5 s back; the server refuses two of three with Retry-After.

    Until 2 s arrive 10 + 52.5 + 300 + 10 = 372.5: each has its own intended time, whatever the rate was, and each
    refusal is a failure. That no arrival is lost shows in equal counts.
    """
    numbers = itertools.count()

    def every_third(_: Request) -> Reply:
        return Reply() if next(numbers) % 3 == 0 else Reply(status=503, headers={"Retry-After": "1"})

    server = bench.server(every_third)
    arrivals = "{rate: 20/s, surge: {to: 20x, at: 500ms, rise: 250ms, for: 1s}}"
    process = bench.load(
        bench.locustfile(VISITOR.format(timeout_s=5)), "--arrivals", arrivals, "--users", "30", url=server.url
    )
    process.until("ready")
    until(lambda: len(server.requests) > 374, within_s=30)
    ended = process.end()

    finished, pairs = ended.finished, bench.operations("look")
    assert ended.code == 0, ended.stderr
    assert finished["intended"] == finished["started"] == finished["completed"] == len(pairs) == len(server.requests)
    assert finished["unsent"] == 0
    refused = [done.error for _, done in pairs if done.type != OK]
    assert refused == ["http-503"] * finished["fail"]
    assert finished["ok"] + finished["fail"] == len(pairs)
    starts_s = [(asked.intended_ns - pairs[0][0].intended_ns) / 1e9 for asked, _ in pairs]
    counted = [
        sum(low <= start_s < high for start_s in starts_s)
        for low, high in ((0, 0.5), (0.5, 0.75), (0.75, 1.5), (1.5, 2))
    ]
    assert all(abs(number - expected) <= 1 for number, expected in zip(counted, (10, 52.5, 300, 10), strict=True))


def test_a_function_that_fails_under_way_ends_the_load_with_the_reason(bench: Bench) -> None:
    """From 1.5 s on it gives no number: exit 1 when that second is asked for; what came before is in the record."""
    (bench.run_dir / "shapes.py").write_text("def rate(t):\n    return 100 if t < 1.5 else None\n")
    server = bench.server()
    process = bench.load(
        bench.locustfile(VISITOR.format(timeout_s=5)),
        *("--arrivals", f"{{function: '{bench.run_dir}/shapes.py:rate'}}", "--users", "5"),
        url=server.url,
    )
    ended = process.end(by=None)
    assert ended.code == 1
    assert "shapes.py:rate gave None at 1.5 s; expected arrivals a second as a number" in ended.stderr
    assert ended.finished["completed"] == len(bench.operations("look")) >= 90
