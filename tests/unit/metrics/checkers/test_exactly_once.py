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
DEPOSITS = {"exactly_once": {"dump": "ledger", "operations": ["deposit"]}}
FEW = """deposit k1 100 @4 +0.01 ok
redeem k2 50 @4.1 +0.4 info !timeout
deposit k3 7 @4.2 +0.01 fail !refused
redeem k4 1 @4.3 +0.01 ok"""
"""What became of k4 is always right, so that both kinds were acknowledged."""


def _paid(key: str | None, amount: Any = 100, kind: str = "deposit", account: str = "a") -> dict[str, Any]:
    debit, credit = ("cash", account) if kind == "deposit" else (account, "cash")
    return {"row": "transfer", "transfer": key, "kind": kind, "debit": debit, "credit": credit, "amount": amount,
            "key": key, "t": 0}  # fmt: skip


def _effect(key: str, account: str | None) -> dict[str, Any]:
    return {"f": "deposit", "key": key, "value": {"amount": 100, **({"account": account} if account else {})}}


HOLDERS = [
    {"row": "account", "account": name, "kind": kind, "balance": None}
    for name, kind in (("a", "customer"), ("b", "customer"), ("cash", "platform"))
]


def _judged(rows: Sequence[dict[str, Any]], clients: str = FEW, path: Path | None = None, **folder: Any) -> Finding:
    # Of a kind that no client asked for nothing would be shown.
    expectation = parse_expectation(EXPECTED if "redeem" in clients else DEPOSITS)
    if clients == FEW:
        rows = [*rows, _paid("k4", 1, "redeem")]
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
    one, clients = _effect("k1", None), "deposit k1 100 @4 +0.01 ok"
    for number, (rows, grade) in enumerate(
        [([one], Grade.PASS), ([one, one], Grade.FAIL), ([{**one, "value": {"amount": 1}}], Grade.FAIL)]
    ):
        assert _judged(rows, clients, tmp_path / str(number)).grade is grade


OWNED = """deposit k1 100 a @4 +0.01 ok
redeem k2 50 a @4.1 +0.4 info !timeout
redeem k3 7 b @4.2 +0.01 ok"""
RIGHT = [*HOLDERS, _paid("k1"), _paid("k2", 50, "redeem"), _paid("k3", 7, "redeem", "b")]


@pytest.mark.parametrize(
    ("place", "row", "wrong"),
    [
        (3, _paid("k1"), None),
        (3, _paid("k1", account="b"), "wrong_account"),
        (4, _paid("k2", 50, "redeem", "b"), "wrong_account"),
        (5, _paid("k3", 7, "redeem", "a"), "wrong_account"),
        (3, {**_paid("k1"), "debit": "a", "credit": "cash"}, "wrong_account"),  # taken instead of given
        (3, {**_paid("k1"), "debit": "b"}, None),  # from one customer to another
        (5, {**_paid("k3", 7, "redeem", "b"), "credit": "a"}, None),
    ],
)
def test_an_effect_on_another_account_than_was_asked_for_is_wrong(
    tmp_path: Path, place: int, row: dict[str, Any], wrong: str | None
) -> None:
    """One transfer at a time: a deposit credits the customer who asked, anything else debits them."""
    rows = [*RIGHT[:place], row, *RIGHT[place + 1 :]]
    finding = _judged(rows, OWNED, tmp_path)

    assert finding.grade is (Grade.FAIL if wrong else Grade.PASS)
    assert [one["wrong"] for one in finding.witness] == ([wrong] if wrong else [])
    assert finding.value == (1 if wrong else 0)


@pytest.mark.parametrize(
    ("asked", "there", "grade"),
    [("a", "a", Grade.PASS), ("a", "b", Grade.FAIL), ("", "b", Grade.PASS), ("a", None, Grade.PASS)],
)
def test_other_systems_name_the_account_of_an_effect_in_its_value(
    tmp_path: Path, asked: str, there: str | None, grade: Grade
) -> None:
    """`effects/1`: compared where both the operation and the effect name one."""
    finding = _judged([_effect("k1", there)], f"deposit k1 100 {asked} @4 +0.01 ok", tmp_path)

    assert finding.grade is grade
    assert [one["wrong"] for one in finding.witness] == (["wrong_account"] if grade is Grade.FAIL else [])


@pytest.mark.parametrize(
    ("accounts", "wrong"), [(["a", "b"], []), (["a", "a"], ["duplicate", "lost"]), (["a"], ["lost"])]
)
def test_one_key_of_two_accounts_is_two_operations(tmp_path: Path, accounts: list[str], wrong: list[str]) -> None:
    """Both were acknowledged, so each account has its own effect."""
    clients = "deposit k 100 a @4 +0.01 ok\ndeposit k 100 b @4.1 +0.01 ok"
    finding = _judged([*HOLDERS, *(_paid("k", account=one) for one in accounts)], clients, tmp_path)

    assert sorted(one["wrong"] for one in finding.witness) == wrong
    assert finding.grade is (Grade.FAIL if wrong else Grade.PASS)


ATTACHED: dict[str, Any] = {"run": {"attached": True}}


@pytest.mark.parametrize(
    ("more", "grade"),
    [
        ([_paid("earlier"), _paid(None)], Grade.PASS),
        ([_paid("k1", account="b")], Grade.PASS),  # an earlier run's, under the same key
        ([_paid("k1")], Grade.FAIL),  # done twice
    ],
)
def test_effects_of_earlier_runs_are_left_out_where_the_target_was_there_before(
    tmp_path: Path, more: list[dict[str, Any]], grade: Grade
) -> None:
    """A run that is attached writes `instance.started` after a kill too; what counts is what `run.json` says."""
    attached = _judged([*RIGHT, *more], OWNED, tmp_path / "attached", **ATTACHED)
    own = _judged([*RIGHT, *more], OWNED, tmp_path / "own", run={"attached": False})

    assert attached.grade is grade
    assert (f"Left out: {len(more)} effect" in attached.detail) is (grade is Grade.PASS)
    assert own.grade is Grade.FAIL


@pytest.mark.parametrize("rows", [RIGHT[:3] + RIGHT[4:], [*RIGHT[:3], _paid("k1", account="b"), *RIGHT[4:]]])
def test_a_lost_operation_is_lost_on_an_attached_target_too(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """The deposit is nowhere, or only on another account."""
    assert _judged(rows, OWNED, tmp_path, **ATTACHED).grade is Grade.FAIL


def test_what_was_refused_and_happened_is_wrong_on_an_attached_target_too(tmp_path: Path) -> None:
    """This run asked for it and was told no."""
    assert _judged([_paid("k1"), _paid("k3", 7)], path=tmp_path, **ATTACHED).grade is Grade.FAIL


def test_a_kind_that_nobody_was_ever_granted_shows_nothing(tmp_path: Path) -> None:
    """A slip of the pen (`redem`) looks like a kind that never succeeded."""
    folder = Folder(path=tmp_path, clients=savings(), dumps={"ledger": ledger_of(savings())})
    entry = {"exactly_once": {"dump": "ledger", "operations": ["deposit", "redem"]}}
    finding = parse_expectation(entry).judge(folder.evidence())

    assert finding.grade is Grade.UNKNOWN
    assert "no redem was acknowledged" in finding.detail


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

    # Not a target of its own: what nobody asked for is left out, what was asked for and refused is not.
    wrong = {key for key in "abc" if _naive_wrong(key, tries, effects)}
    assert finding.value == len(wrong)
    if wrong:
        assert finding.grade is Grade.FAIL
    else:
        acknowledged = any(outcome == "ok" for _, outcome, _ in tries)
        assert finding.grade is (Grade.PASS if acknowledged else Grade.UNKNOWN)


def _naive_wrong(key: str, tries: list[tuple[str, str, int]], effects: list[tuple[str, int]]) -> bool:
    told = [(outcome or "info", amount) for k, outcome, amount in tries if k == key]
    present = [amount for k, amount in effects if k == key]
    outcomes = Counter(outcome for outcome, _ in told)
    if not outcomes["ok"] and not outcomes["info"]:
        return bool(told and present)
    if len(present) != 1:
        return len(present) > 1 or outcomes["ok"] > 0
    strongest = "ok" if outcomes["ok"] else "info"
    return present[0] not in [amount for outcome, amount in told if outcome == strongest]
