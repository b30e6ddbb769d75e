"""Ending early: one reason, once, and whatever must be finished is finished."""

import asyncio
import os
import signal

import pytest

from chaos.engine.switch import EndEarly, Reason, Switch, uninterrupted
from chaos.errors import TargetError

REASON = Reason(outcome="error", text="enough")


async def test_a_body_that_ends_by_itself_gives_no_reason() -> None:
    """Nothing was requested."""
    assert await Switch(tell=print).run(asyncio.sleep(0)) is None


async def test_a_request_cancels_the_body_and_the_first_reason_counts() -> None:
    """The body would wait for ever; it sees its cancellation and can clean up."""
    switch, cleaned = Switch(tell=print), []

    async def body() -> None:
        try:
            switch.request(REASON)
            switch.request(Reason(outcome="guardrail", text="later"))
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    assert await switch.run(body()) is REASON
    assert cleaned == [True]


async def test_the_body_can_end_itself_for_a_reason_and_its_errors_come_out() -> None:
    """EndEarly is a way out; anything else is the caller's to see."""

    async def leave() -> None:
        raise EndEarly(REASON)

    async def break_down() -> None:
        raise ValueError("a bug")

    assert await Switch(tell=print).run(leave()) is REASON
    with pytest.raises(ValueError, match="a bug"):
        await Switch(tell=print).run(break_down())


@pytest.mark.parametrize("error", [TargetError("the database is gone"), OSError("no space")])
async def test_what_fails_while_a_body_is_being_ended_does_not_change_why_it_ends(error: Exception) -> None:
    """The reason was there first; the failure is told beside it. A bug of ours still comes out."""
    told: list[str] = []
    switch = Switch(tell=told.append)

    async def body(failure: Exception) -> None:
        try:
            switch.request(REASON)
            await asyncio.Event().wait()
        finally:
            raise failure

    assert await switch.run(body(error)) is REASON
    assert told == [f"while ending: {error}"]
    with pytest.raises(ValueError, match="a bug"):
        await switch.run(body(ValueError("a bug")))


async def test_the_first_signal_ends_the_run_and_the_second_only_says_so() -> None:
    """Real signals to this very process."""
    repeated: list[str] = []
    switch = Switch(tell=repeated.append)

    async def body() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            while not repeated:  # noqa: ASYNC110  (a list has no event)
                await asyncio.sleep(0)

    with switch.on_signals():
        reason = await switch.run(body())
    assert reason == Reason(outcome="interrupted", text="interrupted by SIGTERM", signal="SIGTERM")
    assert len(repeated) == 1
    assert "SIGINT: already ending" in repeated[0]


async def test_uninterrupted_work_is_finished_before_the_caller_is_cancelled() -> None:
    """Cancelled three times while it works."""
    release, finished = asyncio.Event(), []

    async def work() -> None:
        await release.wait()
        finished.append(True)

    caller = asyncio.create_task(uninterrupted(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert finished == [True]
