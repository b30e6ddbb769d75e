"""Runs of real experiments on a tiny real system, and what they leave behind."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from chaos.cli import execute
from metrics.events import Event, read_events

SYSTEM = Path(__file__).parent / "system" / "topology.yaml"
PHASES = {"warmup": "200ms", "baseline": "400ms", "faults": "1200ms", "recovery": "300ms", "quiet": "5s"}
PAUSE = {"pause": {"role": "portal", "count": 1, "for": "500ms"}}
EXPECT = [{"longest_gap": {"max": "5s"}}]
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A finished `holdfast run`: its exit code and what it wrote."""

    returncode: int
    stdout: str
    stderr: str
    run_dir: Path

    @property
    def events(self) -> list[Event]:
        return list(read_events(self.run_dir))

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @property
    def verdict(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run_dir / "verdict.json").read_text())
        return content

    def first(self, kind: str) -> Event:
        return next(event for event in self.events if event.kind == kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Writes experiments into a folder of their own and runs them there as a user would."""

    folder: Path

    def write(self, *, name: str = "experiment", **changes: Any) -> Path:
        """An experiment on the tiny system; JSON is YAML."""
        content = {
            "title": "a test",
            "target": str(SYSTEM),
            "seed": 1,
            "phases": {**PHASES, **changes.pop("phases", {})},
            "faults": [PAUSE],
            "expect": EXPECT,
            **changes,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(content))
        return path

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """`holdfast` with these arguments, in the folder."""
        return subprocess.Popen(
            [sys.executable, "-c", "from chaos.cli import main; main()", *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, process: "subprocess.Popen[str]") -> Ran:
        """Waits for the end of a started run."""
        stdout, stderr = process.communicate(timeout=LIMIT_S)
        return Ran(returncode=process.returncode, stdout=stdout, stderr=stderr, run_dir=self.latest)

    def run(self, **changes: Any) -> Ran:
        """Writes an experiment and runs it in this very process, which spares the imports of a new one."""
        path = self.write(**changes)
        with contextlib.chdir(self.folder), redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            returncode = execute(["run", str(path)])
        return Ran(returncode=returncode, stdout=out.getvalue(), stderr=err.getvalue(), run_dir=self.latest)

    @property
    def latest(self) -> Path:
        return (self.folder / "runs" / "latest").resolve()


def await_event(process: "subprocess.Popen[str]", bench: Bench, matches: Callable[[Event], bool]) -> Event:
    """The first event that matches, as soon as the run has written it."""
    events = bench.folder / "runs" / "latest" / "events.ndjson"
    while process.poll() is None:
        if events.exists():
            found = next((event for event in read_events(events.parent) if matches(event)), None)
            if found is not None:
                return found
        os.sched_yield()
    raise AssertionError(f"the run ended before: {process.communicate()}")
