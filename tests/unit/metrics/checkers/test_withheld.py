"""The checker of closed reads on a fault that shuts the gate, on windows, and on answers that hold no number."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metrics.checkers import parse_expectation
from metrics.evidence import Evidence
from metrics.findings import Finding, Grade
from metrics.operations import Text
from tests.run_folders import Folder, event, savings

DURING = {"operation": "balance", "during": "action"}
DUMPED = {"operation": "balance", "dump": "windows"}
WALL_S = 1_700_000_000
"""The wall time at monotonic zero, as the folder's anchor says."""
SHUT: list[dict[str, Any]] = [
    event(4, "fault.injected", fault_id="action-1", fault="action", instances=[], params={}),
    event(4.5, "fault.effect", fault_id="action-1", proven=True, evidence={"gate": "shut"}),
    event(6.4, "fault.healed", fault_id="action-1"),
    event(6.5, "fault.heal_proven", fault_id="action-1", proven=True, evidence={}),
]
PLANNED: dict[str, Any] = {
    "fault_id": "action-1", "fault": "action", "at_s": 1.0, "heal_after_s": 2.0, "instances": [],
}  # fmt: skip


def shut_gate(path: Path, *lines: str, **changes: Any) -> Folder:
    """A run whose fault was proven at 4.5 s; its heal began at 6 s and was done at 6.4 s."""
    clients = "\n".join([savings(), *lines])
    return Folder(path=path, clients=clients, **{"timeline": [PLANNED], "fault_events": SHUT, **changes})


def window(change: str, at_s: float, number: int = 1) -> dict[str, Any]:
    """An event of a window, recorded `at_s` seconds after monotonic zero."""
    return {"row": "event", "window": number, "revision": 1, "change": change, "planned_start": 0, "planned_end": 2700,
            "published_end": 2700, "business_at": 60.0 * at_s, "recorded_at": WALL_S + at_s}  # fmt: skip


def judged(folder: Folder, entry: dict[str, Any]) -> Finding:
    """The finding on this folder."""
    return parse_expectation({"withheld": entry}).judge(folder.evidence())


@pytest.mark.parametrize(
    ("line", "grade"),
    [
        ("balance @5 +0.1 ok", Grade.FAIL),
        ("balance @4.2 ~4.6 +0.1 ok", Grade.FAIL),  # meant to start before, started while it was shut
        ("balance @4.45 +0.1 ok", Grade.UNKNOWN),  # under way when the effect was proven
        ("balance @6.1 +0.1 ok", Grade.UNKNOWN),  # the heal had begun
        ("balance @5 +0.1 fail !http-503", Grade.PASS),
        ("balance @5", Grade.PASS),
        ("deposit x 1 @5 +0.1 ok", Grade.UNKNOWN),
    ],
)
def test_no_number_is_shown_from_the_proven_effect_to_the_begin_of_the_heal(
    tmp_path: Path, line: str, grade: Grade
) -> None:
    """The gate is shut from 4.5 to 6 s; what counts is when a request was sent."""
    assert judged(shut_gate(tmp_path, line), DURING).grade is grade


def test_the_first_requests_that_got_a_number_are_told(tmp_path: Path) -> None:
    """Seven did, in the order of their time; one was refused."""
    lines = [f"balance @5.{number} +0.01 ok portal-1" for number in range(1, 8)]
    finding = judged(shut_gate(tmp_path, *lines, "balance @5.05 +0.1 fail !http-503"), DURING)

    assert (finding.value, len(finding.witness)) == (7, 5)
    assert finding.witness[0]["start_s"] == pytest.approx(2.1)
    assert finding.witness[0]["end_s"] == pytest.approx(2.11)
    assert "8 balance begun in 1 time of closed reads" in finding.detail


def test_a_fault_that_was_not_proven_or_is_kept_shows_nothing(tmp_path: Path) -> None:
    """Without proof the service may have been healthy; what a kept change started may be over."""
    unproven = [one | ({"data": {"proven": False}} if one["kind"] == "fault.effect" else {}) for one in SHUT]
    shown = "balance @5 +0.1 ok"

    assert judged(shut_gate(tmp_path / "a", shown, fault_events=unproven), DURING).grade is Grade.UNKNOWN
    kept = [{**PLANNED, "heal_after_s": None}]
    assert judged(shut_gate(tmp_path / "b", shown, timeline=kept), DURING).grade is Grade.UNKNOWN
    assert judged(shut_gate(tmp_path / "c", shown), {**DURING, "during": "kill"}).grade is Grade.UNKNOWN


@pytest.mark.parametrize(
    ("line", "grade"),
    [
        ("balance @4.11 +0.01 ok", Grade.FAIL),
        ("balance @5.89 +0.01 ok", Grade.FAIL),
        ("balance @4.09 +0.01 ok", Grade.UNKNOWN),
        ("balance @5.91 +0.01 ok", Grade.UNKNOWN),
        ("balance @6.5 +0.1 ok", Grade.UNKNOWN),  # between two windows
        ("balance @7.5 +0.1 ok", Grade.FAIL),  # the second one was never opened
        ("balance @5 +0.1 fail !http-503", Grade.PASS),
    ],
)
def test_no_number_is_shown_in_a_window_from_closed_to_opened(tmp_path: Path, line: str, grade: Grade) -> None:
    """Closed from 4 to 6 s and from 7 s on, in wall time, with 100 ms left out at each end."""
    windows = [window("draining", 3.5), window("closed", 4), window("verifying", 5), window("opened", 6),
               window("closed", 7, number=2)]  # fmt: skip
    folder = Folder(path=tmp_path, clients=f"{savings()}\n{line}", dumps={"windows": windows})

    assert judged(folder, DUMPED).grade is grade


def test_a_dump_without_closed_windows_or_a_run_without_anchor_shows_nothing(tmp_path: Path) -> None:
    """Nor does a dump that is missing."""
    shown = f"{savings()}\nbalance @5 +0.1 ok"
    windows = [window("closed", 4), window("opened", 6)]

    for name, dumps, run, told in (
        ("missing", {}, {}, "there is none of that name"),
        ("none", {"windows": [window("scheduled", 4)]}, {}, "no window was closed"),
        ("anchor", {"windows": windows}, {"clock": None}, "no clock anchor"),
    ):
        finding = judged(Folder(path=tmp_path / name, clients=shown, dumps=dumps, run=run), DUMPED)
        assert finding.grade is Grade.UNKNOWN
        assert told in finding.detail


def answering(evidence: Evidence, value: Any) -> Evidence:
    """The same run with every answer to `balance` saying this."""
    operations = evidence.operations
    codes = np.where(operations.f.equals("balance"), 0, -1)
    text = Text(codes=codes, names=[json.dumps(value)])
    return replace(evidence, operations=replace(operations, answered=text))


@pytest.mark.parametrize(
    ("value", "grade"),
    [
        ({"state": "synchronising"}, Grade.PASS),
        ({"balance": None, "head": None}, Grade.PASS),
        ({"balance": 0, "head": 3}, Grade.FAIL),
        ({"head": 3}, Grade.FAIL),
        ("text", Grade.FAIL),
    ],
)
def test_an_answer_without_a_number_is_no_success(tmp_path: Path, value: Any, grade: Grade) -> None:
    """A session that waits to be synchronised is answered, and told nothing."""
    evidence = answering(shut_gate(tmp_path, "balance @5 +0.1 ok").evidence(), value)

    assert parse_expectation({"withheld": DURING}).judge(evidence).grade is grade
