import itertools
import json

import jsonschema
import pytest

from metrics.findings import Finding, Grade, worst
from metrics.verdict import PRECEDENCE, combine_exit_codes, verdict_schema


def test_exit_codes_are_combined_by_precedence() -> None:
    """Every pair of outcomes gives the one that stands first in DESIGN's order, whichever came first."""
    order = [5, 130, 143, 64, 4, 1, 3, 2, 0]

    for strong, weak in itertools.combinations(order, 2):
        assert combine_exit_codes([strong, weak]) == combine_exit_codes([weak, strong]) == strong
    assert list(PRECEDENCE) == order
    assert combine_exit_codes([0, 2, 1, 0]) == 1
    assert combine_exit_codes([0, 0]) == 0


def test_no_outcome_is_no_pass() -> None:
    """Nothing ran."""
    assert combine_exit_codes([]) == 2


def test_a_foreign_exit_code_is_refused() -> None:
    """A code that means nothing here must not be taken for good."""
    with pytest.raises(ValueError, match="77 is no exit code of a run"):
        combine_exit_codes([0, 77])


@pytest.mark.parametrize(
    ("grades", "answer"),
    [([], "unknown"), (["pass"], "pass"), (["pass", "unknown"], "unknown"), (["fail", "unknown", "pass"], "fail")],
)
def test_the_worst_grade_wins_and_nothing_is_unknown(grades: list[str], answer: str) -> None:
    """From best to worst: pass, unknown, fail."""
    assert worst(Grade(one) for one in grades) is Grade(answer)


@pytest.mark.parametrize(("before", "after"), [("pass", "unknown"), ("unknown", "unknown"), ("fail", "fail")])
def test_doubt_takes_a_pass_away_and_never_a_failure(before: str, after: str) -> None:
    """And it is told."""
    finding = Finding(name="x", grade=Grade(before), detail="Seen.")

    assert finding.doubted(["torn"]).grade is Grade(after)
    assert finding.doubted(["torn"]).detail == "Seen. Doubtful: torn."
    assert finding.doubted([]) is finding


def test_the_published_schema_is_a_schema() -> None:
    """Valid itself, and plain JSON."""
    jsonschema.Draft202012Validator.check_schema(verdict_schema())
    assert json.loads(json.dumps(verdict_schema())) == verdict_schema()
