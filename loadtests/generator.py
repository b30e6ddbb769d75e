"""The load process with Locust in it: spawn users, wait until they are ready, run the line, end it in order.

connect -> spawn -> all in line: "ready" -> arrivals, "status" each second -> SIGTERM -> drain -> "finished"
"""

import gc
import logging
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gevent
import gevent.event
import gevent.socket
from locust import events
from locust.env import Environment
from locust.util.load_locustfile import load_locustfile

from loadtests.arrivals import Schedule
from loadtests.client import HonestUser, Load
from loadtests.journal import Journal
from loadtests.line import Line
from loadtests.open_loop import Opening, open_loop
from loadtests.protocol import (
    EXIT_FINE,
    STATUS_EVERY_S,
    Channel,
    Counts,
    Given,
    LoadError,
    UnusableInputError,
    complain,
)
from metrics.history import Recorder

_TURN_S: Final = 0.05
_LEAD_NS: Final = 20_000_000
"""From `ready` to the first arrival: the time in which all users wake and take their places."""
_REPORTED_ERRORS_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asked for."""

    locustfile: Path
    schedule: Schedule
    users: int
    spawn_rate: float
    name: str
    writer: int
    ready_within_s: float
    grace_s: float


class UserErrors:
    """Exceptions that tasks of the locustfile raised: counted, and each distinct one reported once."""

    def __init__(self, environment: Environment) -> None:
        self.count = 0
        self.first: str | None = None
        self._reported: set[str] = set()
        environment.events.user_error.add_listener(self._note)
        # Locust would log a traceback for each of them, hundreds a second.
        for name in ("locust.user.task", "locust.user.users"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def _note(self, *, user_instance: Any, exception: BaseException, tb: Any, **_: Any) -> None:
        self.count += 1
        text = f"{type(user_instance).__name__}: {type(exception).__name__}: {exception}"
        self.first = self.first or text
        where = "".join(traceback.format_tb(tb))
        if where not in self._reported and len(self._reported) < _REPORTED_ERRORS_MAX:
            self._reported.add(where)
            complain(f"a task raised: {text}\n{where}")


class Generator:
    """One load process from start to end."""

    def __init__(self, given: Given, plan: Plan, channel: Channel, stop: gevent.event.Event) -> None:
        self._given = given
        self._plan = plan
        self._channel = channel
        self._stop = stop
        self._ready_by_s = time.monotonic() + plan.ready_within_s
        self._environment = _environment(plan, given.url)
        try:
            recorder = Recorder(given.run_dir, name=plan.name, writer=plan.writer)
        except FileExistsError as error:
            raise UnusableInputError(
                f"{error.filename} exists: this run has a writer called {plan.name!r} already; choose another --name"
            ) from error
        self._journal = Journal(recorder=recorder, writer=plan.writer)
        self._line = Line(plan.schedule)
        self._load = Load(
            address=given.address,
            journal=self._journal,
            run_dir=given.run_dir,
            seed=given.seed,
            run_id=given.run_id,
            ready_by_s=self._ready_by_s,
        )
        self._environment.load = self._load
        self._opening: Opening = open_loop(self._environment, self._line)
        self._errors = UserErrors(self._environment)

    def run(self) -> int:
        """Runs the load until it is told to stop; gives the exit code.

        Raises:
            LoadError: the users did not become ready.
        """
        runner = self._environment.create_local_runner()
        self._environment.events.init.fire(environment=self._environment, runner=runner, web_ui=None)
        began = False
        try:
            self._await_target()
            runner.start(self._plan.users, self._plan.spawn_rate)
            self._await_users(runner)
            if not self._stop.is_set():
                self._channel.say("ready")
                gc.collect()
                gc.freeze()  # what Locust imported stays for ever; walking it again and again is lateness
                began = True
                self._line.begin(time.monotonic_ns() + _LEAD_NS)
            while not self._stop.wait(STATUS_EVERY_S) and self._channel.heard:
                self._journal.recorder.flush()
                self._channel.say_counts("status", self.counts())
                if self._line.failure is not None:
                    raise LoadError(f"the arrivals ended: {self._line.failure}")
        finally:
            self._load.ready_by_s = 0.0  # who is still logging in gives up
            self._line.close()
            runner.quit()
            self._environment.events.quitting.fire(environment=self._environment, reverse=True)
            self._journal.recorder.close()
            self._channel.say_counts("finished", self.counts())
        if began and self._load.given_up is not None:
            raise LoadError(f"a user gave up under load: {self._load.given_up}")
        if self._errors.count:
            raise LoadError(f"{self._errors.count} errors in the locustfile; the first: {self._errors.first}")
        return EXIT_FINE

    def counts(self) -> Counts:
        """The running totals now."""
        line, tally = self._line, self._journal.tally
        due, unsent = line.due()
        return Counts(
            intended=due + tally.follow_ups,
            started=line.started + tally.follow_ups,
            completed=tally.ok + tally.fail + tally.info,
            ok=tally.ok,
            fail=tally.fail,
            info=tally.info,
            unsent=unsent,
            declined=tally.declined,
            lateness_p50_s=line.lateness.quantile_s(0.5),
            lateness_p99_s=line.lateness.quantile_s(0.99),
            lateness_max_s=line.lateness.max_s,
            queued=line.queueing.count,
            queueing_p99_s=line.queueing.quantile_s(0.99),
            queueing_max_s=line.queueing.max_s,
            user_errors=self._errors.count,
        )

    def _await_target(self) -> None:
        """Waits until the target accepts connections."""
        address = self._given.address
        reason = "no try was made"
        while not self._stop.is_set():
            try:
                gevent.socket.create_connection((address.host, address.port), timeout=1.0).close()
            except OSError as error:
                reason = error.strerror or str(error)
            else:
                return
            if time.monotonic() >= self._ready_by_s:
                raise LoadError(
                    f"{self._given.url} did not accept a connection within {self._plan.ready_within_s:g} s: {reason}"
                )
            self._stop.wait(_TURN_S * 4)

    def _await_users(self, runner: Any) -> None:
        """Waits until every user has logged in and stands in line."""
        users = self._plan.users
        while self._opening.enrolled < users and not self._stop.wait(_TURN_S):
            ready = f"{self._opening.enrolled} of {users} users are ready"
            spawning = runner.spawning_greenlet
            if spawning is not None and spawning.exception is not None:
                raise LoadError(f"{ready}; creating a user failed: {spawning.exception}")
            if self._load.given_up is not None:
                raise LoadError(f"{ready}; {self._load.given_up}")
            if self._errors.first is not None:
                raise LoadError(f"{ready}; on_start raised: {self._errors.first}")
            if time.monotonic() >= self._ready_by_s:
                last = f"; the last trouble was {self._journal.last_error}" if self._journal.last_error else ""
                raise LoadError(f"{ready} after {self._plan.ready_within_s:g} s{last}")


def _environment(plan: Plan, url: str) -> Environment:
    """Locust's environment for the users of the locustfile.

    Raises:
        UnusableInputError: the file cannot be used, or Locust does not accept the users in it.
    """
    user_classes = _load_users(plan.locustfile)
    try:
        return Environment(user_classes=user_classes, host=url, events=events, stop_timeout=plan.grace_s)
    except ValueError as error:
        raise UnusableInputError(f"{plan.locustfile}: {error}") from error


def _load_users(path: Path) -> list[Any]:
    """The user classes of a locustfile.

    Raises:
        UnusableInputError: it is not there, does not import, or has no users with tasks in it.
    """
    if not path.is_file():
        raise UnusableInputError(f"{path}: no such locustfile")
    try:
        classes, shapes = load_locustfile(str(path.resolve()))
    except (Exception, SystemExit) as error:  # whatever a user's file raises is a reason it cannot be used
        place = traceback.extract_tb(error.__traceback__)[-1]
        line = getattr(error, "lineno", None) or place.lineno
        where = getattr(error, "filename", None) or place.filename
        raise UnusableInputError(
            f"{path}: does not import: {type(error).__name__}: {error} ({where}:{line})"
        ) from error
    for shape in shapes:
        complain(f"{path}: {type(shape).__name__} is not used: arrivals come as --arrivals says")
    if not classes:
        raise UnusableInputError(f"{path}: no users in it; derive a class from HonestUser and give it tasks")
    for name, user_class in classes.items():
        if not user_class.tasks:
            raise UnusableInputError(f"{path}: {name} has no tasks; mark a method with @task")
        if not issubclass(user_class, HonestUser):
            complain(f"{path}: what {name} does is not recorded; derive it from loadtests.client.HonestUser")
    return list(classes.values())


def run(given: Given, plan: Plan, channel: Channel) -> int:
    """Runs a load process and gives its exit code.

    Raises:
        UnusableInputError: the locustfile or the writer's name cannot be used.
        LoadError: the users did not become ready, or the locustfile raised.
    """
    stop = gevent.event.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    return Generator(given, plan, channel, stop).run()
