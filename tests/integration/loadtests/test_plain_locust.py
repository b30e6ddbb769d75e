"""Arrivals on schedule under Locust's own command line: ordinary users, web pages' statistics, CSV, LoadTestShape."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from metrics.history import INVOKE, OK, read_recording
from tests.integration.loadtests.bench import REPOSITORY, Bench
from tests.integration.loadtests.server import Reply, Request
from tests.integration.loadtests.test_open_loop import until

ORDINARY = """
from locust import HttpUser, constant, task
from loadtests import plain_locust

class Visitor(HttpUser):
    wait_time = constant(60)

    @task
    def look(self):
        self.client.get("/x", name="look")
"""
SHAPED = """
from locust import LoadTestShape

class Two(LoadTestShape):
    def tick(self):
        return (2 + int(self.get_run_time() > 1), 10) if self.get_run_time() < 2.5 else None
"""
TOLD = re.compile(
    r"arrivals: (?P<intended>\d+) intended, (?P<started>\d+) started, (?P<unsent>\d+) unsent;"
    r".* max (?P<max>\d+) ms"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a run of `locust` ended, and what it said of its arrivals."""

    code: int
    output: str

    @property
    def told(self) -> dict[str, int]:
        match = TOLD.search(self.output)
        assert match, self.output
        return {name: int(number) for name, number in match.groupdict().items()}


def locust(
    bench: Bench, text: str, *arguments: str, url: str, ends: Callable[[], bool] | None = None, within_s: float = 60
) -> Run:
    """`locust -f FILE --headless ...`, as anybody would start it; ended by signal once `ends` holds, or by itself."""
    path = bench.run_dir / "locustfile.py"
    path.write_text(text)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "locust", "-f", str(path), "--headless", "--host", url, "--only-summary"),
            *("--spawn-rate", "100", "--stop-timeout", "10", *arguments),
        ],
        cwd=bench.run_dir,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        if ends is not None:
            until(ends, within_s)
            process.terminate()
        output = process.communicate(timeout=within_s)[0]
    finally:
        process.kill()
        process.wait()
    return Run(code=process.returncode, output=output)


def test_an_ordinary_locustfile_gets_arrivals_from_the_command_line(bench: Bench) -> None:
    """HttpUsers that would wait for a minute serve 50 arrivals a second; Locust's CSV counts them."""
    server = bench.server()
    run = locust(
        bench, ORDINARY, "--users", "8", "--arrivals", "50/s", "--csv", "stats",
        url=server.url, ends=lambda: len(server.requests) >= 60,
    )  # fmt: skip
    assert run.code == 0, run.output
    assert run.told["intended"] == run.told["started"] == len(server.requests)
    assert run.told["unsent"] == 0
    with (bench.run_dir / "stats_stats.csv").open() as file:
        rows = list(csv.DictReader(file))
    (counted,) = (int(row["Request Count"]) for row in rows if row["Name"] == "look")
    assert 0 < counted <= len(server.requests)  # Locust writes it once a second


def test_a_few_lines_in_the_file_do_as_well_and_what_waits_for_a_user_is_told(bench: Bench) -> None:
    """Two users of a server that takes 200 ms serve ten a second of 40: responses count from the intended start.

    The twentieth begins at least 1.8 s after the first and was meant to at 475 ms: it ends 1.5 s and more after that,
    though no request takes that long. What has found no user is unsent.
    """

    def slow(_: Request) -> Reply:
        return Reply(after_s=0.2)

    server = bench.server(slow)
    text = ORDINARY + "\nplain_locust.arrive('40/s')\n"
    run = locust(bench, text, "--users", "2", url=server.url, ends=lambda: len(server.requests) >= 20)
    told = run.told
    assert told["unsent"] > 0
    assert told["intended"] == told["started"] + told["unsent"]
    assert told["max"] >= 1_500
    assert "give more --users" in run.output


def test_a_load_test_shape_goes_on_to_say_how_many_users_there_are(bench: Bench) -> None:
    """Two users, then three; arrivals begin once and end with the shape."""
    server = bench.server()
    run = locust(bench, ORDINARY + SHAPED, "--arrivals", "{rate: 20/s, spacing: poisson}", url=server.url)
    assert run.code == 0, run.output
    assert "Ramping to 3 users" in run.output
    assert run.told["started"] == len(server.requests) > 0


def test_honest_users_are_recorded_there_too(bench: Bench) -> None:
    """Each operation stands in the history folder, with its intended start."""
    server = bench.server()
    text = ORDINARY.replace("HttpUser, constant, task", "constant, task").replace("HttpUser", "HonestUser")
    text = "from loadtests.client import HonestUser\n" + text.replace('name="look"', 'f="look"')
    run = locust(
        bench, text, "--users", "4", "--arrivals", "50/s", "--history", "record",
        url=server.url, ends=lambda: len(server.requests) >= 30,
    )  # fmt: skip
    assert run.code == 0, run.output
    rows, torn = read_recording(bench.run_dir / "record")
    assert not torn
    asked = sorted(row.intended_ns for row in rows if row.type == INVOKE)
    assert len(asked) == sum(row.type == OK for row in rows) == len(server.requests) == run.told["started"]
    assert {round((after - before) / 1e6) for before, after in pairwise(asked)} == {20}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--arrivals", "fast"], "argument --arrivals: expected a positive rate such as 300/s or 90/m, got 'fast'"),
        (["--arrivals", "9/s", "--master", "--expect-workers", "1"], "leave --master, --worker and --processes out"),
    ],
)
def test_arrivals_that_cannot_be_are_refused_in_a_sentence(bench: Bench, arguments: list[str], told: str) -> None:
    """A rate that is none, and workers that would each start all of them."""
    run = locust(bench, ORDINARY, "--users", "2", "--run-time", "1", *arguments, url="http://127.0.0.1:1")
    assert run.code != 0
    assert told in run.output
    assert "Traceback" not in run.output
