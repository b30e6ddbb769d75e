"""Arrivals on schedule in plain Locust: any locustfile, any user class, Locust's own command line, web pages and CSV.

    from loadtests import plain_locust           # then: locust -f FILE --headless --users 50 --arrivals 300/s

    plain_locust.arrive("{rate: 50/s, surge: {to: 10x, at: 20s, for: 60s}}")     # or in the file itself

Users are how many arrivals may be served at a time; `wait_time` is not used; a LoadTestShape goes on to say how many
users there are. Arrivals begin when the first users have been spawned. What Locust shows as response time is the time
from a request's own start, except with `HonestUser`; the end of the test tells the time from the intended start beside
it. Without `--arrivals` and `arrive` Locust works as always.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any, Final

import gevent
from locust import events
from locust.env import Environment
from locust.runners import LocalRunner

from loadtests import options
from loadtests.arrivals import Schedule, schedule_of
from loadtests.client import HonestUser, Load
from loadtests.journal import Journal
from loadtests.line import Line
from loadtests.open_loop import open_loop
from loadtests.protocol import parse_address
from metrics.arrivals import ArrivalsError
from metrics.history import Recorder

_LOG: Final = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 1.0
_LOG_IN_WITHIN_S: Final = 30.0
_asked: dict[str, str] = {}


def arrive(arrivals: str) -> None:
    """Says in a locustfile which arrivals there are; `--arrivals` overrules it."""
    _asked["arrivals"] = arrivals


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust has no types
def _add_options(parser: Any) -> None:
    parser.add_argument(
        "--arrivals",
        type=options.arrivals,
        default=options.arrivals(_asked["arrivals"]) if "arrivals" in _asked else None,
        help="start tasks on schedule: 300/s, or {rate: 50/s, surge: {to: 10x, at: 20s, for: 60s}}",
        include_in_web_ui=False,
    )
    parser.add_argument(
        "--history",
        default="history-of-load",
        help="a folder for the record of what users derived from HonestUser do (history-of-load)",
        include_in_web_ui=False,
    )


@events.init.add_listener  # type: ignore[untyped-decorator]
def _install(environment: Environment, runner: Any, **_: Any) -> None:
    arrivals = getattr(environment.parsed_options, "arrivals", None)
    if arrivals is None or getattr(environment, "opening", None) is not None:
        return
    if not isinstance(runner, LocalRunner):
        _LOG.error("--arrivals starts all of them in one process: leave --master, --worker and --processes out")
        raise SystemExit(64)
    seed = os.environ.get("HOLDFAST_SEED", "0")
    try:
        schedule = schedule_of(arrivals, seed=f"{seed}/1")
    except ArrivalsError as error:
        _LOG.error("--arrivals: %s", error)  # its author needs the sentence, not our traceback
        raise SystemExit(64) from error
    if any(issubclass(user_class, HonestUser) for user_class in environment.user_classes):
        _record(environment, seed=int(seed))
    _Test(environment, schedule)


def _record(environment: Environment, *, seed: int) -> None:
    """Gives users derived from HonestUser what `loadtests.run` would give them."""
    folder = Path(environment.parsed_options.history)
    host = environment.host or next((one.host for one in environment.user_classes if one.host), None) or ""
    try:
        address = parse_address(host)
        folder.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(folder, name="load", writer=1)
    except ValueError as error:
        _LOG.error("--host: %s", error)
        raise SystemExit(64) from error
    except OSError as error:
        _LOG.error("--history: %s cannot be recorded in: %s; choose another folder", folder, error)
        raise SystemExit(64) from error
    environment.load = Load(
        address=address,
        journal=Journal(recorder=recorder, writer=1),
        run_dir=folder,
        seed=seed,
        run_id="",
        ready_by_s=time.monotonic() + _LOG_IN_WITHIN_S,
    )

    def close(**_: Any) -> None:
        recorder.close()

    environment.events.quit.add_listener(close)


class _Test:
    """The tests of one environment, one after the other: each has a line of its own."""

    def __init__(self, environment: Environment, schedule: Schedule) -> None:
        self._environment = environment
        self._schedule = schedule
        self._line = self._new_line()
        environment.events.test_start.add_listener(self._start)
        environment.events.spawning_complete.add_listener(self._begin)
        environment.events.test_stopping.add_listener(self._close)
        environment.events.test_stop.add_listener(self._tell)

    def _new_line(self) -> Line:
        line = Line(self._schedule)
        open_loop(self._environment, line)
        return line

    def _start(self, **_: Any) -> None:
        if self._line.begun:
            self._line = self._new_line()
        load = getattr(self._environment, "load", None)
        if load is not None:
            load.ready_by_s = time.monotonic() + _LOG_IN_WITHIN_S

    def _begin(self, **_: Any) -> None:
        if not self._line.begun:  # a LoadTestShape spawns more than once
            self._line.begin(time.monotonic_ns())
            gevent.spawn(self._watch, self._line)

    def _watch(self, line: Line) -> None:
        """Ends a test whose schedule ended in an error."""
        while line is self._line and not line.closed:
            if line.failure is not None:
                _LOG.error("the arrivals ended: %s", line.failure)
                self._environment.process_exit_code = 1
                self._environment.runner.quit()
                return
            gevent.sleep(_LOOK_EVERY_S)

    def _close(self, **_: Any) -> None:
        self._line.close()

    def _tell(self, **_: Any) -> None:
        line = self._line
        intended, unsent = line.due()
        _LOG.info(
            "arrivals: %d intended, %d started, %d unsent; the generator was late by %.1f ms (p99); "
            "from the intended start to the end of a task p50 %.0f ms, p99 %.0f ms, max %.0f ms",
            intended,
            line.started,
            unsent,
            line.lateness.quantile_s(0.99) * 1e3,
            line.responses.quantile_s(0.5) * 1e3,
            line.responses.quantile_s(0.99) * 1e3,
            line.responses.max_s * 1e3,
        )
        if unsent:
            _LOG.warning("arrivals: %d found no free user and were never sent: give more --users", unsent)
