"""Drive load at the system under test: `python -m loadtests.run --locustfile FILE --arrivals 300/s --users 100`.

Given and said as docs/formats.md has it. Exit 0 when told to end, 1 when the users did not become ready or the
locustfile raised, 64 when the input cannot be used.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from loadtests.options import WRITER_MAX, OptionParser, arrivals, file_stem, positive, whole
from loadtests.protocol import (
    EXIT_FAILED,
    EXIT_FINE,
    EXIT_UNUSABLE,
    IN_FLIGHT_GRACE_S,
    Channel,
    Counts,
    LoadError,
    UnusableInputError,
    complain,
    read_environment,
)
from metrics.arrivals import ArrivalsError

USERS_MAX: Final = 20_000
"""Each user may hold a connection, and descriptors are commonly capped near here."""
SPAWN_RATE_PER_S: Final = 100.0


class _EndedEarly(BaseException):
    """Told to end while Locust was still being loaded; there is nothing to flush.

    No `Exception`, as KeyboardInterrupt is none: no import may mistake it for its own trouble.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a load process and gives its exit code."""
    options = _parser().parse_args(arguments)
    channel = Channel()
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end_early)
        return _run(options, channel)
    except _EndedEarly:
        channel.say_counts("finished", Counts())
        return EXIT_FINE
    except UnusableInputError as error:
        complain(f"loadtests.run: {error}")
        return EXIT_UNUSABLE
    except OSError as error:
        complain(f"loadtests.run: cannot record what it does: {error}")
        return EXIT_FAILED
    except LoadError as error:
        complain(f"loadtests.run: {error}")
        return EXIT_FAILED


def _run(options: argparse.Namespace, channel: Channel) -> int:
    given = read_environment(os.environ)
    # Loading Locust takes a second and patches sockets; bad input is told before that.
    from loadtests import generator
    from loadtests.arrivals import schedule_of

    try:
        schedule = schedule_of(options.arrivals, seed=f"{given.seed}/{options.writer}")
    except ArrivalsError as error:
        raise UnusableInputError(f"--arrivals: {error}") from error
    plan = generator.Plan(
        locustfile=options.locustfile,
        schedule=schedule,
        users=options.users,
        spawn_rate=options.spawn_rate,
        name=options.name,
        writer=options.writer,
        ready_within_s=options.ready_within,
        grace_s=options.grace,
    )
    return generator.run(given, plan, channel)


def _end_early(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _EndedEarly


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="loadtests.run",
        description="Drive open-loop load with Locust: tasks start on schedule whatever earlier ones do.",
        epilog="example: python -m loadtests.run --locustfile loadtests/savers.py --arrivals 300/s --users 100",
        allow_abbrev=False,
    )
    parser.add_argument("--locustfile", type=Path, required=True, help="a Python file with users in it")
    parser.add_argument(
        "--arrivals", type=arrivals, required=True, help="300/s, or a schedule: {rate: 50/s, surge: {to: 10x, ...}}"
    )
    parser.add_argument("--users", type=whole(1, USERS_MAX), default=100, help="most tasks at the same time (100)")
    parser.add_argument(
        "--spawn-rate", type=positive, default=SPAWN_RATE_PER_S, help="users started a second, before the load (100)"
    )
    parser.add_argument("--name", type=file_stem, default="load", help="of this writer's history file (load)")
    parser.add_argument("--writer", type=whole(0, WRITER_MAX), default=1, help="number of this writer in the run (1)")
    parser.add_argument(
        "--ready-within", type=positive, default=30.0, help="seconds in which all users must be ready (30)"
    )
    parser.add_argument(
        "--grace", type=positive, default=IN_FLIGHT_GRACE_S, help="seconds for what is in flight at the end (10)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
