"""The main job, from the command line, on the real platform: PostgreSQL, Envoy, Locust, four portal nodes."""

import json
import signal
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.conftest import PROJECT, Start, command, left_of, savings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEPT: list[dict[str, Any]] = [
    {"failed": {"max": 0}},
    {"exactly_once": {"dump": "ledger", "operations": ["deposit"]}},
    {"exactly_once": {"dump": "intake", "operations": ["redeem"]}},
    {"queue": {"intact": True}},
    {"ledger": {"balanced": True}},
]
KILLS = [{"kill": {"role": "portal", "count": 1, "restart_after": "1s"}, "every": "2s"}]
RETRIES_OFF = ("--set", "balancer.env.RETRIES=off")


def test_killed_nodes_and_a_rolling_deploy_cost_no_request_in_two_runs_side_by_side(
    start: Start, tmp_path: Path
) -> None:
    """One run kills nodes with the balancer's retries on, the other deploys with them off; both pass at once.

    Four kills of a node that holds a quarter of 150 requests a second: without retries at least the requests that
    find the dead node's socket closed would fail, as the test on lost requests shows.
    """
    kill = start(
        savings(
            faults=KILLS,
            expect=[
                *KEPT,
                {"longest_gap": {"max": "1s"}},
                {"observed": {"reading": "balancer_retries", "increase": {"min": 1}}},
                {"sometimes": {"during": "kill", "operation": "redeem"}},
            ],
        ),
        name="kill",
    )
    deploy = start(
        savings(
            faults=[{"deploy": {"role": "portal", "set": {"env.VERSION": "v2"}, "strategy": "rolling"}}],
            expect=[*KEPT, {"versions": {"min": 2}}],
            seconds=10,
        ),
        *RETRIES_OFF,
        name="deploy",
    )

    killed, deployed = kill.finish(within_s=120), deploy.finish(within_s=120)

    assert killed.returncode == 0, killed.output
    assert deployed.returncode == 0, deployed.output
    assert len(killed.verdict()["faults"]) == 4
    assert all(fault["effect"] and fault["healed"] for fault in killed.verdict()["faults"])
    assert killed.expectation("observed:balancer_retries")["value"] > 0
    assert left_of(killed.runs_dir) == left_of(deployed.runs_dir) == []
    _outputs_agree(killed.run_dir, tmp_path)


def _outputs_agree(run_dir: Path, cwd: Path) -> None:
    verdict = json.loads((run_dir / "verdict.json").read_text())
    schema = json.loads(command("schema", "verdict", cwd=cwd).stdout)
    jsonschema.validate(verdict, schema)
    assert "<testsuite" in (run_dir / "junit.xml").read_text()
    assert "a short run for the tests" in (run_dir / "summary.md").read_text()
    report = (run_dir / "report.html").read_text()
    assert "a short run for the tests" in report
    assert _fetched_by(report) == []
    assert not list((run_dir / "data").glob("*")), "data folders are removed, logs are kept"

    before = (run_dir / "verdict.json").read_bytes()
    again = command("check", str(run_dir), cwd=cwd)

    assert again.returncode == 0, again.stdout + again.stderr
    assert before == (run_dir / "verdict.json").read_bytes()


def _fetched_by(page: str) -> list[str]:
    """Every address that a browser would load to show the page; links that a reader may follow are none."""
    addresses: list[str] = []

    class Loading(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            wanted = {"href"} if tag == "link" else set() if tag == "a" else {"src", "href", "data", "poster"}
            addresses.extend(value for name, value in attrs if name in wanted and value and "data:" not in value[:5])

    Loading().feed(page)
    return addresses


def test_lost_requests_and_double_effects_fail_the_run_with_their_witnesses(start: Start) -> None:
    """One run without the balancer's retries, one without the unique key of orders; side by side, both must fail.

    Without retries a kill loses what is in flight. Without the key, orders that are retried because their node hangs
    (a portal has answered none of them, but the database has done them) take effect twice.
    """
    lossy = start(savings(faults=KILLS, expect=KEPT, seconds=7, arrivals="300/s"), *RETRIES_OFF, name="lossy")
    doubling = start(
        savings(
            faults=[{"pause": {"role": "portal", "count": 1, "for": "1s"}, "every": "2s"}],
            expect=KEPT,
            seconds=7,
            arrivals="300/s",
            set={"migrate.command": ["${python}", str(PROJECT / "tests" / "sabotage" / "forgotten_keys.py")]},
        ),
        name="doubling",
    )

    lost, doubled = lossy.finish(within_s=120), doubling.finish(within_s=120)

    assert lost.returncode == 1, lost.output
    assert lost.expectation("failed")["verdict"] == "fail"
    story = json.dumps(lost.expectation("failed")["witness"])
    assert "upstream_host" in story, story
    assert lost.expectation("ledger")["verdict"] == "pass"
    assert doubled.returncode == 1, doubled.output
    assert doubled.expectation("exactly_once:ledger")["verdict"] == "fail"
    assert left_of(lost.runs_dir) == left_of(doubled.runs_dir) == []


def test_however_a_run_is_ended_nothing_is_left(start: Start, tmp_path: Path) -> None:
    """SIGINT in the baseline, SIGTERM and SIGKILL of the runner while a node hangs; three runs side by side.

    The first two heal, tear down and say so. After SIGKILL the watchdog thaws, ends and clears everything in 5 s. What
    three platforms at once cost in time is not the question, so nothing is expected that a busy machine could break.
    """
    experiment = savings(
        faults=[{"pause": {"role": "portal", "count": 1, "for": "9s"}}],
        expect=[{"ledger": {"balanced": True}}],
        seconds=10,
        arrivals="50/s",
    )
    early, late, dead = (start(experiment, name=name) for name in ("early", "late", "dead"))

    early.wait_for("phase.started", within_s=60, phase="baseline")
    early.process.send_signal(signal.SIGINT)
    late.wait_for("fault.effect", within_s=60, proven=True)
    late.process.send_signal(signal.SIGTERM)
    dead.wait_for("fault.effect", within_s=60, proven=True)
    dead.process.kill()
    dead.process.wait(timeout=5)

    assert _gone_within(dead.runs_dir, seconds=5), left_of(dead.runs_dir)
    for running, exit_code in ((early, 130), (late, 143)):
        run = running.finish(within_s=30)
        assert run.returncode == exit_code, run.output
        assert run.verdict()["exit_code"] == exit_code
        assert left_of(run.runs_dir) == []
    status = command("status", "--out", str(dead.runs_dir), cwd=tmp_path)
    assert status.returncode == 0, status.stdout + status.stderr


def _gone_within(runs_dir: Path, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while left_of(runs_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
