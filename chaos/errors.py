"""Every error that a user can meet, split by who must act.

    HoldfastError
    |- ExperimentError   the author of an experiment or target file; raised before anything is started
    |- TargetError       the environment: a binary, a port, a log to read
    `- HealError         somebody must look: a fault may remain in force

Messages say what happened, where, and what to do. A violated invariant of ours is an `assert` instead.
"""

from collections.abc import Sequence
from pathlib import Path


class HoldfastError(Exception):
    """Something a user can mend; printed without a traceback."""


class ExperimentError(HoldfastError):
    """A file or option that cannot be used; carries every problem found, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def cannot_be_made(folder: Path, error: OSError) -> ExperimentError:
    """What to tell when the folder of the runs, or one below it, cannot be made: it is the user's to choose."""
    return ExperimentError([f"{folder}: this folder cannot be made: {error.strerror}; choose another with --out"])


class TargetError(HoldfastError):
    """The target could not be started, reached or read; names the cause and the log."""


class HealError(HoldfastError):
    """A fault may remain in force: names it and how to clear it."""
