"""The results of a swarm: a file to which each finished seed is added, so that it can go on where it was stopped.

{"schema": "swarm/1", ...}                 what was drawn from
{"seed": 1, "run": ..., "exit_code": 0, "proven": [...], ...}
{"seed": 2, ...}
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos.errors import ExperimentError, TargetError, cannot_be_made
from chaos.swarm.coverage import Sighting

SCHEMA: Final = "swarm/1"
FAILING: Final = frozenset({1, 4, 5})
"""The exit codes of seeds that are kept as failing: an expectation that did not hold, a guardrail, something left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one seed."""

    seed: int
    run: str
    """The run's folder, below that of the results."""
    exit_code: int
    verdict: str
    reasons: tuple[str, ...]
    drawn: tuple[str, ...]
    """The labels of its faults, in order of time."""
    proven: tuple[Sighting, ...]

    @property
    def failed(self) -> bool:
        """Whether it is one to look at."""
        return self.exit_code in FAILING

    def to_json(self) -> dict[str, Any]:
        """A line of the file."""
        return {
            "seed": self.seed,
            "run": self.run,
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "drawn": list(self.drawn),
            "proven": [one.to_json() for one in self.proven],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Result":
        """What `to_json` wrote."""
        return cls(
            seed=int(data["seed"]),
            run=str(data["run"]),
            exit_code=int(data["exit_code"]),
            verdict=str(data["verdict"]),
            reasons=tuple(data["reasons"]),
            drawn=tuple(data["drawn"]),
            proven=tuple(Sighting.from_json(one) for one in data["proven"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The file with the results of one swarm: another file, target or override has another one."""

    path: Path

    @classmethod
    def open(cls, runs_dir: Path, *, swarm: Path, digest: str) -> "Record":
        """The record of a swarm, begun if there is none.

        Raises:
            ExperimentError: the folder cannot be made.
        """
        record = cls(path=runs_dir / f"swarm-{swarm.stem}-{digest}.ndjson")
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            if not record.path.exists():
                record._append({"schema": SCHEMA, "swarm": str(swarm), "digest": digest})
        except OSError as error:
            raise cannot_be_made(runs_dir, error) from error
        return record

    def results(self) -> dict[int, Result]:
        """What is finished, by seed; a last line that was cut off is not.

        Raises:
            ExperimentError: it is not such a file.
        """
        lines = self.path.read_bytes().split(b"\n")[:-1]
        try:
            found = [Result.from_json(json.loads(line)) for line in lines[1:] if line]
            head = json.loads(lines[0])["schema"] if lines else SCHEMA
        except (ValueError, KeyError, TypeError) as error:
            raise ExperimentError([self._foreign(repr(error))]) from error
        if head != SCHEMA:
            raise ExperimentError([self._foreign(f"its schema is {head!r}")])
        return {result.seed: result for result in found}

    def add(self, result: Result) -> None:
        """Writes down a finished seed; it is on disk when this returns.

        Raises:
            TargetError: it cannot be written.
        """
        try:
            self._append(result.to_json())
        except OSError as error:
            raise TargetError(f"{self.path}: seed {result.seed} cannot be written down: {error.strerror}") from error

    def _append(self, line: Mapping[str, Any]) -> None:
        """After a line that was cut off a new one is begun; that one is then no JSON, and taken out first."""
        with self.path.open("ab+") as file:
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _foreign(self, why: str) -> str:
        return f"{self.path}: these are no results of a swarm ({why}); move the file away, or choose another --out"
