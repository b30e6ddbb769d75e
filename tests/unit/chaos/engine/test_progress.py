"""The progress of a run: plain lines where nobody watches, one live line on a terminal."""

import asyncio
import io
import os
import pty
import time

import pytest

from chaos.engine.progress import Progress, show


def some_progress() -> Progress:
    """In the middle of the faults, with counts of both clients."""
    progress = Progress()
    progress.begin("faults", planned_s=20.0)
    for client, completed, failed in (("prober", 50, 1), ("load", 300, 2)):
        progress.take(client, {"completed": 0})
        before_s, _ = progress._seen[client]
        progress._seen[client] = (before_s - 1.0, 0)
        progress.take(client, {"completed": completed, "fail": failed, "declined": 0})
    return progress


def test_a_line_tells_phase_time_left_rate_and_errors() -> None:
    """Rate and errors are the load's; failed probes are told apart, since no client of the service was hurt."""
    line = some_progress().line()

    assert line.startswith("faults")
    assert "20 s left" in line
    assert abs((some_progress().rate_per_s or 0) - 300) < 3
    assert "2 errors   probes failed: 1" in line


async def showing(progress: Progress, out: object) -> None:
    """Shows until the note has been taken."""
    task = asyncio.create_task(show(progress, out))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while progress.notes:  # noqa: ASYNC110  (a list has no event)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_where_nobody_watches_plain_lines_are_written() -> None:
    """No control characters; notes are lines of their own."""
    progress, out = some_progress(), io.StringIO()
    progress.notes.append("guardrail error_rate")
    await showing(progress, out)

    assert "guardrail error_rate\n" in out.getvalue()
    assert "faults" in out.getvalue()
    assert "\x1b" not in out.getvalue()


async def test_on_a_terminal_one_line_is_kept_up_to_date() -> None:
    """A real pseudo-terminal gets control sequences and the line."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        progress = some_progress()
        progress.notes.append("a note")
        await showing(progress, terminal)
        terminal.flush()
        written = ""
        while "faults" not in written or "a note" not in written:
            written += os.read(ours, 65_536).decode()
    os.close(ours)

    assert "\x1b[" in written


async def test_a_reader_that_has_gone_away_ends_the_showing_and_nothing_else() -> None:
    """`holdfast run ... 2>&1 | head` closes our pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as out:
        await asyncio.wait_for(show(some_progress(), out), 5)
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def test_a_step_without_a_plan_has_no_time_left() -> None:
    """Nobody knows how long a target takes to start."""
    progress = Progress()
    progress.begin("starting")
    began_s = time.monotonic()

    assert "left" not in progress.line()
    assert time.monotonic() - began_s < 1
