"""The line in which users wait for arrivals."""

import time

import gevent

from loadtests.arrivals import Schedule, constant
from loadtests.line import Arrival, Line

TOGETHER: Schedule = lambda: iter([0.0, 0.0, 0.0, 0.0])  # noqa: E731  # the shape of every schedule


def test_arrivals_are_handed_out_in_order_each_once() -> None:
    """Three users take turns at 1,000/s: numbers without gap or repeat, none before its time."""
    line = Line(constant(1_000))
    served: list[Arrival] = []

    def serve() -> None:
        while (arrival := line.take()) is not None:
            assert time.monotonic_ns() >= arrival.intended_ns
            served.append(arrival)

    users = [gevent.spawn(serve) for _ in range(3)]
    line.begin(time.monotonic_ns())
    gevent.sleep(0.05)
    line.close()
    gevent.joinall(users, timeout=2, raise_error=True)
    assert sorted(arrival.number for arrival in served) == list(range(len(served)))
    assert line.due() == (len(served), 0)
    assert line.started == len(served) >= 40


def test_nobody_starts_before_the_line_begins() -> None:
    """Users may stand in line long before; arrivals count from `begin`."""
    line = Line(constant(1_000))
    user = gevent.spawn(line.take)
    gevent.sleep(0.02)
    assert not user.ready()
    assert line.due() == (0, 0)
    start_ns = time.monotonic_ns()
    line.begin(start_ns)
    assert user.get(timeout=2) == Arrival(number=0, intended_ns=start_ns)
    line.close()


def test_an_arrival_of_a_user_that_is_taken_away_is_served_by_another() -> None:
    """A user is killed while it waits for the first arrival: the next one to come gets that very arrival."""
    line = Line(lambda: iter([0.05, 0.1]))
    line.begin(time.monotonic_ns())
    leaving = gevent.spawn(line.take)
    gevent.sleep(0.01)
    leaving.kill()
    first, second = line.take(), line.take()
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (0, 1)
    assert line.take() is None
    line.close()


def test_what_is_due_and_has_found_no_user_is_unsent() -> None:
    """Four arrivals at once and one user that serves one: three are unsent, during the load and after its end."""
    line = Line(TOGETHER)
    line.begin(time.monotonic_ns())
    assert line.take() is not None
    assert line.due() == (4, 3)
    line.close()
    assert line.take() is None
    assert line.due() == (4, 3)
    assert line.queueing.count == 1


def test_an_arrival_due_at_the_end_still_starts_when_its_user_is_free() -> None:
    """The end comes while the user sleeps towards an arrival that is due by then: it is started, not lost.

    The loop is kept busy past the arrival's time, so that its timer cannot have fired when the line is closed.
    """
    line = Line(lambda: iter([0.01]))
    line.begin(time.monotonic_ns())
    user = gevent.spawn(line.take)
    gevent.sleep(0)
    busy_until_ns = time.monotonic_ns() + 20_000_000
    while time.monotonic_ns() < busy_until_ns:
        continue
    line.close()
    assert line.started == 1, "when close returns it has started: the users may be taken away now"
    assert user.get(timeout=2) is not None
    assert line.due() == (1, 0)


def test_late_because_nobody_was_free_is_not_late_by_the_generator() -> None:
    """An overdue arrival counts as queueing, one that a free user waited for as lateness."""
    line = Line(lambda: iter([0.0, 0.05]))
    line.begin(time.monotonic_ns() - 10_000_000)
    assert line.take() is not None
    assert line.take() is not None
    assert (line.queueing.count, line.lateness.count) == (1, 1)
    assert line.queueing.max_s >= 0.01
    line.close()
