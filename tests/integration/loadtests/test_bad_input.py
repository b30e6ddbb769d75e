"""What cannot be used is told in one clear line, without a traceback, and with the exit code of DESIGN."""

import re
import resource
import socket

import pytest

from metrics.history import OK
from tests.integration.loadtests.bench import Bench
from tests.integration.loadtests.test_open_loop import until

RAISING = """
class Visitor(HonestUser):
    @task
    def look(self):
        self.client.get("/x", f="look")
        if self.arrival_number % 2:
            raise KeyError("a bug")
"""
FINE = RAISING.replace("if self", "if 0 and self")


UNUSABLE = {
    "import nowhere_to_be_found": "does not import: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
    "def broken(:\n": "does not import: SyntaxError",
    "raise SystemExit(3)\n": "does not import: SystemExit: 3",
    "": "no users in it; derive a class from HonestUser",
    "class Idle(HonestUser):\n    pass\n": "Idle has no tasks; mark a method with @task",
    FINE + "    weight = 0\n": "There are no users with weight > 0.",
}


def test_a_locustfile_that_cannot_be_used(bench: Bench) -> None:
    """No import, no syntax, it exits, no users, no tasks, no weight: 64, the file's name and why."""
    processes = []
    for number, (text, reason) in enumerate(UNUSABLE.items()):
        path = bench.locustfile(text, f"users_{number}.py")
        processes.append((bench.load(path, "--arrivals", "10/s", url="http://127.0.0.1:1"), f"{path}: {reason}"))
    for process, reason in processes:
        ended = process.end(by=None)
        assert ended.code == 64
        assert reason in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--arrivals", "0/s"], "--arrivals: nothing would ever arrive"),
        (["--arrivals=-5/s"], "--arrivals: expected a positive rate such as 300/s or 90/m, got '-5/s'"),
        (["--arrivals", "200000/s"], "--arrivals: 200000/s is 200,000 arrivals a second; more than 100,000 cannot"),
        (["--arrivals", "300"], "--arrivals: expected a positive rate such as 300/s or 90/m, got '300'"),
        (["--arrivals", "{rate: 5/s, sruge: {}}"], "--arrivals: sruge: Extra inputs are not permitted"),
        (["--arrivals", "{rate: 5/s, steps: [{to: 9x, at: faults}]}"], "--arrivals: steps.0.at: there are no phases"),
        (["--arrivals", "{points: [[0, 5], [9, -1]]}"], "--arrivals: points: expected [seconds, arrivals a second]"),
        (["--arrivals", "10/s", "--users", "0"], "--users: expected a whole number from 1"),
        (["--arrivals", "10/s", "--name", "../x"], "--name: expected letters"),
        (["--arrivals", "10/s", "--writer", "70000"], "--writer: expected a whole number"),
        (["--arrivals", "10/s", "--spawn-rate", "0"], "--spawn-rate: expected a number above 0"),
        ([], "required: --arrivals"),
        (["--arrivals", "10/s", "--turbo"], "unrecognized arguments: --turbo"),
    ],
)
def test_an_option_that_cannot_be_used(bench: Bench, arguments: list[str], reason: str) -> None:
    """64 and the option's name, before Locust is loaded."""
    ended = bench.load("users.py", *arguments, url="http://127.0.0.1:1").end(by=None)
    assert ended.code == 64
    assert reason in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["loadtests.run", "loadtests.prober"])
def test_a_missing_environment(bench: Bench, module: str) -> None:
    """64 with everything that is missing, for both kinds of process."""
    arguments = ["--locustfile", "x.py", "--arrivals", "10/s"] if module == "loadtests.run" else ["--path", "/"]
    ended = bench.process(module, *arguments, url="", HOLDFAST_SEED="many").end(by=None)
    assert ended.code == 64
    assert "HOLDFAST_URL is not set" in ended.stderr
    assert "HOLDFAST_SEED: expected an integer, got 'many'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_second_writer_of_the_same_name_would_overwrite_the_first(bench: Bench) -> None:
    """64, and the first one's history stays as it is."""
    (bench.run_dir / "history").mkdir()
    (bench.run_dir / "history" / "prober.bin").write_bytes(b"precious")
    ended = bench.prober(url="http://127.0.0.1:1").end(by=None)
    assert ended.code == 64
    assert "prober.bin exists" in ended.stderr
    assert (bench.run_dir / "history" / "prober.bin").read_bytes() == b"precious"


def test_a_target_that_is_down_is_named_with_the_reason(bench: Bench) -> None:
    """Nobody listens on the port: exit 1 after the time to become ready, with address and cause."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        process = bench.load(bench.locustfile(FINE), "--arrivals", "10/s", "--ready-within", "0.5", url=url)
        ended = process.end(by=None)
    assert ended.code == 1
    assert f"{url} did not accept a connection within 0.5 s: Connection refused" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert [line["load"] for line in ended.said] == ["finished"]


def test_a_task_that_raises_is_reported_counted_and_fails_the_process_in_the_end(bench: Bench) -> None:
    """Half of the tasks raise: the load goes on on schedule, the traceback is shown once, the exit code is 1."""
    process = bench.load(bench.locustfile(RAISING), "--arrivals", "100/s", "--users", "5", url=bench.server().url)
    process.until("ready")
    status = process.until("status")
    ended = process.end()
    assert ended.code == 1
    assert abs(2 * status["user_errors"] - status["started"]) <= 10
    assert ended.finished["completed"] == ended.finished["intended"] == len(bench.operations("look"))
    assert {done.type for _, done in bench.operations("look")} == {OK}
    assert ended.stderr.count("a task raised: DefaultTaskSet: KeyError: 'a bug'") == 1
    assert "errors in the locustfile; the first: " in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["load", "prober"])
def test_a_history_that_cannot_be_written_ends_the_process(bench: Bench, kind: str) -> None:
    """The limit on file sizes is reached under way, as a full disk would be: exit 1 with the cause, by itself."""
    server = bench.server()
    if kind == "load":
        process = bench.load(bench.locustfile(FINE), "--arrivals", "500/s", "--users", "5", url=server.url)
    else:
        process = bench.prober("--interval", "0.002", url=server.url)
    process.until("ready")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000, 10_000))
    ended = process.end(by=None)
    assert ended.code == 1
    assert re.search("cannot record what it .*File too large", ended.stderr)


def test_tasks_that_fail_at_once_cannot_keep_the_load_from_ending(bench: Bench) -> None:
    """20,000 arrivals a second that raise without ever waiting for anything: status and SIGTERM still get through."""
    text = "class Visitor(HonestUser):\n    @task\n    def look(self):\n        raise KeyError('at once')\n"
    process = bench.load(bench.locustfile(text), "--arrivals", "20000/s", "--users", "5", url=bench.server().url)
    assert process.until("status")["user_errors"] > 0
    ended = process.end(within_s=5)
    assert ended.code == 1
    assert "KeyError: 'at once'" in ended.stderr.splitlines()[-1]


def test_a_bug_in_on_start_ends_the_load_before_it_begins(bench: Bench) -> None:
    """Exit 1 with what was raised; no arrival is due."""
    text = FINE + "\n    def on_start(self):\n        raise ValueError('no start')\n"
    ended = bench.load(bench.locustfile(text), "--arrivals", "10/s", "--users", "3", url=bench.server().url).end(
        by=None
    )
    assert ended.code == 1
    assert "0 of 3 users are ready; on_start raised: Visitor: ValueError: no start" in ended.stderr.splitlines()[-1]
    assert ended.finished["intended"] == 0


def test_what_a_locustfile_prints_does_not_disturb_the_protocol(bench: Bench) -> None:
    """`print` in a locustfile goes to standard error; standard output stays one JSON object a line."""
    server = bench.server()
    text = "print('loading')\n" + FINE.replace("self.client.get", "print('working'); self.client.get")
    process = bench.load(bench.locustfile(text), "--arrivals", "50/s", "--users", "2", url=server.url)
    until(lambda: len(server.requests) >= 10)
    ended = process.end()
    assert ended.code == 0
    assert "loading" in ended.stderr
    assert "working" in ended.stderr
