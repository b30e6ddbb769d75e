"""A bug of the platform that takes two faults at once: found by a swarm, repeated by a replay, shrunk to the two.

A portal that confirms deposits before they are written (tests/sabotage/written_behind.py): a database that hangs costs
nothing, a killed portal costs nothing; a portal killed while the database hangs, or before what it missed is written,
loses what it had confirmed.
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
    """At most 100 seeds until one fails whose replay fails too; then its two faults, and the experiment of these."""
    folder = _found_and_repeated(tmp_path)

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


def _found_and_repeated(cwd: Path) -> Path:
    """The run of the first seed that fails, and fails again; where two faults just met, a replay may just miss it."""
    first = 1
    while first <= SEEDS:
        words = ("--seeds", str(SEEDS + 1 - first), "--first-seed", str(first), "--first-failure", "--json")
        told = command("swarm", SWARM, *words, "--set", BUG, cwd=cwd, within_s=_LIMIT_S)
        assert told.returncode == 1, told.stdout + told.stderr
        found: dict[str, Any] = json.loads(told.stdout)["seeds"][-1]
        folder = cwd / "runs" / str(found["run"])
        assert {"pause postgres", "kill portal"} <= set(found["drawn"]), found
        again = command("replay", folder, "--json", cwd=cwd, within_s=_LIMIT_S)
        replayed = json.loads(again.stdout)
        assert replayed["changes"] == []
        if again.returncode == 1:
            assert _failed(replayed["verdict"]) == ["exactly_once:ledger"]
            return folder
        first = int(found["seed"]) + 1
    raise AssertionError(f"none of {SEEDS} seeds failed, and failed again")


def _failed(verdict: dict[str, Any]) -> list[str]:
    return [one["name"] for one in verdict["expectations"] if one["verdict"] == "fail"]
