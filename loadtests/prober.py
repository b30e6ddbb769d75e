"""Ask the system under test at a fixed rate, whatever it answers: `python -m loadtests.prober --path /v1/status`.

    every 20 ms: fresh connection, kept connection, fresh, ...   -> history (f = "probe"), status lines
    every  5 ms: the hiccup meter                                -> hiccup lines

Given and said as docs/formats.md has it. A process of its own with nothing else to do, so that its gaps are the
service's and not the generator's; its own freezes it reports itself.
"""

import asyncio
import heapq
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from loadtests.arrivals import DueCount, Schedule, constant
from loadtests.hiccup import HiccupMeter
from loadtests.options import WRITER_MAX, OptionParser, file_stem, positive, url_path, whole
from loadtests.probe import Prober, Reply
from loadtests.protocol import (
    EXIT_FAILED,
    EXIT_FINE,
    EXIT_UNUSABLE,
    IN_FLIGHT_GRACE_S,
    STATUS_EVERY_S,
    Channel,
    Counts,
    UnusableInputError,
    complain,
    read_environment,
)
from loadtests.spread import Spread
from metrics.history import FAIL, OK, PROBE, Recorder


class Probing:
    """A run of the prober: starts probes on schedule, records each, counts them."""

    def __init__(self, prober: Prober, recorder: Recorder, schedule: Schedule) -> None:
        self._prober = prober
        self._recorder = recorder
        self._schedule = schedule
        self._due = DueCount(schedule)
        self._start_ns = 0
        self._end_ns: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble: BaseException | None = None
        self._processes = 0
        self._free_processes: list[int] = []
        self._started = 0
        self._ok = 0
        self._fail = 0
        self._lateness = Spread()

    async def run(self, stop: asyncio.Event) -> None:
        """Probes until `stop` is set, then awaits what is in flight.

        Raises:
            OSError: the history cannot be written.
        """
        stopped = asyncio.create_task(stop.wait())
        self._start_ns = time.monotonic_ns()
        for number, offset_s in enumerate(self._schedule()):
            intended_ns = self._start_ns + round(offset_s * 1e9)
            while not stop.is_set() and (ahead_ns := intended_ns - time.monotonic_ns()) > 0:
                await asyncio.wait({stopped}, timeout=ahead_ns / 1e9)
            if stop.is_set():
                self._end_ns = self._end_ns or time.monotonic_ns()
                if intended_ns > self._end_ns:
                    break
            if self._trouble is not None:
                stop.set()
                break
            self._lateness.add(time.monotonic_ns() - intended_ns)
            self._started += 1
            self._spawn(self._probe(intended_ns, fresh=number % 2 == 0))
        await stopped
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=IN_FLIGHT_GRACE_S)
        self._prober.close()
        if self._trouble is not None:
            raise self._trouble

    def counts(self) -> Counts:
        """The running totals now."""
        until_ns = time.monotonic_ns() if self._end_ns is None else self._end_ns
        due = max(self._due.by((until_ns - self._start_ns) / 1e9), self._started) if self._start_ns else 0
        return Counts(
            intended=due,
            started=self._started,
            completed=self._ok + self._fail,
            ok=self._ok,
            fail=self._fail,
            # Nothing keeps a probe from starting; while the run goes on, one that is due wakes within the tick.
            unsent=0 if self._end_ns is None else due - self._started,
            lateness_p50_s=self._lateness.quantile_s(0.5),
            lateness_p99_s=self._lateness.quantile_s(0.99),
            lateness_max_s=self._lateness.max_s,
        )

    def _spawn(self, probe: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(probe)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble = self._trouble or error

    async def _probe(self, intended_ns: int, *, fresh: bool) -> None:
        # A logical client does one thing at a time; when probes overlap, more of them take turns.
        if self._free_processes:
            process = heapq.heappop(self._free_processes)
        else:
            process, self._processes = self._processes, self._processes + 1
        mode = {"mode": "fresh" if fresh else "keepalive"}
        operation = self._recorder.invoke(PROBE, process=process, intended_ns=intended_ns, value=mode)
        reply: Reply = await self._prober.probe(operation.index, fresh=fresh)
        heapq.heappush(self._free_processes, process)
        outcome = OK if reply.error is None else FAIL
        self._ok += outcome == OK
        self._fail += outcome == FAIL
        self._recorder.complete(operation, outcome, error=reply.error, node=reply.node, attempt=reply.attempt)


async def _serve(probing: Probing, recorder: Recorder, channel: Channel) -> None:
    """Probes until SIGTERM, SIGINT, or until nobody reads the channel any more."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    meter = HiccupMeter(
        lambda end_ns, stalled_ns: _soon(loop, lambda: channel.say("hiccup", t_ns=end_ns, stalled_ns=stalled_ns))
    )
    meter.start()
    channel.say("ready")
    running = asyncio.create_task(probing.run(stop))
    try:
        while not running.done():
            await asyncio.wait({running}, timeout=STATUS_EVERY_S)
            recorder.flush()
            if not running.done():
                channel.say_counts("status", probing.counts())
                if not channel.heard:
                    stop.set()
    finally:
        meter.stop()
        stop.set()  # recording may have failed
        await asyncio.wait({running})
        failed = running.exception()
    if failed is not None:
        raise failed


def _soon(loop: asyncio.AbstractEventLoop, say: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(say)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the prober and gives its exit code."""
    options = _parser().parse_args(arguments)
    channel = Channel()
    try:
        given = read_environment(os.environ)
        try:
            recorder = Recorder(given.run_dir, name=options.name, writer=options.writer)
        except FileExistsError as error:
            raise UnusableInputError(f"{error.filename} exists; choose another --name") from error
    except UnusableInputError as error:
        complain(f"loadtests.prober: {error}")
        return EXIT_UNUSABLE
    prober = Prober(address=given.address, path=options.path, timeout_s=options.timeout)
    probing = Probing(prober, recorder, constant(1 / options.interval))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(probing, recorder, channel))
        recorder.close()
    except OSError as error:
        complain(f"loadtests.prober: cannot record what it sees: {error}")
        return EXIT_FAILED
    channel.say_counts("finished", probing.counts())
    return EXIT_FINE


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, which comes with the reference platform; asyncio's own loop where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="loadtests.prober",
        description="Ask for a path at a fixed rate, over fresh and kept connections in turn, and record every answer.",
        epilog="example: python -m loadtests.prober --path /v1/status --interval 0.02",
        allow_abbrev=False,
    )
    parser.add_argument("--path", type=url_path, required=True, help="what to GET")
    parser.add_argument("--interval", type=positive, default=0.02, help="seconds between probes (0.02)")
    parser.add_argument("--timeout", type=positive, default=1.0, help="seconds for a probe, connecting included (1)")
    parser.add_argument("--name", type=file_stem, default="prober", help="of this writer's history file (prober)")
    parser.add_argument("--writer", type=whole(0, WRITER_MAX), default=0, help="number of this writer in the run (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
