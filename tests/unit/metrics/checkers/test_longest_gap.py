from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.checkers import parse_expectation
from metrics.evidence import Evidence
from metrics.findings import Finding, Grade
from metrics.notation import rows_of
from metrics.probing import gaps, outages
from tests.run_folders import Folder, probes
from tests.unit.metrics.evidences import evidence_of


def _judged(folder: Folder, limit: str = "250ms") -> Finding:
    return parse_expectation({"longest_gap": {"max": limit}}).judge(folder.evidence())


@pytest.mark.parametrize(
    ("lost", "gap_s", "grade"),
    [
        ((4.0, 4.0), 0.02, Grade.PASS),
        ((4.0, 4.2), 0.22, Grade.PASS),
        ((4.0, 4.24), 0.26, Grade.FAIL),
        ((9.6, 10.0), 0.4, Grade.FAIL),  # never good again: until the last probe's answer
        ((1.0, 1.4), 0.401, Grade.FAIL),  # from the start of the window
    ],
)
def test_the_gap_is_the_time_between_successes_that_arrive(
    tmp_path: Path, lost: tuple[float, float], gap_s: float, grade: Grade
) -> None:
    """Probes every 20 ms with answers after 1 ms, lost in a known stretch; its bounds differ by two intervals."""
    finding = _judged(Folder(path=tmp_path, probes=probes(lost)))

    assert finding.value == pytest.approx(gap_s, abs=1e-6)
    assert finding.grade is grade
    low_s, high_s = finding.witness[0]["bounds_s"]
    assert high_s - low_s == pytest.approx(min(0.04, high_s), abs=1e-6)


def test_a_slow_success_is_a_gap_too(tmp_path: Path) -> None:
    """No probe fails, but nothing arrives for 400 ms."""
    slow = [
        f"probe @{1 + n * 0.02:.2f} +{0.401 - (n - 150) * 0.02 if 150 <= n < 170 else 0.001:.3f} ok" for n in range(450)
    ]

    assert _judged(Folder(path=tmp_path, probes="\n".join(slow))).value == pytest.approx(0.42, abs=0.021)


def test_a_freeze_of_the_machine_excuses_only_its_own_time(tmp_path: Path) -> None:
    """A gap of 320 ms, of which the machine was frozen for 200 ms, is the harness's; one of 1 s is not."""
    frozen = _judged(Folder(path=tmp_path / "a", probes=probes((4.0, 4.3)), hiccups=[(4.25, 0.2)]))
    real = _judged(Folder(path=tmp_path / "b", probes=probes((4.0, 5.0)), hiccups=[(4.25, 0.2)]))

    assert frozen.grade is Grade.PASS
    assert [one["label"] for one in frozen.witness] == ["service", "harness"]
    assert real.grade is Grade.FAIL
    assert real.value == pytest.approx(1.02 - 0.2, abs=1e-6)


def test_too_many_gaps_put_down_to_freezes_are_unknown(tmp_path: Path) -> None:
    """Four excused gaps are one more than may be."""
    stretches = [(4.0 + one, 4.3 + one) for one in range(4)]
    folder = Folder(path=tmp_path, probes=probes(*stretches), hiccups=[(4.25 + one, 0.2) for one in range(4)])

    assert _judged(folder).grade is Grade.UNKNOWN


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("", "asked nothing"),
        (probes(end=6.0), "silent for"),
        (probes(start=3.0), "at the beginning"),
        (probes(end=4.0) + "\n" + probes(start=6.0), "in between"),
        (probes((1.0, 10.0)), "no probe succeeded"),
    ],
)
def test_a_prober_that_did_not_look_is_no_pass(tmp_path: Path, asked: str, why: str) -> None:
    """Silence is neither up nor down."""
    finding = _judged(Folder(path=tmp_path, probes=asked), limit="1h")

    assert finding.grade is Grade.UNKNOWN
    assert why in finding.detail


ANSWERS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["ok", "fail !refused", ""])), min_size=2, max_size=25)


@given(ANSWERS)
def test_gaps_and_outages_agree_with_a_walk_through_time(answers: list[tuple[int, str]]) -> None:
    """Random answers to probes every 100 ms, compared with a naive model that walks from probe to probe."""
    lines = [
        f"probe @{1 + number * 0.1:.3f}" + (f" +{took / 100:.2f} {outcome}" if outcome else "")
        for number, (took, outcome) in enumerate(answers)
    ]
    evidence = evidence_of(rows_of("\n".join(lines)), baseline=(1.0, 9.0))

    marks = _naive_marks(answers)
    naive = sorted((b - a for a, b in pairwise(marks) if b > a), reverse=True)
    assert [gap.end_ns - gap.start_ns for gap in gaps(evidence)] == naive
    assert [(one.probes, round(one.high_s, 3)) for one in outages(evidence)] == _naive_outages(evidence, answers)


def _naive_marks(answers: list[tuple[int, str]]) -> list[int]:
    arrived = []
    until = 0
    for number, (took, outcome) in enumerate(answers):
        asked_ns = 1_000_000_000 + number * 100_000_000
        if outcome == "ok":
            arrived.append(asked_ns + took * 10_000_000)
        else:
            until = max(until, asked_ns + (took * 10_000_000 if outcome else 0))
    marks = [1_000_000_000, *sorted(arrived)]
    return [*marks, until] if until > marks[-1] else marks


def _naive_outages(evidence: Evidence, answers: list[tuple[int, str]]) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    in_a_row = 0
    for _, outcome in [*answers, (0, "ok")]:
        if outcome != "ok":
            in_a_row += 1
        elif in_a_row:
            found.append((in_a_row, round((in_a_row + 1) * 0.1, 3)))
            in_a_row = 0
    assert len(evidence.probes) == len(answers)
    return found
