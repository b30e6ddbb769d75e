"""The command line as a user has it: a subprocess, a folder for its runs, and what it leaves behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos.processes import Identity
from chaos.shared_memory import orphaned_by

ENDED_WITHIN_S = 60.0
PROJECT = Path(__file__).resolve().parents[2]
HOLDFAST = Path(sys.executable).with_name("holdfast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a command ended and the newest run folder it made, if any."""

    returncode: int
    output: str
    runs_dir: Path

    @property
    def run_dir(self) -> Path:
        return (self.runs_dir / "latest").resolve(strict=True)

    def verdict(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.run_dir / "verdict.json").read_text())
        return result

    def expectation(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [one for one in self.verdict()["expectations"] if one["name"] == name]
        assert len(found) == 1, f"{name} among {[one['name'] for one in self.verdict()['expectations']]}"
        return found[0]

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.run_dir / "events.ndjson").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]


@dataclass(slots=True, kw_only=True)
class Running:
    """A `holdfast` command that goes on; its output is in a file, so that it never waits for a reader."""

    process: subprocess.Popen[bytes]
    output_path: Path
    runs_dir: Path

    def finish(self, *, within_s: float) -> Finished:
        returncode = self.process.wait(timeout=within_s)
        return Finished(
            returncode=returncode, output=self.output_path.read_text(errors="replace"), runs_dir=self.runs_dir
        )

    def wait_for(self, kind: str, *, within_s: float, **data: object) -> dict[str, Any]:
        """The first event of that kind with that data, as soon as the run has written it."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output_path.read_text(errors="replace")
            for path in self.runs_dir.glob("*/events.ndjson"):
                for line in path.read_text().splitlines():
                    event: dict[str, Any] = json.loads(line)
                    if event["kind"] == kind and data.items() <= event["data"].items():
                        return event
            time.sleep(0.02)
        raise AssertionError(f"no event {kind} {data} within {within_s} s:\n{self.output_path.read_text()}")


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `holdfast run` on an experiment given as data, with its runs in a folder of the test's own."""
    begun: list[Running] = []

    def start_run(experiment: dict[str, Any], *options: str, name: str = "experiment") -> Running:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(experiment, sort_keys=False))
        runs_dir = tmp_path / f"runs-{name}"
        output_path = tmp_path / f"{name}.out"
        with output_path.open("wb") as output:
            process = subprocess.Popen(
                [HOLDFAST, "run", path, "--out", runs_dir, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
            )
        running = Running(process=process, output_path=output_path, runs_dir=runs_dir)
        begun.append(running)
        return running

    try:
        yield start_run
    finally:
        end_all(begun)


def end_all(begun: Sequence[Running]) -> None:
    """Ends every run and waits until nothing of any is left: a watchdog needs the folder that pytest removes later.

    All are asked first, so that one that takes its time leaves no other one running.

    Raises:
        AssertionError: a runner had to be killed, or something is left.
    """
    for running in begun:
        if running.process.poll() is None:
            running.process.terminate()
    deadline = time.monotonic() + ENDED_WITHIN_S
    killed = []
    for running in begun:
        try:
            running.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
            killed.append(running.output_path.read_text(errors="replace"))
    left = {running.runs_dir.name: left_within(running.runs_dir, ENDED_WITHIN_S) for running in begun}
    assert not any(left.values()), left
    assert not killed, f"not ended within {ENDED_WITHIN_S:g} s of SIGTERM: {killed}"


def command(*arguments: str | Path, cwd: Path, within_s: float = 60) -> subprocess.CompletedProcess[str]:
    """A `holdfast` command run to its end."""
    argv = [HOLDFAST, *arguments]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=within_s, check=False)


def left_within(runs_dir: Path, limit_s: float) -> list[str]:
    """What is left of the runs of a folder (see `left_of`), as soon as it is nothing, or after the limit."""
    deadline = time.monotonic() + limit_s
    while (left := left_of(runs_dir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def left_of(runs_dir: Path) -> list[str]:
    """Every process that belongs to a run of that folder: by its recorded identity, its mark or its folder.

    And the shared memory that such processes left.
    """
    left = []
    marks = [
        f"HOLDFAST_RUN_DIR={path}".encode() for path in runs_dir.glob("*") if path.is_dir() and not path.is_symlink()
    ]
    recorded = {
        (event["data"]["pid"], event["data"]["start_ticks"])
        for path in runs_dir.glob("*/events.ndjson")
        for event in map(json.loads, path.read_text().splitlines())
        if event["kind"] == "instance.started"
    }
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            environ = (entry / "environ").read_bytes()
            folder = (entry / "cwd").readlink()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        identified = (int(entry.name), int(stat[19])) in recorded and stat[0] != "Z"
        if identified or any(mark in environ for mark in marks) or folder.is_relative_to(runs_dir):
            left.append(f"{entry.name} {(entry / 'comm').read_text().strip()} {stat[0]}")
    started = [Identity(pid=pid, start_ticks=start_ticks) for pid, start_ticks in recorded]
    return left + [f"shared memory {segment.number}" for segment in orphaned_by(started)]


FEW = {"settlement.count": 1, "accrual.count": 1, "signer.count": 2}
"""As many of each as its work takes, and no stand-in: these tests are about the portals."""
STARTED = ("portal", "settlement", "accrual", "signer", "maintenance", "mailbox", "notifier", "balancer", "postgres")


def savings(
    *,
    faults: Sequence[dict[str, Any]],
    expect: Sequence[dict[str, Any]],
    seconds: int = 8,
    arrivals: str = "60/s",
    **more: Any,
) -> dict[str, Any]:
    """An experiment on the reference platform with phases as short as they still mean something.

    On a machine that others use too: few processes, few arrivals, and a minute for each instance to be ready.
    """
    patient = {f"{role}.ready.within": "60s" for role in STARTED}
    return {
        "title": "a short run for the tests",
        "target": str(PROJECT / "system_under_test" / "topology.yaml"),
        "seed": 7,
        "load": {"locustfile": str(PROJECT / "loadtests" / "savers.py"), "arrivals": arrivals, "users": 40},
        "phases": {"warmup": "2s", "baseline": "2s", "faults": f"{seconds}s", "recovery": "2s", "quiet": "60s"},
        "faults": list(faults),
        "expect": list(expect),
        **more,
        "set": {**FEW, **patient, **more.get("set", {})},
    }
