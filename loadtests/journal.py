"""What the clients of one process did: written to the history, and counted for the status lines.

request --invoke--> history --complete--> ok | fail | info          after info: a new logical client
"""

from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.outcome import Outcome
from metrics.history import FAIL, INFO, OK, Operation, Recorder

_PROCESS_BITS: Final = 32
"""A logical client is `writer << 32 | number`, so that two writers never share one."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Operations by how they ended, since the load began; what users did before (log-in) is not in it."""

    follow_ups: int = 0
    ok: int = 0
    fail: int = 0
    info: int = 0
    declined: int = 0

    def add(self, outcome: Outcome) -> None:
        """Counts an operation's end."""
        if outcome.type == OK:
            self.ok += 1
        elif outcome.type == INFO:
            self.info += 1
        else:
            self.fail += 1
            self.declined += (outcome.error or "").startswith("declined:")


@dataclass(slots=True, kw_only=True)
class Journal:
    """Records and counts operations; one for all users of a process."""

    recorder: Recorder
    writer: int
    tally: Tally = field(default_factory=Tally)
    last_error: str | None = None
    _processes: int = 0

    def new_process(self) -> int:
        """A logical client nobody has been yet."""
        self._processes += 1
        return self.writer << _PROCESS_BITS | self._processes

    def complete(
        self, operation: Operation, outcome: Outcome, *, value: Any = None, node: str | None = None, attempt: int = 0
    ) -> int:
        """Records how `operation` ended and gives the process under which its client goes on."""
        self.recorder.complete(operation, outcome.type, value=value, error=outcome.error, node=node, attempt=attempt)
        if outcome.type in {FAIL, INFO}:
            self.last_error = f"{operation.f}: {outcome.error}"
        return self.new_process() if outcome.type == INFO else operation.process
