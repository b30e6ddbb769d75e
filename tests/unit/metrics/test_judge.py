import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from metrics import history
from metrics.findings import Grade
from metrics.judge import check, judge, judge_baseline
from metrics.verdict import verdict_schema
from tests.run_folders import KILL, Folder, event, ledger_of, probes, savings, write_bin

LOST = "\nredeem r1 10 @5 +0.001 fail !refused"
EVERYTHING: list[dict[str, Any]] = [
    {"failed": {"max": 0}},
    {"availability": {"min": "99%"}},
    {"longest_gap": {"max": "250ms"}},
    {"downtime": {"max": "1s"}},
    {"latency": {"p99": "500ms"}},
    {"recovery": {"max": "2s"}},
    {"exactly_once": {"dump": "ledger", "operations": ["deposit", "redeem"]}},
    {"ledger": {"balanced": True}},
    {"sometimes": {"during": "kill", "operation": "deposit"}},
    {"observed": {"reading": "retries", "increase": {"min": 1}}},
    {"versions": {"min": 1}},
    {"spread": {"min": 4}},
]


PROBED: dict[str, Any] = {"expect": [{"longest_gap": {"max": "250ms"}}]}
"""An expectation that asks nothing of the clients' requests."""
WHOLE_LOAD: dict[str, Any] = {"intended": 200, "started": 200, "unsent": 0, "returncode": 0}


def _everything(path: Path) -> Folder:
    readings = [(1.0, "retries", 0), (9.9, "retries", 3)]
    clients = savings() + "\nredeem r0 10 @6 +0.005 ok portal-1@v1"
    dumps = {"ledger": ledger_of(clients)}
    return Folder(path=path, clients=clients, expect=list(EVERYTHING), dumps=dumps, readings=readings)


def _ended(outcome: str, signal: str | None = None, *left: str) -> dict[str, Any]:
    return {"outcome": outcome, "signal": signal, "left": list(left)}


def _of_fault(*events: Mapping[str, Any]) -> list[dict[str, Any]]:
    told: dict[str, Any] = {"fault": "kill", "instances": ["portal-2"], "params": {}}
    return [event(4, "fault.injected", fault_id="kill-1", **told), *map(dict, events)]


EFFECT = event(4.1, "fault.effect", fault_id="kill-1", proven=True, evidence={})
HEALED = event(5, "fault.healed", fault_id="kill-1")
PROVEN = event(5.1, "fault.heal_proven", fault_id="kill-1", proven=True, evidence={})


def test_a_clean_run_passes_every_checker(tmp_path: Path) -> None:
    """Nothing was lost, the fault bit and was healed: exit 0, no reasons, and a document that keeps its schema."""
    verdict = judge(_everything(tmp_path).write())

    assert (verdict.word, verdict.exit_code, verdict.reasons) == ("pass", 0, ())
    assert {finding.grade for finding in verdict.expectations} == {Grade.PASS}
    assert verdict.operations["ok"] == 201
    assert verdict.faults[0].effect
    assert verdict.faults[0].healed
    jsonschema.validate(json.loads(verdict.to_json()), verdict_schema())


def test_a_load_that_nobody_got_to_start_is_no_reason_of_its_own(tmp_path: Path) -> None:
    """Interrupted in warm-up: that there was no load yet says nothing that the interruption does not."""
    folder = Folder(path=tmp_path, phases={"warmup": (0.0, 1.0)}, clients="", probes="", fault_events=[])
    run_dir = dataclasses.replace(folder, ended=_ended("interrupted", "SIGINT")).write()
    events = (run_dir / "events.ndjson").read_text().splitlines()
    kept = [line for line in events if '"load.finished"' not in line]
    (run_dir / "events.ndjson").write_text("\n".join(kept) + "\n")
    verdict = judge(run_dir)

    assert verdict.exit_code == 130
    assert not [one for one in verdict.reasons if one.startswith("the load")]


@pytest.mark.parametrize(
    ("change", "exit_code", "reason"),
    [
        ({"clients": savings() + LOST}, 1, "FAIL failed: 1 of 201 requests"),
        ({"expect": []}, 2, "nothing was expected"),
        ({"clients": "", "probes": ""}, 2, "no operation was recorded"),
        ({"clients": "deposit k 1 @4 +0.1 info", "probes": probes((1, 10)), "expect": [{"failed": {"max": 9}}]}, 2,
         "no operation succeeded"),
        ({"clients": "deposit k 1 @4 +0.1 info", **PROBED}, 2, "no request of a client succeeded"),
        ({"clients": "deposit k 1 @0.5 +0.1 ok", **PROBED}, 2, "no request of a client succeeded"),
        ({"load": None, "clients": "", **PROBED}, 0, ""),
        ({"load": {**WHOLE_LOAD, "returncode": None}, **PROBED}, 2, "the load ended without an exit status"),
        ({"load": {**WHOLE_LOAD, "returncode": -9}, **PROBED}, 2, "the load ended with exit status -9"),
        ({"load": {**WHOLE_LOAD, "started": 100}, **PROBED}, 2, "the load started only 50.0% of its arrivals"),
        ({"load": {**WHOLE_LOAD, "unsent": 3}, **PROBED}, 2, "3 arrivals were never sent"),
        ({"more_events": [event(10.15, "load.finished", instance="prober", returncode=None)], **PROBED}, 2,
         "the prober ended without an exit status"),
        ({"timeline": []}, 2, "no fault was planned or injected"),
        ({"fault_events": []}, 2, "never injected: kill-1"),
        ({"fault_events": [event(4, "fault.failed", fault_id="kill-1", step="inject", error="no such process")]}, 2,
         "could not be injected: no such process"),
        ({"fault_events": _of_fault({**EFFECT, "data": {"proven": False}}, HEALED, PROVEN)}, 2,
         "effect was not proven"),
        ({"fault_events": _of_fault(HEALED, PROVEN)}, 2, "effect was not proven"),
        ({"fault_events": _of_fault(EFFECT, HEALED, {**PROVEN, "data": {"proven": False}})}, 5, "heal is not proven"),
        ({"fault_events": _of_fault(EFFECT, HEALED)}, 5, "heal is not proven"),
        ({"fault_events": _of_fault(EFFECT, event(5, "fault.failed", fault_id="kill-1", step="heal", error="x"))}, 5,
         "heal is not proven"),
        ({"ended": _ended("completed", None, "kill-1: portal-2 is down; run holdfast heal")}, 5, "left dirty: kill-1"),
        ({"more_events": [event(12, "target.stopped", leftovers=["process 77"])]}, 5, "left dirty: process 77"),
        ({"ended": _ended("interrupted", "SIGINT")}, 130, "interrupted by SIGINT"),
        ({"ended": _ended("interrupted", "SIGTERM")}, 143, "interrupted by SIGTERM"),
        ({"ended": _ended("interrupted", "SIGTERM", "portal-2 stopped")}, 5, "left dirty"),
        ({"ended": _ended("guardrail"), "clients": savings() + LOST}, 4, "stopped by a guardrail"),
        ({"ended": _ended("baseline_not_met"), "clients": savings() + LOST, "fault_events": []}, 3,
         "baseline was not met"),
        ({"ended": _ended("error")}, 2, "ended with an error"),
        ({"ended": None}, 2, "never said how it ended"),
        ({"ended": None, "clients": savings() + LOST}, 1, "FAIL failed"),
        ({"hiccups": [(6, 0.3)]}, 2, "frozen for 6.0% of the faults phase"),
        ({"phases": {"baseline": (1.0, 3.0), "faults": (3.0, 8.0)}}, 2, "lacks its recovery"),
        ({"expect": [{"no_such": {}}]}, 2, "no checker called 'no_such'"),
        ({"expect": [{"failed": {"max": 0}}, {"failed": {"max": "x"}}]}, 2, "cannot be used"),
    ],
)  # fmt: skip
def test_each_way_to_end_has_its_exit_code_and_reason(
    tmp_path: Path, change: dict[str, Any], exit_code: int, reason: str
) -> None:
    """One deviation from a clean pass at a time."""
    verdict = judge(dataclasses.replace(Folder(path=tmp_path), **change).write())

    assert verdict.exit_code == exit_code
    assert reason in "\n".join(verdict.reasons)
    jsonschema.validate(json.loads(verdict.to_json()), verdict_schema())


def test_a_change_is_kept_and_need_not_heal(tmp_path: Path) -> None:
    """A deploy has no time to heal after; its effect is what counts."""
    deploy = {**KILL, "fault_id": "deploy-1", "fault": "deploy", "heal_after_s": None}
    verdict = judge(Folder(path=tmp_path, timeline=[deploy]).write())

    assert verdict.exit_code == 0
    assert verdict.faults[0].kept


def test_a_heal_that_needed_a_second_try_is_healed(tmp_path: Path) -> None:
    """The first try failed, the second is proven."""
    tried = event(5, "fault.failed", fault_id="kill-1", step="heal", error="port in use")
    folder = Folder(path=tmp_path, fault_events=_of_fault(EFFECT, tried, HEALED, PROVEN))

    assert judge(folder.write()).exit_code == 0


def test_what_the_watchdog_took_back_is_not_left(tmp_path: Path) -> None:
    """The runner was killed with a fault in force; the watchdog's word on what is left counts."""
    acted = event(6, "watchdog.acted", by="watchdog", undone=["kill-1"], killed=[])
    verdict = judge(
        Folder(path=tmp_path, fault_events=_of_fault(EFFECT), ended=_ended("error"), more_events=[acted]).write()
    )

    assert verdict.exit_code == 2
    assert verdict.left == []


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    """Judged twice, written twice, and judged as a copy with another name below another folder."""
    run_dir = _everything(tmp_path / "a").write()
    check(run_dir)
    names = ("verdict.json", "junit.xml", "summary.md")
    first = {name: (run_dir / name).read_bytes() for name in names}
    check(run_dir)
    shutil.copytree(run_dir, tmp_path / "b" / "copy")
    check(tmp_path / "b" / "copy")

    assert {name: (run_dir / name).read_bytes() for name in names} == first
    assert {name: (tmp_path / "b" / "copy" / name).read_bytes() for name in names} == first


def test_a_recording_gives_the_same_verdict_as_the_sealed_history(tmp_path: Path) -> None:
    """The same run with and without `history.parquet`."""
    sealed = judge(_everything(tmp_path / "a").write())
    recorded = judge(dataclasses.replace(_everything(tmp_path / "b"), sealed=False).write())

    assert recorded.to_json() == sealed.to_json()


def _damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _damage_garbage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff" * 40 + data[len(data) // 2 + 40 :])


def _damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def _damage_remove(path: Path) -> None:
    path.unlink()


def _damage_double(path: Path) -> None:
    path.with_name("again.bin" if path.suffix == ".bin" else f"again-{path.name}").write_bytes(path.read_bytes())


def _damage_foreign(path: Path) -> None:
    path.write_bytes(b"\x00\x01[1, 2" * 50)


def _damage_list(path: Path) -> None:
    path.write_bytes(b"[1, null]\n[2]\n")


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    "name", ["run.json", "plan.json", "events.ndjson", "history/load.bin", "history/prober.bin", "history.parquet",
             "final/ledger.ndjson"])  # fmt: skip
@pytest.mark.parametrize(
    "damage",
    [_damage_truncate, _damage_garbage, _damage_empty, _damage_remove, _damage_double, _damage_foreign, _damage_list],
)
def test_damage_to_any_file_is_never_a_traceback_and_what_counts_is_never_a_pass(
    tmp_path: Path,
    damage: Any,
    name: str,
    sealed: bool,  # noqa: FBT001
) -> None:
    """Every file cut off, overwritten, emptied, removed, doubled, or replaced by something else.

    The recording is not looked at where a sealed history stands; a sealed one that is damaged is replaced by
    it, and said to be damaged.
    """
    run_dir = dataclasses.replace(_everything(tmp_path), sealed=sealed).write()
    if name == "history.parquet" and not sealed:
        (run_dir / name).write_bytes(b"PAR1 no sealed history PAR1")
    damage(run_dir / name)
    verdict = judge(run_dir)

    unread = name.endswith(".bin") and sealed
    harmless = damage is _damage_double and not name.endswith(".bin") and (sealed or name != "history.parquet")
    absent = name == "history.parquet" and damage is _damage_remove
    assert (verdict.exit_code == 0) is (unread or harmless or absent), verdict.reasons


def test_rows_that_no_recorder_writes_are_told_and_not_trusted(tmp_path: Path) -> None:
    """The checksum holds, but the batch has rows of another shape or values of another type."""
    for number, row in enumerate([[1, 2, 3], [1, "a", 0, 0, 0, "f", None, None, None, None, 0],
                                  [1 << 63, 0, 0, 0, 0, "f", None, None, None, None, 0],
                                  [1, 0, 0, 0, 9, "f", None, None, None, None, 0],
                                  [1, 0, 0, 0, 0, None, None, None, None, None, 0]]):  # fmt: skip
        run_dir = dataclasses.replace(_everything(tmp_path / str(number)), sealed=False).write()
        write_bin(run_dir / "history" / "odd.bin", [row])  # type: ignore[list-item]
        verdict = judge(run_dir)

        assert verdict.exit_code != 0
        assert verdict.measuring["history"]["damaged"]


def test_a_clock_that_went_backwards_is_unknown(tmp_path: Path) -> None:
    """A completion before its invocation."""
    folder = dataclasses.replace(Folder(path=tmp_path), sealed=False)
    run_dir = folder.write()
    rows = [
        history.Row(1 << 50, 5 * 10**9, 5 * 10**9, 1, history.INVOKE, "deposit", "z", None, None, None, 0),
        history.Row(1 << 50, 4 * 10**9, 5 * 10**9, 1, history.OK, "deposit", "z", None, None, None, 0),
    ]
    write_bin(run_dir / "history" / "clock.bin", rows)

    assert judge(run_dir).exit_code == 2


def test_damage_found_when_sealing_is_remembered(tmp_path: Path) -> None:
    """A torn recording is sealed; the sealed file alone still says so."""
    folder = dataclasses.replace(Folder(path=tmp_path), sealed=False)
    run_dir = folder.write()
    _damage_truncate(run_dir / "history" / "load.bin")
    history.seal(run_dir, {})
    shutil.rmtree(run_dir / "history")

    assert "damaged from byte" in judge(run_dir).measuring["history"]["damaged"][0]


def test_a_torn_event_log_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    """Cut anywhere in its last events a run is unknown; a foreign line in the middle is named by its number."""
    run_dir = Folder(path=tmp_path).write()
    path = run_dir / "events.ndjson"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert "never said how it ended" in "\n".join(judge(run_dir).reasons)

    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{oops\n", *lines[3:]]))
    verdict = judge(run_dir)
    assert verdict.exit_code == 2
    assert "events.ndjson:4: not an event" in "\n".join(verdict.reasons)


def test_the_baseline_is_judged_on_what_was_observed_in_it(tmp_path: Path) -> None:
    """While the run goes on: failures of the baseline count, later ones and final dumps do not."""
    live: dict[str, Any] = {
        "expect": EVERYTHING,
        "phases": {"warmup": (0.0, 1.0), "baseline": (1.0, 3.0)},
        "load": None,
        "fault_events": [],
        "ended": None,
        "sealed": False,
        "timeline": [KILL],
        "probes": probes(end=3.0),
    }
    clients = savings(end=3.0)
    broken = clients + "\ndeposit b 1 @2 +0.1 fail !refused"
    hanging = clients + "\ndeposit b 1 @2.9"
    idle = "\n".join(f"deposit b{n} 1 @{1.5 + n / 100} +0.001 fail !refused" for n in range(100))
    for name, history_text, failing in (
        ("good", clients, []),
        ("broken", broken, ["failed"]),
        ("hanging", hanging, []),
        ("idle", idle, ["failed", "availability"]),
    ):
        folder = Folder(path=tmp_path / name, clients=history_text, **live)
        folder.write()
        # The engine judges it as it stands then: without the events of what comes later.
        events = [json.loads(line) for line in (folder.path / "events.ndjson").read_text().splitlines()]
        kept = [json.dumps(one) for one in events if one["t_ns"] <= 3_000_000_000]
        (folder.path / "events.ndjson").write_text("\n".join(kept) + "\n")
        findings = judge_baseline(folder.path)

        assert [one.name for one in findings if one.grade is Grade.FAIL] == failing
        assert {one.name for one in findings} == {
            "baseline", "failed", "availability", "longest_gap", "downtime", "latency:p99"
        }  # fmt: skip


def test_a_baseline_without_any_success_does_not_hold(tmp_path: Path) -> None:
    """No client and no probe was answered, and no expectation would have noticed."""
    folder = Folder(path=tmp_path, clients="", probes=probes((1.0, 10.0)), expect=[{"ledger": {}}], sealed=False)
    findings = judge_baseline(folder.write())

    assert [(one.name, one.grade) for one in findings] == [("baseline", Grade.FAIL)]


def test_a_baseline_in_which_only_probes_succeed_does_not_hold_where_clients_were_planned(tmp_path: Path) -> None:
    """Every client is refused and every probe answered; without planned clients the probes are enough."""
    refused = "\n".join(f"deposit b{n} 1 @{1.5 + n / 100} +0.001 fail !refused" for n in range(100))
    told: dict[str, Any] = {"expect": [{"longest_gap": {"max": "250ms"}}], "sealed": False}
    loaded = Folder(path=tmp_path / "loaded", clients=refused, **told)
    probed = Folder(path=tmp_path / "probed", clients="", load=None, **told)

    assert judge_baseline(loaded.write())[0].grade is Grade.FAIL
    assert judge_baseline(probed.write())[0].grade is Grade.PASS


def _exited(at: float, *, expected: bool = False) -> dict[str, Any]:
    return event(at, "instance.exited", instance="portal-3", returncode=1, expected=expected)


@pytest.mark.parametrize(
    ("change", "exit_code"),
    [
        ({"more_events": [_exited(6.5)]}, 1),
        ({"more_events": [_exited(0.5)]}, 1),
        ({"more_events": [_exited(10.9)]}, 1),
        ({"more_events": [_exited(6.5, expected=True)]}, 0),
        ({"more_events": [_exited(11.05)]}, 0),  # the run is taking the target down
        ({"more_events": [_exited(6.5)], "ended": _ended("interrupted", "SIGINT")}, 130),
        ({"more_events": [_exited(6.5)], "ended": _ended("guardrail")}, 4),
        ({"more_events": [_exited(-0.1)], "ended": _ended("error")}, 2),  # it did not even start
    ],
)
def test_a_process_of_the_target_that_ends_by_itself_fails_the_run(
    tmp_path: Path, change: dict[str, Any], exit_code: int
) -> None:
    """Nothing was lost and every probe answered, yet a node crashed and no fault of ours did it."""
    verdict = judge(Folder(path=tmp_path, **change).write())

    assert verdict.exit_code == exit_code, verdict.reasons
    named = [one for one in verdict.expectations if one.name == "unexpected_exit"]
    assert [one.grade for one in named] == ([Grade.FAIL] if exit_code in (1, 4) else [])


def test_an_unexpected_exit_is_told_with_instance_time_status_and_log(tmp_path: Path) -> None:
    """The finding carries all of it, and JUnit shows it as a failure."""
    verdict = check(Folder(path=tmp_path, more_events=[_exited(6.5)]).write())
    (finding,) = [one for one in verdict.expectations if one.name == "unexpected_exit"]

    assert finding.witness == [
        {"instance": "portal-3", "at_s": 3.5, "returncode": 1, "log": "logs/portal-3.log", "fault": None}
    ]
    assert "portal-3 ended by itself at 3.50 s with exit status 1" in "\n".join(verdict.reasons)
    assert '<testcase name="unexpected_exit"' in (tmp_path / "junit.xml").read_text()


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path: Path) -> None:
    """An error that names the folder and what is missing."""
    with pytest.raises(ValueError, match="no run lies here"):
        judge(tmp_path)


def test_expectations_of_one_kind_have_names_of_their_own(tmp_path: Path) -> None:
    """Two limits for one percentile."""
    entry = {"latency": {"p99": "500ms"}}
    verdict = judge(Folder(path=tmp_path, expect=[entry, entry]).write())

    assert [one.name for one in verdict.expectations] == ["latency:p99", "latency:p99 #2"]


def test_a_checker_that_breaks_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error stands in the finding and the run is no pass."""
    from metrics.checkers.failed import Failed

    def broken(_checker: Failed, _evidence: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(Failed, "check", broken)
    verdict = judge(Folder(path=tmp_path).write())

    assert verdict.exit_code == 2
    assert "ZeroDivisionError: by nothing" in verdict.expectations[0].detail
