"""A command that still injects when its runner dies must not do its harm after the heal."""

import time
from pathlib import Path

from chaos.undo import pending
from tests.integration.engine.bench import LIMIT_S, Bench, await_event
from tests.integration.killed.moments import await_that, look
from tests.integration.killed.traces import Traces, registered

WAITS_FOR_THE_HEAL = "while [ ! -e go ]; do sleep 0.02; done; touch harm"
HEALS = "rm -f harm; touch go; sleep 0.5"
"""So long an injection that lives on has for its harm after it was healed."""


def test_an_injection_that_goes_on_when_its_runner_dies_does_no_harm_after_the_heal(tmp_path: Path) -> None:
    """It waits for a sign that only the heal gives: whoever healed while it still lived would find the harm there."""
    bench = Bench(folder=tmp_path)
    shell = {"inject": ["sh", "-c", WAITS_FOR_THE_HEAL], "heal": ["sh", "-c", HEALS]}
    faults = [{"command": {**shell, "effect": ["test", "-e", "harm"], "for": "20s"}}]
    runner = bench.start("run", bench.write(faults=faults, phases={"faults": "60s"}))
    try:
        await_event(runner, bench, lambda event: event.kind == "fault.undo_recorded")
        # Runner, watchdog, five instances, prober, and the command.
        await_that(lambda: len(set(registered(bench.latest))) == 9, runner, every_s=0.01)
        traces = Traces.of(bench.latest)
    finally:
        runner.kill()
        runner.communicate(timeout=LIMIT_S)
    left, _ = look(traces, None, began_s=time.monotonic(), within_s=LIMIT_S)

    assert left == []
    assert pending(bench.latest) == ()
    assert (tmp_path / "go").exists(), "it was not healed"
    assert not (tmp_path / "harm").exists()
