"""A runner killed at any moment, with any faults in force, leaves no fault and no process: within 5 s."""

import itertools
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chaos.faults.fault import FAULTS
from tests.integration.killed.moments import GONE_WITHIN_S, Outcome, Up, await_that, held_up, holdfast, play
from tests.integration.killed.results import REPOSITORY, Results
from tests.integration.killed.soundness import unsound

MOMENTS = 100
SHORT_ATTACHED = (5, 11, 19)
SHORT_OWN = (24, 43)
"""Drawn so that most kinds are in force once."""
PATIENT_S = 20.0
KILLED_TOGETHER = 5
"""Of so many runs that are attached, the watchdog dies with the runner in one."""


def attached(number: int) -> bool:
    """Whether the moment of that number strikes a run that is attached; each kind leads on either side in turn."""
    return number // len(list(FAULTS)) % 2 == 0


def lane(
    folder: Path, numbers: Iterable[int], *, up: bool, results: Results | None, stop: threading.Event
) -> list[Outcome]:
    """Plays moments one after the other until `stop`; what one leaves is cleared before the next one comes."""
    folder.mkdir()
    asked = itertools.takewhile(lambda _: not stop.is_set(), numbers)
    # What is kept is the proof; what is not shares its two processors with other tests, and says nothing of speed.
    within_s = PATIENT_S if results is None else GONE_WITHIN_S
    if not up:
        return [kept(play(folder, number, up=None, within_s=within_s), results) for number in asked]
    outcomes = []
    with held_up(folder) as held:
        for number in asked:
            both = number % KILLED_TOGETHER == 0
            outcome = play(folder, number, up=held, both=both, within_s=within_s)
            outcomes.append(kept(cleared(folder, held, outcome), results))
    return outcomes


def kept(outcome: Outcome, results: Results | None) -> Outcome:
    """The outcome, written down where it is to be."""
    if results is not None:
        results.add(outcome)
    return outcome


def cleared(folder: Path, up: Up, outcome: Outcome) -> Outcome:
    """The outcome; the target is sound again, whatever the run has left."""
    if outcome.left:
        healing = holdfast(folder, "heal")
        healing.wait(timeout=60)
        await_that(lambda: not unsound(up.state_file, up.sound), up.holder)
    return outcome


def side_by_side(
    tmp_path: Path, on_target_held_up: Iterable[int], on_own: Iterable[int], results: Results | None = None
) -> list[Outcome]:
    """Both kinds of moments at the same time, as far as two processors allow."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=2) as pool:
        lanes = [
            pool.submit(lane, tmp_path / "up", on_target_held_up, up=True, results=results, stop=stop),
            pool.submit(lane, tmp_path / "own", on_own, up=False, results=results, stop=stop),
        ]
        try:
            return [outcome for one in lanes for outcome in one.result()]
        finally:
            stop.set()  # who is interrupted waits for the two moments that go on, not for all that were to come


@pytest.mark.timeout(300)
def test_nothing_is_left_of_a_runner_that_is_killed_while_faults_are_in_force(tmp_path: Path) -> None:
    """Five moments: three of runs on a target that stays up, of which one loses its watchdog too; two of own targets.

    Everything is looked up in /proc, at the target's servers and in its database, and compared with before.
    """
    outcomes = side_by_side(tmp_path, SHORT_ATTACHED, SHORT_OWN)

    assert len(outcomes) == len(SHORT_ATTACHED) + len(SHORT_OWN)
    assert [outcome for outcome in outcomes if outcome.left] == []
    assert sum(len(outcome.in_force) for outcome in outcomes) >= 2 * len(outcomes), "hardly anything was in force"


@pytest.mark.prove
def test_nothing_is_left_at_any_of_a_hundred_moments_with_faults_of_every_kind_in_force(tmp_path: Path) -> None:
    """100 of 100, and no registered kind that was never in force. What was shown of this very code is not repeated."""
    results = Results(REPOSITORY / "runs" / "prove" / "killed-runners.ndjson")
    missing = [number for number in range(MOMENTS) if number not in results.good()]
    on_target_held_up = [number for number in missing if attached(number)]
    on_own = [number for number in missing if not attached(number)]
    bad = [outcome for outcome in side_by_side(tmp_path, on_target_held_up, on_own, results) if outcome.left]

    assert bad == []
    good = results.good().values()
    assert len(good) == MOMENTS
    assert {kind for outcome in good for kind in outcome.in_force} == set(FAULTS)
