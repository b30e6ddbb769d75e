"""The main job, from the command line, on the real platform: PostgreSQL, Envoy, Locust, four portal nodes."""

import json
import signal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.conftest import PROJECT, Start, command, left_of, left_within, savings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

KEPT: list[dict[str, Any]] = [
    {"failed": {"max": 0}},
    {"exactly_once": {"dump": "ledger", "operations": ["deposit"]}},
    {"exactly_once": {"dump": "intake", "operations": ["redeem"]}},
    {"queue": {"intact": True}},
    {"ledger": {"balanced": True}},
]
KILLS = [{"kill": {"role": "portal", "count": 1, "restart_after": "1s"}, "every": "4s"}]
"""So far apart that on a busy machine as well a node is back before the one after the next goes."""
RETRIES_OFF = ("--set", "balancer.env.RETRIES=off")


def test_killed_nodes_cost_no_request(start: Start, tmp_path: Path) -> None:
    """Two kills of a node that holds a quarter of 60 requests and 50 probes a second; the balancer tries again.

    The health checks take a dead node out after a quarter of a second at the earliest, and meanwhile about seven come
    to it: without retries they fail, as the test on lost requests shows.
    """
    run = start(
        savings(
            faults=KILLS,
            expect=[
                *KEPT,
                {"longest_gap": {"max": "3s"}},
                {"observed": {"reading": "balancer_retries", "increase": {"min": 1}}},
                {"sometimes": {"during": "kill", "operation": "redeem"}},
            ],
        )
    ).finish(within_s=150)

    assert run.returncode == 0, run.output
    assert len(run.verdict()["faults"]) == 2
    assert all(fault["effect"] and fault["healed"] for fault in run.verdict()["faults"])
    assert run.expectation("observed:balancer_retries")["value"] > 0
    assert left_of(run.runs_dir) == []
    _outputs_agree(run.run_dir, tmp_path)


def test_a_rolling_deploy_costs_no_request_without_the_balancers_retries(start: Start) -> None:
    """Only readiness and draining stand between a request and its loss; both versions answer."""
    run = start(
        savings(
            faults=[{"deploy": {"role": "portal", "set": {"env.VERSION": "v2"}, "strategy": "rolling"}}],
            expect=[*KEPT, {"versions": {"min": 2}}],
        ),
        *RETRIES_OFF,
    ).finish(within_s=150)

    assert run.returncode == 0, run.output
    assert left_of(run.runs_dir) == []


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


def test_lost_requests_fail_the_run_with_their_witnesses(start: Start) -> None:
    """Without the balancer's retries a kill loses what comes to the dead node; nothing else is wrong then."""
    run = start(savings(faults=KILLS, expect=KEPT), *RETRIES_OFF).finish(within_s=150)

    assert run.returncode == 1, run.output
    assert run.expectation("failed")["verdict"] == "fail"
    story = json.dumps(run.expectation("failed")["witness"])
    assert "upstream_host" in story, story
    assert run.expectation("ledger")["verdict"] == "pass"
    assert left_of(run.runs_dir) == []


def test_double_effects_fail_the_run_with_their_witnesses(start: Start) -> None:
    """Without the unique key, orders that are retried because their node hangs take effect twice.

    A node that hangs for a second gets some of 100 requests a second before it is out, and does them when it goes on.
    """
    run = start(
        savings(
            faults=[{"pause": {"role": "portal", "count": 1, "for": "1s"}, "every": "2s"}],
            expect=KEPT[1:],
            arrivals="100/s",
            set={"migrate.command": ["${python}", str(PROJECT / "tests" / "sabotage" / "forgotten_keys.py")]},
        )
    ).finish(within_s=150)

    assert run.returncode == 1, run.output
    assert run.expectation("exactly_once:ledger")["verdict"] == "fail"
    (witness, *_) = run.expectation("exactly_once:ledger")["witness"]
    assert len(witness["effects"]) > 1, witness
    assert left_of(run.runs_dir) == []


def test_however_a_run_is_ended_nothing_is_left(start: Start, tmp_path: Path) -> None:
    """SIGINT in the baseline, SIGTERM and SIGKILL of the runner while a node hangs; three runs side by side.

    The first two heal, tear down and say so. After SIGKILL the watchdog thaws, ends and clears everything. What three
    platforms at once cost in time is not the question, so nothing is expected that a busy machine could break.
    """
    experiment = savings(
        faults=[{"pause": {"role": "portal", "count": 1, "for": "59s"}}],
        expect=[{"ledger": {"balanced": True}}],
        seconds=60,
        arrivals="20/s",
        set={"portal.count": 2, "signer.count": 1},
    )
    early, late, dead = (start(experiment, name=name) for name in ("early", "late", "dead"))

    early.wait_for("phase.started", within_s=150, phase="baseline")
    early.process.send_signal(signal.SIGINT)
    late.wait_for("fault.effect", within_s=150, proven=True)
    late.process.send_signal(signal.SIGTERM)
    dead.wait_for("fault.effect", within_s=150, proven=True)
    dead.process.kill()
    dead.process.wait(timeout=5)

    assert left_within(dead.runs_dir, 30) == []
    for running, exit_code in ((early, 130), (late, 143)):
        run = running.finish(within_s=90)
        assert run.returncode == exit_code, run.output
        assert run.verdict()["exit_code"] == exit_code
        assert left_of(run.runs_dir) == []
    status = command("status", "--out", str(dead.runs_dir), cwd=tmp_path)
    assert status.returncode == 0, status.stdout + status.stderr
