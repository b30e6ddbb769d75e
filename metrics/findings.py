"""What a checker finds: pass, unknown or fail, with the value, the limit and the smallest witness.

pass < unknown < fail        the worst of many is the answer for all
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


class Grade(Enum):
    """How one question was answered, from best to worst."""

    PASS = "pass"  # noqa: S105 - a grade, no secret
    UNKNOWN = "unknown"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """0 for pass, 1 for unknown, 2 for fail."""
        return list(Grade).index(self)


def worst(grades: Iterable[Grade]) -> Grade:
    """The worst of some grades; with none nothing was checked, and that is unknown."""
    return max(grades, key=lambda grade: grade.rank, default=Grade.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The answer to one expectation.

    `value` and `limit` are in `unit` (None where there is no number to give), and `sense` tells whether the limit is
    `at most` or `at least`; `witness` is data, the smallest part of
    the evidence that shows it; `detail` says it in a sentence or a few.
    """

    name: str
    grade: Grade
    value: float | str | None = None
    limit: float | str | None = None
    unit: str = ""
    sense: str = "at most"
    witness: Sequence[Mapping[str, Any]] = ()
    detail: str = ""

    def doubted(self, reasons: Iterable[str]) -> "Finding":
        """The same, but no better than unknown, because of these reasons; without reasons it stays as it is."""
        told = "; ".join(reasons)
        if not told:
            return self
        grade = worst((self.grade, Grade.UNKNOWN))
        return replace(self, grade=grade, detail=f"{self.detail} Doubtful: {told}.".strip())


def count(number: int, noun: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
