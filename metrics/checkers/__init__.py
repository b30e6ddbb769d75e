"""The judges: what experiments may expect, one module per checker."""

from metrics.checkers.checker import (
    CHECKERS,
    Checker,
    Expectation,
    ExpectationError,
    Problem,
    expectation_schema,
    known_checkers,
    parse_expectation,
)

__all__ = [
    "CHECKERS",
    "Checker",
    "Expectation",
    "ExpectationError",
    "Problem",
    "expectation_schema",
    "known_checkers",
    "parse_expectation",
]
