"""Guardrails: they trip on what clients see, not on too little of it, and not on what was before they were armed."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.engine.surroundings import Waits
from chaos.engine.watch import Tripped, Watch
from chaos.errors import TargetError
from chaos.guardrails import (
    ErrorRate,
    FreeDisk,
    FreeMemory,
    Guardrail,
    Latency,
    Looking,
    ReadingLimit,
    Sample,
    StopFile,
    available_memory,
    percentile_99,
)
from metrics.history import OK, Follower, Recorder

LIMIT = ErrorRate(max_ratio=0.2, over_s=5.0)


def samples(*rows: tuple[float, int, int]) -> list[Sample]:
    """Rows of (seconds, ok, failed), running totals."""
    return [Sample(t_s=t_s, ok=ok, failed=failed) for t_s, ok, failed in rows]


@pytest.mark.parametrize(
    ("seen", "value"),
    [
        ([], None),
        (samples((0, 0, 0)), None),
        (samples((0, 0, 0), (4.9, 10, 90)), None),
        (samples((0, 0, 0), (5, 90, 10)), 0.1),
        (samples((0, 100, 100), (5, 110, 130)), 0.75),
        (samples((0, 0, 0), (3, 0, 50), (8, 100, 50)), 0.0),
        (samples((0, 5, 5), (5, 5, 5)), None),
    ],
    ids=["nothing", "one", "too short", "a tenth", "totals", "only the window", "nobody answered"],
)
def test_the_error_rate_is_that_of_its_window(seen: Sequence[Sample], value: float | None) -> None:
    """Computed by hand; without a whole window or any answer there is no value."""
    assert LIMIT.value(seen) == value


def test_a_watch_trips_once_and_only_on_what_came_after_it_was_armed() -> None:
    """All 50 failures happened in warm-up; then a window of 0 s looks at each step."""
    tripped: list[Tripped] = []
    watch = Watch(guardrails=[("error_rate", ErrorRate(max_ratio=0.5, over_s=1e-9))], on_trip=tripped.append)
    watch.take("load", {"ok": 0, "fail": 50})
    watch.arm()
    watch.take("load", {"ok": 0, "fail": 50})
    watch.take("load", {"ok": 10, "fail": 50, "declined": 0})
    assert tripped == []

    watch.take("load", {"ok": 10, "fail": 58, "info": 1, "declined": 0})
    watch.take("load", {"ok": 10, "fail": 70})
    assert [(one.guardrail, one.client, one.value) for one in tripped] == [("error_rate", "load", 1.0)]


def test_answers_that_decline_are_no_failures() -> None:
    """A correct no, such as too little money, is what the service is for."""
    tripped: list[Tripped] = []
    watch = Watch(guardrails=[("error_rate", ErrorRate(max_ratio=0.1, over_s=1e-9))], on_trip=tripped.append)
    watch.arm()
    watch.take("load", {"ok": 0, "fail": 0, "declined": 0})
    watch.take("load", {"ok": 5, "fail": 5, "declined": 5})

    assert tripped == []


def test_a_watch_keeps_no_more_than_its_windows_need() -> None:
    """A long run must not grow: ten thousand samples, of which a window of a nanosecond needs two at most."""
    watch = Watch(guardrails=[("error_rate", ErrorRate(max_ratio=1.0, over_s=1e-9))], on_trip=lambda _: None)
    watch.arm()
    for number in range(10_000):
        watch.take("load", {"ok": number})

    assert sum(map(len, watch._samples.values())) <= 2


@pytest.mark.parametrize(
    ("guardrail", "kept", "broken", "told"),
    [
        (ErrorRate(max_ratio=0.2), 0.2, 0.25, "25.0%, limit 20.0%"),
        (Latency(p99_s=0.5), 0.5, 0.75, "p99 750 ms, limit 500 ms"),
        (ReadingLimit(observe="depth", maximum=10.0), 10.0, 11.0, "depth is 11, allowed is at most 10"),
        (ReadingLimit(observe="nodes", minimum=2.0), 2.0, 1.0, "nodes is 1, allowed is at least 2"),
        (ReadingLimit(observe="nodes", minimum=2.0), "two", 1.5, "nodes is 1.5, allowed is at least 2"),
        (StopFile(path="/there/stop"), "absent", "exists", "/there/stop exists"),
        (FreeDisk(min_bytes=2_000_000), 2e6, 1e6, "the disk has 1 MB left, at least 2 MB must be"),
        (FreeMemory(min_bytes=2_000_000), 2e6, 1e6, "the machine's memory has 1 MB left"),
    ],
)
def test_a_value_at_its_limit_is_kept_and_one_beyond_is_told(
    guardrail: Guardrail, kept: float | str, broken: float | str, told: str
) -> None:
    """The limit itself is allowed."""
    assert guardrail.told(kept) is None
    assert (guardrail.told(broken) or "").startswith(told)


def test_a_percentile_needs_enough_values_and_is_the_smallest_that_most_do_not_exceed() -> None:
    """99 values give none; of a hundred the second largest, of a thousand the eleventh largest."""
    assert percentile_99([1.0] * 99) is None
    assert percentile_99([float(n) for n in range(100)]) == 98.0
    assert percentile_99([float(n) for n in reversed(range(1000))]) == 989.0


def test_available_memory_is_what_the_kernel_says() -> None:
    """A piece of the real file, in kB."""
    assert available_memory("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:     12 kB\n") == 12 * 1024


def test_waits_count_from_when_an_operation_was_due_and_go_on_until_it_is_answered(tmp_path: Path) -> None:
    """Written by a real recorder and followed twice: an answer, one that hangs, one that is forgotten."""
    now_ns = time.monotonic_ns()
    recorder, follower, waits = Recorder(tmp_path, name="load", writer=1), Follower(tmp_path), Waits()
    hangs = recorder.invoke("read", process=1, intended_ns=now_ns - 8_000_000_000)
    answered = recorder.invoke("read", process=2, intended_ns=now_ns - 1_000_000_000)
    recorder.flush()
    waits.take(follower.more())
    recorder.complete(answered, OK)
    recorder.flush()
    rows = follower.more()
    waits.take(rows)

    assert [row.index for row in rows] == [answered.index]
    assert follower.more() == []
    ended_ns = rows[0].t_ns
    assert sorted(waits.over(5.0, now_ns=ended_ns)) == [(ended_ns - now_ns) / 1e9 + 1, (ended_ns - now_ns) / 1e9 + 8]
    recorder.complete(hangs, OK)
    recorder.close()
    waits.take(follower.more())
    assert waits.over(0.001, now_ns=time.monotonic_ns() + 2_000_000_000) == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """This machine and a folder on it; there is no target."""

    run_dir: Path

    async def observe(self, reading: str) -> float | str:
        raise TargetError(f"nobody answers for {reading}")

    async def latencies_s(self, over_s: float) -> list[float]:
        return [over_s] * 99


async def test_the_machine_is_really_looked_at(tmp_path: Path) -> None:
    """Disk and memory of this machine, and a file before and after it is there; a watch trips on that alone.

    What cannot be read (the reading) or is too little to judge (the latency) trips nothing.
    """
    here, stop = Here(run_dir=tmp_path), StopFile(path=str(tmp_path / "stop"))
    free: list[Looking] = [FreeDisk(min_bytes=1), FreeMemory(min_bytes=1)]
    enough = [await one.look(here) for one in free]
    assert all(one.told(value or 0.0) is None for one, value in zip(free, enough, strict=True))
    assert 1e6 < float(enough[1] or 0.0) < 1e14
    assert FreeDisk(min_bytes=2**60).told(enough[0] or 0.0) is not None

    tripped: asyncio.Queue[Tripped] = asyncio.Queue()
    others: list[Guardrail] = [ReadingLimit(observe="depth", maximum=0.0), Latency(p99_s=1e-6), *free]
    guardrails: list[tuple[str, Guardrail]] = [(type(one).__name__, one) for one in (*others, stop)]
    watch = Watch(guardrails=guardrails, on_trip=tripped.put_nowait)
    watch.arm()
    looking = asyncio.create_task(watch.look_on(here))
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tripped.get(), 0.6)
        (tmp_path / "stop").touch()
        first = await asyncio.wait_for(tripped.get(), 20)
        assert (first.guardrail, first.value, first.client) == ("StopFile", "exists", None)
        assert not watch.armed
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
