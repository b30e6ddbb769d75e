"""A bug of the platform that takes two faults at once: found by a swarm, repeated by a replay, shrunk to the two.

A portal that confirms deposits before they are written (tests/sabotage/written_behind.py): a database that hangs costs
nothing, a killed portal costs nothing; a portal killed while the database hangs loses what it had confirmed.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import PROJECT, command, left_of

pytestmark = [pytest.mark.prove, pytest.mark.timeout(3600)]

SWARM = PROJECT / "tests" / "e2e" / "small" / "swarm.yaml"
BUG = f'portal.command=["${{python}}", "{PROJECT / "tests" / "sabotage" / "written_behind.py"}"]'
SEEDS = 100
_LIMIT_S = 3000.0


def test_a_bug_that_takes_two_faults_is_found_repeated_and_shrunk_to_them(tmp_path: Path) -> None:
    """At most 100 seeds until one fails in which both were in force together; then its replay, then its two faults."""
    failing = _first_failing(tmp_path)
    assert {"pause postgres", "kill portal"} <= set(failing["drawn"])
    folder = tmp_path / "runs" / failing["run"]

    again = command("replay", folder, "--json", cwd=tmp_path, within_s=_LIMIT_S)
    assert again.returncode == 1, again.stdout + again.stderr
    replayed = json.loads(again.stdout)
    assert replayed["changes"] == []
    assert _failed(replayed["verdict"]) == ["exactly_once:ledger"]

    shrunk = command("shrink", folder, "--failing", "2", "--of", "3", cwd=tmp_path, within_s=_LIMIT_S)
    assert shrunk.returncode == 1, shrunk.stdout + shrunk.stderr
    smallest = yaml.safe_load(shrunk.stdout)
    assert sorted(
        (name, entry[name]["role"]) for entry in smallest["faults"] for name in ("kill", "pause") if name in entry
    ) == [
        ("kill", "portal"),
        ("pause", "postgres"),
    ]
    (tmp_path / "smallest.yaml").write_text(shrunk.stdout)
    run = command("run", "smallest.yaml", cwd=tmp_path, within_s=_LIMIT_S)
    assert run.returncode == 1, run.stdout + run.stderr
    assert left_of(tmp_path / "runs") == []


def test_without_the_bug_the_same_seeds_pass(tmp_path: Path) -> None:
    """Ten seeds: what was found is the bug, not what the faults do to a portal that keeps its word."""
    told = command("swarm", SWARM, "--seeds", "10", "--json", cwd=tmp_path, within_s=_LIMIT_S)

    assert told.returncode == 0, told.stdout + told.stderr
    assert json.loads(told.stdout)["failing"] == []


def _first_failing(cwd: Path) -> dict[str, Any]:
    """The first seed that fails while both are in force; where they just missed each other, a replay may pass."""
    first = 1
    while first <= SEEDS:
        words = ("--seeds", str(SEEDS + 1 - first), "--first-seed", str(first), "--first-failure", "--json")
        told = command("swarm", SWARM, *words, "--set", BUG, cwd=cwd, within_s=_LIMIT_S)
        assert told.returncode == 1, told.stdout + told.stderr
        found: dict[str, Any] = json.loads(told.stdout)["seeds"][-1]
        if any(one["fault"] == "kill portal" and "pause postgres" in one["beside"] for one in found["proven"]):
            return found
        first = int(found["seed"]) + 1
    raise AssertionError(f"in {SEEDS} seeds both faults were never in force together")


def _failed(verdict: dict[str, Any]) -> list[str]:
    return [one["name"] for one in verdict["expectations"] if one["verdict"] == "fail"]
