"""Which failures count as the same, when parts of a run are tried."""

import pytest

from chaos.swarm.shrinking import Failure


def failure(exit_code: int, *names: str) -> Failure:
    """A run with this exit code, in which these expectations did not hold."""
    expectations = [{"name": name, "verdict": "fail"} for name in names] + [{"name": "other", "verdict": "pass"}]
    return Failure.of({"exit_code": exit_code, "expectations": expectations})


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (failure(1, "ledger", "failed"), failure(1, "ledger"), True),
        (failure(1, "ledger"), failure(1, "failed"), False),
        (failure(1, "ledger"), failure(0), False),
        (failure(1, "ledger"), failure(2, "ledger"), False),
        (failure(1, "ledger"), failure(4, "ledger"), False),
        (failure(4), failure(4), True),
        (failure(4, "failed"), failure(1, "failed"), False),
    ],
)
def test_only_a_failure_of_the_same_kind_is_the_same(then: Failure, now: Failure, same: bool) -> None:  # noqa: FBT001
    """Some of the same expectations, or a guardrail again; an unknown outcome proves nothing."""
    assert then.again(now) is same
