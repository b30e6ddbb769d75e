"""The savers of the reference platform: log-in first, then what seed and arrival number say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtests.intents import intend
from metrics.history import FAIL, INVOKE, OK
from tests.integration.loadtests.bench import Bench
from tests.integration.loadtests.server import PROBLEM, Reply, Request, good
from tests.integration.loadtests.test_open_loop import VISITOR, until


def first_hundred(bench: Bench) -> list[tuple[Any, ...]]:
    """Kind, amount and key of the first 100 arrivals, in order."""
    rows = [row for row in bench.rows() if row.type == INVOKE and row.f != "login"]
    rows.sort(key=lambda row: row.intended_ns)
    return [(row.f, json.loads(row.value or "{}").get("amount", 0), row.key) for row in rows[:100]]


def test_the_same_seed_gives_the_same_intended_operations(bench: Bench, accounts: Path) -> None:
    """Two loads with 3 and with 40 users: the n-th arrival does the same in both, and what `intend` says."""
    benches = {users: replace(bench, run_dir=bench.run_dir / str(users)) for users in (3, 40)}
    processes = []
    for users, run in benches.items():
        run.run_dir.mkdir()
        (run.run_dir / accounts.name).write_bytes(accounts.read_bytes())
        server = run.server()
        process = run.load("loadtests/savers.py", "--arrivals", "200/s", "--users", str(users), url=server.url, seed=7)
        processes.append((process, server, users + 100))
    for process, server, requests in processes:
        until(lambda server=server, requests=requests: len(server.requests) >= requests)  # type: ignore[misc]
        process.end()
    few, many = (first_hundred(run) for run in benches.values())
    assert few == many
    assert few == [(i.f, i.amount, i.key) for i in (intend(7, 1, number) for number in range(100))]


def test_savers_say_who_they_are_and_record_what_was_answered(bench: Bench, accounts: Path) -> None:
    """Log-ins come first and are no operations of the load; effects carry token, key and amount.

    Of the answer, node, attempts, balance and replay reach the history.
    """
    assert accounts.exists()

    def replaying(request: Request) -> Reply:
        reply = good(request)
        if request.path == "/v1/deposits":
            reply.headers |= {"Idempotency-Replayed": "true", "x-envoy-attempt-count": "2"}
        return reply

    server = bench.server(replaying)
    process = bench.load("loadtests/savers.py", "--arrivals", "100/s", "--users", "7", url=server.url)
    process.until("ready")
    until(lambda: len(server.requests) >= 57)
    finished = process.end().finished
    paths = [request.path for request in server.requests]
    assert paths.count("/v1/sessions") == paths.index("/v1/sessions") + 7 == 7
    assert "/v1/sessions" not in paths[7:]
    assert {json.loads(request.body)["email"] for request in server.requests[:7]} == {
        f"saver-{n}@example.org" for n in range(5)
    }
    by_index = {int(request.headers["x-request-id"]): request for request in server.requests}
    deposits = bench.operations("deposit")
    for asked, done in deposits:
        request = by_index[asked.index]
        amount = json.loads(request.body)["amount"]
        assert request.headers["authorization"] == "Bearer t"
        assert request.headers["idempotency-key"] == asked.key == done.key
        assert json.loads(asked.value or "")["amount"] == amount
        assert json.loads(done.value or "") == {"amount": amount, "balance": 1000 + amount, "replayed": True}
        assert (done.type, done.node, done.attempt) == (OK, "portal-1@v1", 2)
    _, look = bench.operations("balance")[0]
    assert json.loads(look.value or "") == {"balance": 7, "head": 3}
    assert len(bench.operations("login")) == 7
    counted = sum(len(bench.operations(f)) for f in ("deposit", "redeem", "balance"))
    assert finished["completed"] == counted


def test_a_session_lost_under_load_is_a_failure_with_its_class(bench: Bench, accounts: Path) -> None:
    """401 to everything after log-in: `http-401`, which is no business refusal."""
    assert accounts.exists()

    def forgetful(request: Request) -> Reply:
        unauthorized = Reply(status=401, body=b'{"type": "/problems/unauthorized"}', content_type=PROBLEM)
        return good(request) if request.path == "/v1/sessions" else unauthorized

    server = bench.server(forgetful)
    process = bench.load("loadtests/savers.py", "--arrivals", "100/s", "--users", "4", url=server.url)
    until(lambda: len(server.requests) >= 54)
    finished = process.end().finished
    assert finished["fail"] == finished["completed"] >= 50
    assert finished["declined"] == 0
    assert {(done.type, done.error) for _, done in bench.operations("deposit")} == {(FAIL, "http-401")}


def test_log_in_waits_for_a_service_that_is_coming_up(bench: Bench, accounts: Path) -> None:
    """503 to the first ten log-ins: users try again, each try is recorded, and the load begins."""
    assert accounts.exists()

    def waking(request: Request) -> Reply:
        return Reply(status=503, headers={"Retry-After": "1"}) if len(server.requests) <= 10 else good(request)

    server = bench.server(waking)
    process = bench.load("loadtests/savers.py", "--arrivals", "50/s", "--users", "4", url=server.url)
    process.until("ready")
    process.end()
    log_ins = [done.type for _, done in bench.operations("login")]
    assert (log_ins.count(FAIL), log_ins.count(OK)) == (10, 4)


UNUSABLE_ACCOUNTS = {
    None: "No such file",
    "email,password,account,opening_balance\n": "no account in it",
    "email,secret\na,b\n": "columns missing: account, password",
}


def test_without_usable_accounts_the_load_does_not_begin(bench: Bench) -> None:
    """No file, no rows, other columns: exit 1 with the reason."""
    server = bench.server()
    processes = []
    for number, (text, reason) in enumerate(UNUSABLE_ACCOUNTS.items()):
        run = replace(bench, run_dir=bench.run_dir / str(number))
        run.run_dir.mkdir()
        if text is not None:
            (run.run_dir / "accounts.csv").write_text(text)
        processes.append(
            (run, reason, run.load("loadtests/savers.py", "--arrivals", "50/s", "--users", "4", url=server.url))
        )
    for run, reason, process in processes:
        ended = process.end(by=None)
        assert ended.code == 1
        assert f"0 of 4 users are ready; {run.run_dir / 'accounts.csv'}" in ended.stderr
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_service_that_takes_no_log_in_in_time_is_named_with_the_reason(bench: Bench, accounts: Path) -> None:
    """503 to every log-in: exit 1 after the time to become ready, with the last answer."""
    assert accounts.exists()
    server = bench.server(lambda _: Reply(status=503))
    arguments = ("--arrivals", "50/s", "--users", "4", "--ready-within", "1")
    ended = bench.load("loadtests/savers.py", *arguments, url=server.url).end(by=None)
    assert ended.code == 1
    assert "0 of 4 users are ready" in ended.stderr
    assert "http-503" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_told_to_end_while_the_locustfile_is_read_it_ends_in_order(bench: Bench) -> None:
    """SIGTERM comes when the file has begun to run: exit 0, nothing was sent."""
    reading = bench.run_dir / "reading"
    text = f"open({str(reading)!r}, 'w').close()\nfor _ in range(20_000_000):\n    pass\n\n" + VISITOR.format(
        timeout_s=1
    )
    server = bench.server()
    process = bench.load(bench.locustfile(text), "--arrivals", "50/s", "--users", "4", url=server.url)
    until(reading.exists)
    ended = process.end()
    assert (ended.code, ended.stderr) == (0, "")
    assert [line["load"] for line in ended.said] == ["finished"]
    assert not server.requests


def test_told_to_end_while_users_log_in_it_ends_in_order(bench: Bench, accounts: Path) -> None:
    """A service that refuses every log-in for now, and SIGTERM: exit 0, no `ready`, the tries are in the history."""
    assert accounts.exists()
    server = bench.server(lambda _: Reply(status=503))
    process = bench.load("loadtests/savers.py", "--arrivals", "50/s", "--users", "4", url=server.url)
    until(lambda: len(server.requests) >= 4)
    ended = process.end(within_s=3)
    assert ended.code == 0
    assert [line["load"] for line in ended.said if line["load"] != "status"] == ["finished"]
    assert len(bench.operations("login")) == len(server.requests)


def test_wrong_passwords_end_the_load_at_once(bench: Bench, accounts: Path) -> None:
    """A refused log-in will not get better by waiting 30 s."""
    assert accounts.exists()
    server = bench.server(lambda _: Reply(status=401, body=b'{"type": "x"}', content_type=PROBLEM))
    ended = bench.load("loadtests/savers.py", "--arrivals", "50/s", "--users", "4", url=server.url).end(by=None)
    assert ended.code == 1
    assert "cannot log in: http-401" in ended.stderr
    assert "Traceback" not in ended.stderr
