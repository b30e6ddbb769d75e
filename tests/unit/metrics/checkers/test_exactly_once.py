from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from metrics.notation import rows_of
from tests.run_folders import Folder, ledger_of, savings
from tests.unit.metrics.evidences import evidence_of

EXPECTED = {"exactly_once": {"dump": "ledger", "operations": ["deposit", "redeem"]}}
FEW = "deposit k1 100 @4 +0.01 ok\nredeem k2 50 @4.1 +0.4 info !timeout\ndeposit k3 7 @4.2 +0.01 fail !refused"


def _paid(key: str | None, amount: Any = 100, kind: str = "deposit") -> dict[str, Any]:
    return {"row": "transfer", "transfer": key, "kind": kind, "debit": "cash", "credit": "a", "amount": amount,
            "key": key, "t": 0}  # fmt: skip


def _judged(rows: Sequence[dict[str, Any]], clients: str = FEW, path: Path | None = None, **folder: Any) -> Finding:
    expectation = parse_expectation(EXPECTED)
    if path is None:
        return expectation.judge(evidence_of(rows_of(clients), dump=rows, faults=(3, 8)))
    return expectation.judge(Folder(path=path, clients=clients, dumps={"ledger": list(rows)}, **folder).evidence())


def test_a_correct_target_passes(tmp_path: Path) -> None:
    """Every acknowledged deposit once, nothing else but the platform's own rows."""
    clients = savings()
    finding = _judged(ledger_of(clients), clients, tmp_path)

    assert (finding.grade, finding.value) == (Grade.PASS, 0)
    assert "200 acknowledged operations against 200 effects" in finding.detail


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([], "lost"),
        ([_paid("k1"), _paid("k1")], "duplicate"),
        ([_paid("k1"), _paid("k2", 50, "redeem"), _paid("k2", 50, "redeem")], "duplicate"),
        ([_paid("k1"), _paid("k3", 7)], "ghost"),
        ([_paid("k1"), _paid("nobody")], "ghost"),
        ([_paid("k1"), _paid(None)], "ghost"),
        ([_paid("k1", 99)], "wrong_amount"),
        ([_paid("k1"), _paid("k2", 51, "redeem")], "wrong_amount"),
        ([_paid("k1", kind="redeem")], "wrong_amount"),
    ],
)
def test_whatever_is_not_exactly_once_fails_and_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], wrong: str
) -> None:
    """One deviation at a time against a history of one ok, one unknown and one failed operation."""
    finding = _judged(rows, path=tmp_path)

    assert finding.grade is Grade.FAIL
    assert finding.witness[0]["wrong"] == wrong


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([_paid("k1")], "0 had happened and 1 had not"),
        ([_paid("k1"), _paid("k2", 50, "redeem")], "1 had happened and 0 had not"),
    ],
)
def test_unknown_outcomes_are_resolved_by_their_key(rows: list[dict[str, Any]], told: str, tmp_path: Path) -> None:
    """The redemption that timed out happened or did not; both are fine, and said."""
    finding = _judged(rows, path=tmp_path)

    assert finding.grade is Grade.PASS
    assert told in finding.detail


def test_tries_under_one_key_are_one_operation(tmp_path: Path) -> None:
    """Refused, then unknown, then acknowledged under one key: one effect is right, two are not."""
    tries = "deposit k 5 @4 +0.1 fail !refused\ndeposit k 5 @5 +0.1 info\ndeposit k 5 @6 +0.1 ok replayed"

    assert _judged([_paid("k", 5)], tries, tmp_path / "a").grade is Grade.PASS
    assert _judged([_paid("k", 5)] * 2, tries, tmp_path / "b").grade is Grade.FAIL


def test_the_platform_s_own_kinds_are_none_of_ours(tmp_path: Path) -> None:
    """Seed money and interest are not asked for by clients."""
    assert (
        _judged([_paid("k1"), _paid(None, kind="seed"), _paid("i", kind="interest")], path=tmp_path).grade is Grade.PASS
    )


@pytest.mark.parametrize("problem", ["missing", "torn", "short", "garbage", "misshapen", "another"])
def test_a_dump_that_cannot_be_trusted_is_unknown(tmp_path: Path, problem: str) -> None:
    """The file is absent, cut off, shorter than reported, no JSON, of another shape, or under another name."""
    folder = Folder(path=tmp_path, clients=savings(), dumps={"ledger": ledger_of(savings())})
    folder.write()
    path = tmp_path / "final" / "ledger.ndjson"
    lines = path.read_text().splitlines(keepends=True)
    if problem == "missing":
        path.unlink()
    elif problem == "another":
        path.rename(path.with_name("accounts.ndjson"))
    else:
        damaged = {
            "torn": "".join(lines)[:-5],
            "short": "".join(lines[:-1]),
            "garbage": "".join([*lines[:-1], "{{{\n"]),
            "misshapen": "".join([*lines[:-1], '{"row": "transfer"}\n']),
        }
        path.write_text(damaged[problem])

    from metrics.evidence import load

    finding = parse_expectation(EXPECTED).judge(load(tmp_path))

    assert finding.grade is Grade.UNKNOWN
    assert "unusable" in finding.detail


def test_effects_without_a_known_asker_are_unknown_where_the_record_is_not_whole(tmp_path: Path) -> None:
    """The load died and may have asked without writing it down; a lost deposit is lost all the same."""
    died = {"returncode": -9, "intended": 3, "started": 3, "unsent": 0}

    assert _judged([_paid("k1"), _paid("nobody")], path=tmp_path / "a", load=died).grade is Grade.UNKNOWN
    assert _judged([_paid("nobody")], path=tmp_path / "b", load=died).grade is Grade.FAIL


def test_other_systems_tell_their_effects_in_a_simpler_form(tmp_path: Path) -> None:
    """`effects/1`: present once passes, twice fails, another value fails."""
    one = {"f": "deposit", "key": "k1", "value": {"amount": 100}}
    for number, (rows, grade) in enumerate(
        [([one], Grade.PASS), ([one, one], Grade.FAIL), ([{**one, "value": {"amount": 1}}], Grade.FAIL)]
    ):
        assert _judged(rows, path=tmp_path / str(number)).grade is grade


def test_without_keys_or_acknowledgements_nothing_is_shown(tmp_path: Path) -> None:
    """An ok without a key cannot be looked up; no ok at all proves nothing."""
    assert _judged([], "deposit @4 +0.1 ok", tmp_path / "a").grade is Grade.UNKNOWN
    assert _judged([], "deposit k 1 @4 +0.1 fail !refused", tmp_path / "b").grade is Grade.UNKNOWN


KEYS = st.sampled_from(["a", "b", "c"])
TRIES = st.lists(st.tuples(KEYS, st.sampled_from(["ok", "fail", "info", ""]), st.sampled_from([1, 2])), max_size=6)
EFFECTS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.sampled_from([1, 2])), max_size=6)


@given(TRIES, EFFECTS)
def test_it_agrees_with_a_naive_model(tries: list[tuple[str, str, int]], effects: list[tuple[str, int]]) -> None:
    """Random tries and effects over few keys, against a model that asks each key in turn."""
    clients = "\n".join(
        f"deposit {key} {amount} @{4 + n / 10}" + (f" +0.01 {outcome}" if outcome else "")
        for n, (key, outcome, amount) in enumerate(tries)
    )
    finding = _judged([_paid(key, amount) for key, amount in effects], clients)

    # Not a target of its own and no load planned: ghosts are doubtful there, so the model counts the others.
    wrong = {key for key in "abc" if _naive_wrong(key, tries, effects)}
    ghosts = {key for key, _ in effects if all(outcome == "fail" for k, outcome, _ in tries if k == key)}
    assert finding.value == len(wrong)
    if wrong:
        assert finding.grade is Grade.FAIL
    else:
        acknowledged = any(outcome == "ok" for _, outcome, _ in tries)
        assert finding.grade is (Grade.PASS if acknowledged and not ghosts else Grade.UNKNOWN)


def _naive_wrong(key: str, tries: list[tuple[str, str, int]], effects: list[tuple[str, int]]) -> bool:
    told = [(outcome or "info", amount) for k, outcome, amount in tries if k == key]
    present = [amount for k, amount in effects if k == key]
    outcomes = Counter(outcome for outcome, _ in told)
    if not outcomes["ok"] and not outcomes["info"]:
        return False
    if len(present) != 1:
        return len(present) > 1 or outcomes["ok"] > 0
    strongest = "ok" if outcomes["ok"] else "info"
    return present[0] not in [amount for outcome, amount in told if outcome == strongest]
