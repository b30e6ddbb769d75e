"""Locust with an open loop: a task starts when an arrival is due, not when the one before has ended.

Locustfiles stay as they are: `@task` methods, nested TaskSets, weights, `on_start`. What changes is when a task runs:

    on_start (log-in) -> stands in line -> arrival -> task -> stands in line -> ...        wait_time is not used

Locust has no hook there, so two methods of its TaskSet are replaced, for environments that were given a `Line`:
`execute_next_task` first waits for an arrival (the very first task too, and a task that follows an interrupt at
once), and `wait` does nothing more. A TaskSet inside another is no arrival itself; its tasks are.
"""

import time
from dataclasses import dataclass
from typing import Any, Final

import gevent
from locust import TaskSet
from locust.env import Environment
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from loadtests.line import Arrival, Line

_IDLE_TURN_S: Final = 0.1
"""A TaskSet that fails before any task runs would spin without an end."""

_execute_next_task = TaskSet.execute_next_task
_wait = TaskSet.wait


@dataclass(slots=True, kw_only=True)
class Seat:
    """A user's place: the arrival it serves, until its first request claims it."""

    line: Line
    number: int = -1
    arrival: Arrival | None = None
    turns: int = 0

    def claim(self) -> Arrival | None:
        """The arrival for the first request of a task; None for what a task does after that, and before the first."""
        arrival, self.arrival = self.arrival, None
        return arrival


@dataclass(slots=True, kw_only=True)
class Opening:
    """The open loop of one environment: its line, and who stands in it."""

    line: Line
    enrolled: int = 0


def open_loop(environment: Environment, line: Line) -> Opening:
    """Makes every task of the environment's users wait for an arrival of `line`."""
    TaskSet.execute_next_task = _execute_on_arrival
    TaskSet.wait = _pause
    opening = Opening(line=line)
    environment.opening = opening
    return opening


def seat_of(user: Any) -> Seat | None:
    """The user's seat; None before its first task."""
    seat: Seat | None = getattr(user, "seat", None)
    return seat


def _execute_on_arrival(taskset: Any) -> None:
    opening: Opening | None = getattr(taskset.user.environment, "opening", None)
    is_nested = hasattr(taskset._task_queue[0], "tasks")  # noqa: SLF001  # how Locust tells a TaskSet from a task
    if opening is None or is_nested:
        _execute_next_task(taskset)
        return
    arrival = _stand_in_line(taskset.user, opening)
    try:
        _execute_next_task(taskset)
    finally:
        opening.line.responses.add(time.monotonic_ns() - arrival.intended_ns)


def _stand_in_line(user: Any, opening: Opening) -> Arrival:
    seat = seat_of(user)
    if seat is None:
        seat = user.seat = Seat(line=opening.line)
        opening.enrolled += 1
    user._state = LOCUST_STATE_WAITING  # noqa: SLF001  # Locust may end a waiting user at once, a running one after its task
    arrival = opening.line.take()
    if arrival is None:
        raise StopUser
    user._state = LOCUST_STATE_RUNNING  # noqa: SLF001
    seat.arrival, seat.number = arrival, arrival.number
    seat.turns += 1
    return arrival


def _pause(taskset: Any) -> None:
    user = taskset.user
    if getattr(user.environment, "opening", None) is None:
        _wait(taskset)
        return
    if user._state == LOCUST_STATE_STOPPING:  # noqa: SLF001
        raise StopUser
    seat = seat_of(user)
    if seat is None or seat.turns == 0:
        gevent.sleep(_IDLE_TURN_S)
    else:
        seat.turns = 0
