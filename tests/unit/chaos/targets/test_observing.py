"""Readings out of Prometheus texts: which samples match, and how they become one value."""

import pytest

from chaos.targets.commands import same
from chaos.targets.observing import combine, knows_metric, sample_values

TEXT = """\
# HELP jobs Jobs by state.
# TYPE jobs gauge
jobs{state="queued",zone="a"} 3
jobs{zone="b",state="queued"} 4
jobs{state="a \\"quoted\\" one",zone="b"} 5
jobs_total 90
# TYPE requests counter
requests_total{code="200"} 1e3
# TYPE seconds histogram
seconds_bucket{le="0.1"} 7
seconds_bucket{le="+Inf"} 9
# TYPE retries counter
"""


@pytest.mark.parametrize(
    ("selector", "values"),
    [
        ("jobs", [3, 4, 5]),
        ("jobs{}", [3, 4, 5]),
        ('jobs{state="queued"}', [3, 4]),
        ('jobs{state="queued", zone="b"}', [4]),
        ('jobs{state="a \\"quoted\\" one"}', [5]),
        ('jobs{state="gone"}', []),
        ("jobs_total", [90]),
        ("requests_total", [1000]),
        ('seconds_bucket{le="+Inf"}', [9]),
        ("request", []),
    ],
)
def test_samples_match_by_whole_name_and_by_a_subset_of_labels(selector: str, values: list[float]) -> None:
    """Names that merely begin alike do not match; the order of labels does not matter."""
    assert sample_values(TEXT, selector) == values


@pytest.mark.parametrize(
    ("selector", "known"),
    [
        ("jobs", True),
        ("jobs_total", True),
        ("retries_total", True),
        ("retries", True),
        ("retry", False),
        ("job", False),
    ],
)
def test_a_declared_metric_without_samples_is_known(selector: str, known: bool) -> None:  # noqa: FBT001  # a table
    """A counter with labels has no sample before its first event: that reads 0, a misspelt name is an error."""
    assert knows_metric(TEXT, selector) is known


def test_many_values_become_one() -> None:
    """Each way once; nothing at all is 0."""
    assert [combine([1, 2, 6], how) for how in ("sum", "max", "min", "mean")] == [9, 6, 1, 3]
    assert combine([], "max") == 0


@pytest.mark.parametrize(
    ("value", "wanted", "equal"),
    [
        (0.0, 0, True), (1.5, 1.5, True), ("closed", "closed", True), ("true", True, True),
        (0.0, "0", False), ("closed", "open", False), (1.0, True, False), ("1", 1, True),
    ],
)  # fmt: skip
def test_a_reading_is_compared_as_the_file_means_it(value: float | str, wanted: object, equal: bool) -> None:  # noqa: FBT001
    """Numbers as numbers, text as text, true as the text that a JSON answer's true becomes."""
    assert same(value, wanted) is equal
