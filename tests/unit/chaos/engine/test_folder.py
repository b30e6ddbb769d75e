"""The folder of a run: its own, described, and found as `latest`."""

import json
import shlex
import time
from pathlib import Path

import pytest

from chaos.cli.options import parse_overrides
from chaos.engine.folder import describe_run, make_run_folder, note_attached, replay_command
from chaos.errors import ExperimentError
from chaos.planner import plan
from tests.unit.chaos.experiments import ROLES, experiment


def test_every_run_has_a_folder_of_its_own_and_latest_points_at_the_newest(tmp_path: Path) -> None:
    """Two in the same second; the link is relative, so that the folder can be moved."""
    first, second = (make_run_folder(tmp_path / "runs", name="node/kill ü") for _ in range(2))

    assert first.path != second.path
    assert second.path.is_dir()
    assert (tmp_path / "runs" / "latest").resolve() == second.path
    assert not (tmp_path / "runs" / "latest").readlink().is_absolute()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A file is where the folder should be."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(ExperimentError, match="Not a directory; choose another with --out"):
        make_run_folder(tmp_path / "runs", name="x")


def test_the_repetition_sets_the_same_values() -> None:
    """Texts that look like something else, lists and truth values come back as they were."""
    overrides = {"a": "2", "b": 2, "c": "b c", "d": ["x", "y z"], "e": True, "f": "null", "g": ""}
    words = shlex.split(replay_command("tour", seed=7, target=None, overrides=overrides))
    assert parse_overrides(words[words.index("--set") + 1 :: 2]) == overrides


def test_a_run_is_described_with_its_seed_clock_and_the_command_that_repeats_it(tmp_path: Path) -> None:
    """run.json and plan.json as docs/formats.md has them, beside copies of the two input files."""
    (tmp_path / "topology.yaml").write_text("name: x\n")
    one = experiment(tmp_path, "  - kill: {role: portal}\n")
    folder = make_run_folder(tmp_path / "runs", name="experiment")
    replay = replay_command("my file.yaml", seed=7, target=Path("/x/t.yaml"), overrides={"portal.env.A": "b c"})
    describe_run(folder, experiment=one, plan=plan(one, ROLES, 7, probe_path="/"), overrides={"x.y": 1}, replay=replay)

    run = json.loads((folder.path / "run.json").read_text())
    assert {"run_id", "holdfast", "python", "commit", "machine", "target"} <= run.keys()
    assert (run["schema"], run["seed"], run["title"], run["overrides"]) == ("run/1", 7, "a test", {"x.y": 1})
    assert run["replay"] == "holdfast run 'my file.yaml' --seed 7 --target /x/t.yaml --set 'portal.env.A=b c'"
    assert abs(run["clock"]["wall_ns"] - run["clock"]["monotonic_ns"] - (time.time_ns() - time.monotonic_ns())) < 10**9
    assert run["attached"] is False
    note_attached(folder)
    assert json.loads((folder.path / "run.json").read_text()) == {**run, "attached": True}
    planned = json.loads((folder.path / "plan.json").read_text())
    assert (planned["schema"], planned["timeline"][0]["fault_id"]) == ("plan/1", "kill-1")
    assert planned["expect"] == [{"failed": {"max": 0}}]
    assert planned["phases"][2] == {"name": "faults", "duration_s": 30.0}
    assert (folder.path / "experiment.yaml").read_text() == one.source.read_text()
    assert (folder.path / "topology.yaml").read_text() == "name: x\n"
