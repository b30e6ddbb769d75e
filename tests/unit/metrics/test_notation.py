import pytest

from metrics.history import FAIL, INFO, INVOKE, OK, Row
from metrics.notation import rows_of


def test_a_line_is_an_operation() -> None:
    """Every part of the notation, in order of time."""
    rows = rows_of("""
        deposit a 500 @1.000 ~1.5 +0.25 ok portal-1@v2 x3 replayed   # a comment
        redeem  b 200 @1.2 +1 info !timeout
        probe @9
    """)

    assert rows[0] == Row(3, 1_200_000_000, 1_200_000_000, 3, INVOKE, "redeem", "b", '{"amount":200}', None, None, 0)
    assert rows[1].t_ns == 1_500_000_000
    assert rows[2] == Row(
        2, 1_750_000_000, 1_000_000_000, 2, OK, "deposit", "a", '{"replayed":true}', None, "portal-1@v2", 3
    )
    assert (rows[3].type, rows[3].error) == (INFO, "timeout")
    assert [row.type for row in rows if row.f == "probe"] == [INVOKE]


@pytest.mark.parametrize(
    "line", ["deposit", "@1 +1 ok", "a b 3 c d @1", "deposit a x @1", "a @1 +1", "a @1 +1 maybe", "a @x", "a @1 1 ok"]
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    """By its number and its text."""
    with pytest.raises(ValueError, match="line 2: "):
        rows_of(f"probe @1\n{line}")


def test_failures_are_certain() -> None:
    """`fail` is written as such."""
    assert rows_of("a @1 +1 fail !refused")[1].type == FAIL
