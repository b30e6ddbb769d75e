"""A swarm on a real system that two faults at once bring down: found, kept, repeated, and shrunk to those two.

Of the tiny system two nodes serve. With one killed or hung the other answers; with both of them gone nobody does. Which
seed draws that is asked of the drawing itself, before anything is run.
"""

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chaos.cli import execute
from chaos.preparing import Prepared
from chaos.swarm.file import read_swarm, spans_of
from chaos.swarm.shrinking import Failure, Odds, Search, StoppedError
from chaos.swarm.stored import differences, read_stored
from metrics.events import Event, read_events
from tests.integration.engine.bench import SYSTEM, Bench, await_event

if TYPE_CHECKING:
    import subprocess

SWARM = {
    "title": "two nodes",
    "target": str(SYSTEM),
    "set": {"portal.count": 2},
    "swarm": {"at_once": 2, "in_all": 3, "state": "stage", "states": ["open"]},
    "phases": {"warmup": "200ms", "baseline": "400ms", "faults": "2500ms", "recovery": "300ms", "quiet": "5s"},
    "faults": [
        {"kill": {"role": "portal", "instance": "portal-1", "restart_after": {"between": ["1200ms", "1500ms"]}}},
        {"pause": {"role": "portal", "instance": "portal-2", "for": {"between": ["1200ms", "1500ms"]}}},
    ],
    "expect": [{"longest_gap": {"max": "700ms"}}],
}
"""Both are gone together for a second in the seed that is taken; a second is more than the gap that is allowed."""
DOWN = Failure(exit_code=1, expectations=frozenset({"longest_gap"}))
UP = Failure(exit_code=0, expectations=frozenset())


def _deadly(ready: Prepared) -> bool:
    """Whether both nodes are gone together for a second."""
    spans = spans_of(ready.plan)
    by_node: dict[str, list[tuple[float, float]]] = {"portal-1": [], "portal-2": []}
    for one, span in zip(ready.plan.timeline, spans, strict=True):
        by_node[one.instances[0]].append(span)
    return any(
        min(first[1], second[1]) - max(first[0], second[0]) >= 1.0
        for first in by_node["portal-1"]
        for second in by_node["portal-2"]
    )


def _results(bench: Bench) -> list[dict[str, Any]]:
    (path,) = (bench.folder / "runs").glob("swarm-*.ndjson")
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


@pytest.mark.timeout(240)
def test_a_failing_seed_is_found_kept_and_repeated(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The deadly seed, interrupted in the next; the same command has nothing to do for what is finished; a replay."""
    path = bench.folder / "swarm.yaml"
    path.write_text(json.dumps(SWARM))
    drawn = read_swarm(path)
    seed = next(seed for seed in range(1000) if _deadly(drawn.experiment(seed)[0]))
    process = bench.start("swarm", path, "--seeds", "2", "--first-seed", str(seed))
    with _killed_at_the_end(process):
        await_event(process, bench, lambda event: _second(bench) and event.kind == "fault.effect")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 130, stderr
    assert f"seed {seed}: fail: " in stdout
    assert "interrupted by SIGINT; the same command goes on from here" in stdout
    (result,) = _results(bench)
    assert (result["seed"], result["exit_code"]) == (seed, 1), stderr
    assert {"kill portal-1", "pause portal-2"} <= {other for one in result["proven"] for other in one["beside"]}
    assert {one["state"] for one in result["proven"]} == {"open"}

    with contextlib.chdir(bench.folder):
        assert execute(["swarm", str(path), "--seeds", "1", "--first-seed", str(seed), "--json"]) == 1
        told = json.loads(capsys.readouterr().out)
        assert told["failing"] == [seed]
        assert told["coverage"]["rows"]["kill portal-1"]["+ pause portal-2"] == 1
        assert len(_runs(bench)) == 2, "a finished seed was run again"

        stored = bench.folder / "runs" / result["run"]
        assert execute(["replay", str(stored), "--json"]) == 1
        again = json.loads(capsys.readouterr().out)
    assert again["then"] == again["verdict"]["verdict"] == "fail"
    assert again["changes"] == again["differences"] == []
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (stored, Path(again["run"]))]
    assert plans[0] == plans[1]

    _shrinks_to_the_two(stored)


def _shrinks_to_the_two(stored: Path) -> None:
    """The search itself, on what the run left, with answers as the system would give them."""
    asked: list[Prepared] = []

    def run(ready: Prepared, _told: str) -> Failure:
        asked.append(ready)
        return DOWN if _deadly(ready) else UP

    search = Search(stored=read_stored(stored), events=list(read_events(stored)), odds=Odds(needed=2, of=3), run=run)

    search.go()
    assert search.minimal
    assert search.found is not None
    assert sorted(one.name for one in search.found.faults) == ["kill", "pause"]
    text = search.text(search.found)
    file = stored.parent / "shrunk.yaml"
    file.write_text(text)
    assert execute(["validate", str(file)]) == 0
    assert not [one for one in asked if len(one.plan.timeline) > len(search.stored.plan["timeline"])]
    _a_search_that_is_stopped_keeps_what_it_has(search)


def _a_search_that_is_stopped_keeps_what_it_has(search: Search) -> None:
    """After four runs: the whole was seen to fail by then."""
    left = iter([DOWN, DOWN])

    def run(_ready: Prepared, _told: str) -> Failure:
        try:
            return next(left)
        except StopIteration:
            raise StoppedError("the time is up") from None

    stopped = replace(search, run=run, found=None, minimal=False, runs=0)
    with pytest.raises(StoppedError):
        stopped.go()
    assert stopped.found is not None
    assert not stopped.minimal
    never = replace(search, run=lambda _ready, _told: UP, found=None, minimal=False, runs=0)
    never.go()
    assert (never.found, never.minimal, never.runs) == (None, False, 2), "two of three that pass decide"


def test_a_replay_says_where_it_went_another_way() -> None:
    """Another leader, a fault that did not play, and what is the same is not told."""

    def event(kind: str, fault_id: str, **data: Any) -> Event:
        return Event(t_ns=1, kind=kind, fault_id=fault_id, instance=None, data=data)

    then = [
        event("fault.chosen", "kill-1", instances=["portal-1"], evidence={}),
        event("fault.effect", "kill-1", proven=True, evidence={}),
        event("fault.triggered", "pause-1", by={"reading": "queue", "value": 12}, at_s=1.5),
    ]
    now = [
        event("fault.chosen", "kill-1", instances=["portal-2"], evidence={}),
        event("fault.effect", "kill-1", proven=True, evidence={}),
        event("fault.failed", "pause-1", step="wait", error="queue never came"),
    ]

    assert differences(then, then) == []
    assert differences(then, now) == [
        "kill-1: whom it took: then portal-1, now portal-2",
        "pause-1: what it waited for: then queue 12, now nothing",
        "pause-1: wait failed: then nothing, now queue never came",
    ]


@pytest.mark.parametrize(
    ("needed", "answers", "fails", "asked"),
    [
        (2, "ff", True, 2),
        (2, "pp", False, 2),
        (2, "fpf", True, 3),
        (1, "f", True, 1),
        (1, "ppf", True, 3),
        (3, "ffp", False, 3),
    ],
)
def test_runs_are_repeated_only_until_it_is_decided(needed: int, answers: str, fails: bool, asked: int) -> None:  # noqa: FBT001
    """`f` is a run that fails; of three at most."""
    given = iter(answers)

    assert Odds(needed=needed, of=3).decide(lambda: next(given) == "f") is fails
    assert len(answers) - len(list(given)) == asked


def _runs(bench: Bench) -> list[Path]:
    return [path.parent for path in (bench.folder / "runs").glob("*/run.json") if not path.parent.is_symlink()]


def _second(bench: Bench) -> bool:
    return len(_runs(bench)) == 2


@contextlib.contextmanager
def _killed_at_the_end(process: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
