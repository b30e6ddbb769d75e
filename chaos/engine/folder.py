"""The run's folder: made, described by run.json, and found again as `latest`."""

import contextlib
import json
import os
import platform
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from chaos.errors import TargetError, cannot_be_made
from chaos.experiment import Experiment
from chaos.planner import Plan
from chaos.processes import own_environment, run_to_end

LATEST: Final = "latest"
_GIT_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Where a run writes everything; see docs/formats.md."""

    path: Path
    run_id: str


def make_run_folder(runs_dir: Path, *, name: str) -> RunFolder:
    """A fresh folder `<date>-<name>-<random>` below `runs_dir`; `latest` points to it from now on.

    Raises:
        ExperimentError: it cannot be made, and why.
    """
    run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{_file_name(name)}-{secrets.token_hex(3)}"
    path = runs_dir.absolute() / run_id
    try:
        path.mkdir(parents=True)
        (path / "logs").mkdir()
        _point_latest(runs_dir.absolute(), run_id)
    except OSError as error:
        raise cannot_be_made(path, error) from error
    return RunFolder(path=path, run_id=run_id)


def describe_run(
    folder: RunFolder, *, experiment: Experiment, plan: Plan, overrides: Mapping[str, Any], replay: str | None
) -> None:
    """Writes run.json, plan.json and copies of the two input files; without `replay`, its folder is what repeats it."""
    described = {
        "schema": "run/1",
        "run_id": folder.run_id,
        "holdfast": version("holdfast"),
        "python": platform.python_version(),
        "commit": _commit(experiment.source.parent),
        "seed": plan.seed,
        "experiment": experiment.source.stem,
        "source": str(experiment.source.absolute()),
        "title": plan.title,
        "target": str(experiment.target),
        "attached": False,
        "overrides": dict(overrides),
        "clock": _clock(),
        "machine": _machine(),
        "replay": replay or shlex.join(["holdfast", "replay", str(folder.path)]),
    }
    _write_json(folder.path / "run.json", described)
    _write_json(folder.path / "plan.json", plan.to_json())
    (folder.path / "experiment.yaml").write_text(experiment.written.document.text)
    shutil.copyfile(experiment.target, folder.path / "topology.yaml")


def note_attached(folder: RunFolder) -> None:
    """Notes in run.json that the run uses a target which was up before it, and so has seen other runs."""
    path = folder.path / "run.json"
    described = json.loads(path.read_text())
    partial = path.with_suffix(".partial")
    _write_json(partial, {**described, "attached": True})
    partial.replace(path)


def replay_command(experiment: str, *, seed: int, target: Path | None, overrides: Mapping[str, Any]) -> str:
    """The command that repeats a run, from whatever folder; `experiment` is a path or the name of a shipped one."""
    words = ["holdfast", "run", experiment, "--seed", str(seed)]
    if target is not None:
        words += ["--target", str(target.absolute())]
    for key, value in overrides.items():
        words += ["--set", f"{key}={_as_option(value)}"]
    return shlex.join(words)


def _as_option(value: Any) -> str:
    """The text that `--set` reads as this value: JSON, unless it is a text that is not taken for that."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value)


def _clock() -> dict[str, int]:
    """Both clocks read together: the wall clock between two readings of the monotonic one."""
    before_ns = time.monotonic_ns()
    wall_ns = time.time_ns()
    return {"monotonic_ns": (before_ns + time.monotonic_ns()) // 2, "wall_ns": wall_ns}


def _machine() -> dict[str, Any]:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_bytes": memory_bytes,
    }


def _commit(folder: Path) -> str | None:
    """The commit of the checkout that holds the experiment, with `+` when it has changes; None outside of one."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        said = run_to_end(command, env=own_environment(), cwd=folder, within_s=_GIT_LIMIT_S)
    except TargetError:
        return None
    return said.strip() or None


def _point_latest(runs_dir: Path, run_id: str) -> None:
    """Replaces the link in one step, so that it always points somewhere, also with runs side by side."""
    partial = runs_dir / f".{LATEST}-{run_id}"
    partial.symlink_to(run_id)
    try:
        partial.replace(runs_dir / LATEST)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        raise


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)[:40]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
