"""A runner killed at each step of the life of a run leaves nothing, whatever it was about to do next."""

import time
from pathlib import Path

import pytest

from tests.integration.engine.bench import Bench
from tests.integration.killed.moments import GONE_WITHIN_S, await_event, ended_afterwards, holdfast, look
from tests.integration.killed.traces import Traces

FAULTS = [
    {"pause": {"role": "portal", "count": 1, "for": "300ms"}},
    {"kill": {"role": "portal", "count": 1, "restart_after": "300ms"}},
]
STEPS = (
    "run.started",
    "instance.started",
    "instance.ready",
    "target.started",
    "phase.started warmup",
    "load.started",
    "load.ready",
    "phase.started baseline",
    "baseline.judged",
    "phase.started faults",
    "fault.undo_recorded",
    "fault.injected",
    "fault.effect",
    "fault.healed",
    "fault.heal_proven",
    "phase.started recovery",
    "phase.started quiet",
    "load.finished",
    "phase.ended",
    "instance.exited front-1",
    "target.stopped",
    "run.ended",
)

pytestmark = [pytest.mark.prove, pytest.mark.parametrize("step", STEPS)]


def test_nothing_is_left_of_a_runner_that_is_killed_at_a_step_of_its_life(tmp_path: Path, step: str) -> None:
    """SIGKILL as soon as the step stands in the event log; what the run had by then is looked for until it is gone."""
    kind, _, which = step.partition(" ")
    experiment = Bench(folder=tmp_path).write(faults=FAULTS)
    with ended_afterwards(holdfast(tmp_path, "run", experiment)) as runner:
        run_dir = await_event(
            runner,
            tmp_path,
            experiment,
            lambda event: event.kind == kind and which in {"", event.instance, event.data.get("phase")},
            every_s=0.001,
        )
        runner.kill()
        traces = Traces.of(run_dir)
        runner.wait()
    left, _ = look(traces, None, began_s=time.monotonic(), within_s=GONE_WITHIN_S)

    assert left == []
