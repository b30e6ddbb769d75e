"""A platform that cannot start says why, names the log, and leaves nothing: no traceback, nothing running."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, command, left_of, savings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

SMALL_FILES = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); "
LAUNCH = "os.execv(sys.executable, [sys.executable, '-m', 'system_under_test', 'postgres'])"


@pytest.mark.parametrize(
    ("override", "value", "said"),
    [
        # No file may grow beyond 64 KiB: the real initdb dies half-way.
        ("postgres.command", ["${python}", "-c", SMALL_FILES + LAUNCH], ["postgres-1", "logs/postgres-1.log"]),
        ("balancer.command", ["/no/such/envoy"], ["balancer-1", "/no/such/envoy", "No such file"]),
        ("portal.env.DATABASE_URL", "no-url", ["portal-", "DATABASE_URL", "logs/portal-"]),
        ("migrate.command", ["${python}", "-c", "raise SystemExit(3)"], ["migrate-1", "exit status 3"]),
    ],
    ids=["the database dies", "a binary is missing", "a setting is wrong", "a task fails"],
)
def test_a_platform_that_cannot_start_says_why(start: Start, override: str, value: object, said: list[str]) -> None:
    """Something is wrong with one role each; the run is inconclusive, not passed."""
    experiment = savings(faults=[], expect=[{"failed": {"max": 0}}], set={override: value})

    run = start(experiment).finish(within_s=40)

    assert run.returncode == 2, run.output
    assert [part for part in said if part not in run.output] == [], run.output
    assert "Traceback" not in run.output
    assert left_of(run.runs_dir) == []
    assert json.loads((run.run_dir / "verdict.json").read_text())["exit_code"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: [", "experiment.yaml:1"),
        ("- a list\n", "experiment.yaml"),
        ("title: x\ntarget: nowhere.yaml\nexpect: [{failed: {max: 0}}]\n", "nowhere.yaml"),
        ("title: x\ntarget: T\nexpects: []\n", "expect"),
        ("title: x\ntarget: T\nload: {locustfile: L, arrivals: -3/s}\nexpect: [{failed: {max: 0}}]\n", ":3"),
        ("title: x\ntarget: T\nfaults: [{kil: {role: portal}}]\nexpect: [{failed: {max: 0}}]\n", "kill"),
        ("title: x\ntarget: T\nfaults: [{kill: {role: portl}}]\nexpect: [{failed: {max: 0}}]\n", "portal"),
        ("title: x\ntarget: T\nload: {locustfile: gone.py, arrivals: 3/s}\nexpect: [{failed: {max: 0}}]\n", "gone.py"),
        ("title: x\ntarget: T\nseed: many\nexpect: [{failed: {max: 0}}]\n", ":3"),
    ],
    ids=[
        *("no YAML", "a list", "no target", "unknown key", "negative rate", "unknown fault", "no such role"),
        *("no locustfile", "wrong type"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_line_and_advice(tmp_path: Path, text: str, said: str) -> None:
    """Exit 64 before anything is started: no run folder, no traceback."""
    topology = Path(__file__).resolve().parents[2] / "system_under_test" / "topology.yaml"
    locustfile = topology.parents[1] / "loadtests" / "savers.py"
    path = tmp_path / "experiment.yaml"
    path.write_text(
        text.replace("target: T", f"target: {topology}").replace("locustfile: L", f"locustfile: {locustfile}")
    )

    done = command("run", str(path), "--out", str(tmp_path / "runs"), cwd=tmp_path)

    assert done.returncode == 64, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
