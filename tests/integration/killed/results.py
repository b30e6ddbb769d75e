"""Outcomes of a long proof, kept between its attempts: one JSON object a line, each with its date and what it proved.

What has been shown of the very same code is not shown again, so a proof that was cut off goes on where it was. One
changed line of ours, and all of it counts for nothing.
"""

import dataclasses
import hashlib
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

from tests.integration.killed.moments import Outcome

REPOSITORY = Path(__file__).parents[3]
_PROVEN = ("chaos", "metrics", "loadtests", "system_under_test", "tests/integration/killed")


class Results:
    """The outcomes in a file; several threads may add to it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._code = _digest()
        self._adding = threading.Lock()

    def add(self, outcome: Outcome) -> None:
        """Writes an outcome down."""
        line = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": self._code,
            **dataclasses.asdict(outcome),
        }
        with self._adding, self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def good(self) -> dict[int, Outcome]:
        """What has been shown of this code, by number: the outcomes that left nothing."""
        found = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            entry = json.loads(line)
            if entry.pop("code") == self._code and not entry["left"]:
                del entry["date"]
                lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
                found[entry["number"]] = Outcome(**{**entry, **lists})
        return found


def _digest() -> str:
    """What tells this state of the code from any other."""
    whole = hashlib.sha256()
    for place in _PROVEN:
        for path in sorted((REPOSITORY / place).rglob("*")):
            if path.suffix in {".py", ".yaml", ".sql"}:
                whole.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]
