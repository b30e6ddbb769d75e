"""What a node takes on: the urgent last to be refused, by the work before a request, and never for a short freeze."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system_under_test.services.portal.admission import Admission, Rank
from system_under_test.services.portal.routes import ROUTES

WAIT_S = 0.25


def admission(*, in_flight_max: int = 10_000) -> Admission:
    """As a node makes it, at time 0."""
    return Admission(in_flight_max=in_flight_max, wait_s=WAIT_S, now_s=0.0)


def admitted(controller: Admission, *, in_flight: int = 100, line_s: float = 0.0) -> dict[Rank, int]:
    """How many of a hundred of each rank get in."""
    return {rank: sum(controller.admits(rank, in_flight=in_flight, line_s=line_s) for _ in range(100)) for rank in Rank}


def test_each_route_of_customers_has_the_rank_that_its_urgency_asks_for() -> None:
    """Log-ins first, then reads, then deposits, then redemptions; the public status is not shed at all."""
    ranks = {route.operation: route.rank for route in ROUTES if route.business}
    assert ranks["open_session"] is Rank.LOG_IN
    assert ranks["deposit"] is Rank.DEPOSIT
    assert ranks["redeem"] is Rank.REDEMPTION
    assert {ranks[name] for name in ("read_balance", "list_redemptions", "read_redemption")} == {Rank.READ}
    assert "read_status" not in ranks


@pytest.mark.parametrize(
    ("line_s", "in_of_a_hundred"),
    [
        (0.0, [100, 100, 100, 100]),
        (WAIT_S * 0.24, [100, 100, 100, 100]),
        (WAIT_S * 0.3, [50, 100, 100, 100]),
        (WAIT_S * 0.36, [0, 93, 100, 100]),
        (WAIT_S * 0.5, [0, 0, 100, 100]),
        (WAIT_S * 0.625, [0, 0, 50, 100]),
        (WAIT_S * 0.75, [0, 0, 0, 100]),
        (WAIT_S, [0, 0, 0, 100]),
        (WAIT_S * 1.125, [0, 0, 0, 50]),
        (WAIT_S * 1.25, [0, 0, 0, 0]),
        (60.0, [0, 0, 0, 0]),
    ],
)
def test_the_longer_the_line_the_more_urgent_a_request_has_to_be(line_s: float, in_of_a_hundred: list[int]) -> None:
    """At each length of the line, of a hundred requests of each rank; every second one where half are refused."""
    found = admitted(admission(), line_s=line_s)
    assert list(found.values()) == pytest.approx(in_of_a_hundred, abs=1)


def test_each_rank_leaves_room_to_the_more_urgent_ones() -> None:
    """At most 8 in flight: 2 for log-ins, 4 with reads, 6 with deposits; with at most 1 there is room for one."""
    eight = admission(in_flight_max=8)
    for rank, most in zip(Rank, (2, 4, 6, 8), strict=True):
        assert eight.admits(rank, in_flight=most - 1, line_s=0.0)
        assert not eight.admits(rank, in_flight=most, line_s=0.0)
    one = admission(in_flight_max=1)
    for rank in Rank:
        assert one.admits(rank, in_flight=0, line_s=0.0)
        assert not one.admits(rank, in_flight=1, line_s=0.0)


@pytest.mark.parametrize("frozen_s", [0.3, 1.0, 60.0])
def test_after_one_freeze_nothing_is_refused(frozen_s: float) -> None:
    """A beat that comes late by any time, with a hundred requests in flight."""
    controller = admission()
    controller.note(frozen_s, now_s=frozen_s)
    assert list(admitted(controller).values()) == [100, 100, 100, 100]


def test_a_loop_that_stays_late_is_relieved_while_there_is_a_queue() -> None:
    """Late by the longest wait for three seconds: only the most urgent get in where there is a queue, all without."""
    controller = admission()
    for number in range(15):
        controller.note(WAIT_S, now_s=number * (0.025 + WAIT_S))
    assert list(admitted(controller).values()) == [0, 0, 0, 100]
    assert list(admitted(controller, in_flight=15).values()) == [100, 100, 100, 100]
    for number in range(40):
        controller.note(0.0, now_s=5.0 + number * 0.025)
    assert list(admitted(controller).values()) == [100, 100, 100, 100], "a second later it is over"


@given(line_s=st.floats(0, 10), lag_s=st.floats(0, 10), in_flight=st.integers(0, 1000), steps=st.lists(st.floats(0, 1)))
def test_a_more_urgent_request_never_fares_worse(
    line_s: float, lag_s: float, in_flight: int, steps: list[float]
) -> None:
    """Any measures: of 20 requests of each rank no fewer of the more urgent get in."""
    controller, now_s = admission(), 0.0
    for step_s in steps:
        now_s += step_s
        controller.note(lag_s, now_s)
    counts = [sum(controller.admits(rank, in_flight=in_flight, line_s=line_s) for _ in range(20)) for rank in Rank]
    assert counts == sorted(counts)
