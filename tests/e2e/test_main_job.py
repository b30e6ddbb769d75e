"""The main job, from the command line, on the real platform: PostgreSQL, Envoy, Locust, four portal nodes."""

import json
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.conftest import PROJECT, SIGNALS, Start, command, left_of, savings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEPT: list[dict[str, Any]] = [
    {"failed": {"max": 0}},
    {"exactly_once": {"dump": "ledger", "operations": ["deposit", "redeem"]}},
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
            seconds=14,
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


def test_lost_requests_fail_the_run_and_are_told_with_their_life(start: Start) -> None:
    """With the balancer's retries off a kill loses what was in flight: exit 1, and a witness has Envoy's line."""
    run = start(savings(faults=KILLS, expect=KEPT, arrivals="300/s"), *RETRIES_OFF).finish(within_s=120)

    assert run.returncode == 1, run.output
    failed = run.expectation("failed")
    assert failed["verdict"] == "fail"
    story = json.dumps(failed["witness"])
    assert "upstream_host" in story, story
    assert run.expectation("ledger")["verdict"] == "pass"


def test_a_forgotten_key_constraint_turns_the_exactly_once_checker_red(start: Start) -> None:
    """A planted bug drops the unique key; nodes hang with requests in flight, and their retries pay twice."""
    run = start(
        savings(
            faults=[{"pause": {"role": "portal", "count": 1, "for": "1s"}, "every": "2s"}],
            expect=KEPT,
            arrivals="300/s",
            set={"migrate.command": ["${python}", str(PROJECT / "tests" / "sabotage" / "forgotten_keys.py")]},
        ),
    ).finish(within_s=120)

    assert run.returncode == 1, run.output
    assert run.expectation("exactly_once:ledger")["verdict"] == "fail"


@pytest.mark.parametrize(("exit_code", "phase"), [(130, "baseline"), (143, "faults")])
def test_an_interrupted_run_heals_tears_down_and_says_so(start: Start, exit_code: int, phase: str) -> None:
    """SIGINT in the baseline, SIGTERM with a node hanging: nothing is left and the exit code tells which."""
    faults = [{"pause": {"role": "portal", "count": 1, "for": "6s"}}]
    running = start(savings(faults=faults, expect=KEPT))
    if phase == "faults":
        running.wait_for("fault.effect", within_s=60, proven=True)
    else:
        running.wait_for("phase.started", within_s=60, phase=phase)

    running.process.send_signal(SIGNALS[exit_code])
    run = running.finish(within_s=30)

    assert run.returncode == exit_code, run.output
    assert run.verdict()["exit_code"] == exit_code
    assert left_of(run.runs_dir) == []


def test_a_killed_runner_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    """SIGKILL of the runner while a node is stopped: the watchdog thaws, ends and clears everything in 5 s."""
    running = start(savings(faults=[{"pause": {"role": "portal", "count": 1, "for": "6s"}}], expect=KEPT))
    running.wait_for("fault.effect", within_s=60, proven=True)

    running.process.kill()
    running.process.wait(timeout=5)

    assert _gone_within(running.runs_dir, seconds=5), left_of(running.runs_dir)
    status = command("status", "--out", str(running.runs_dir), cwd=tmp_path)
    assert status.returncode == 0, status.stdout + status.stderr


def _gone_within(runs_dir: Path, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while left_of(runs_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
