"""The checker of maintenance windows on one that was as announced, and on each way to be otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metrics.checkers import parse_expectation
from metrics.findings import Finding, Grade
from tests.run_folders import Folder

Rows = list[dict[str, Any]]
DAY_S = 24 * 3600
START_S = 10 * DAY_S
END_S = START_S + 45 * 60


def event(change: str, at_s: float, **values: Any) -> dict[str, Any]:
    """A change of window 1, in its second revision; business time runs at 60."""
    return {"row": "event", "window": 1, "revision": 2, "change": change, "planned_start": START_S,
            "planned_end": END_S, "published_end": END_S, "business_at": at_s, "recorded_at": wall_s(at_s),
            **values}  # fmt: skip


def wall_s(business_s: float) -> float:
    """The wall time of a business time."""
    return 1_700_000_000 + business_s / 60


def check(number: int, at_s: float, **values: Any) -> dict[str, Any]:
    """A full check of the ledger that passed, recorded at a business time."""
    return {"row": "reconciliation", "number": number, "full": True, "passed": True, "head": 9, "batch": 1,
            "problems": [], "recorded_at": wall_s(at_s), **values}  # fmt: skip


def platform() -> tuple[Rows, Rows]:
    """A window that was moved once, announced to two customers and opened in time; another one was cancelled."""
    windows: Rows = [
        {"row": "window", "window": 1, "revision": 2, "stage": "open", "planned_start": START_S, "planned_end": END_S},
        event("scheduled", 8 * DAY_S, revision=1, planned_start=START_S - 3600, planned_end=END_S - 3600),
        event("moved", 8.5 * DAY_S),
        event("noticed", 8.6 * DAY_S),
        event("draining", START_S),
        event("closed", START_S + 5),
        event("verifying", START_S + 40 * 60),
        event("opened", START_S + 43 * 60),
        {**event("scheduled", 8 * DAY_S), "window": 2},
        {**event("cancelled", 9 * DAY_S), "window": 2},
        check(1, START_S - 60),
        check(2, START_S + 39 * 60),
        check(3, START_S + 41 * 60),
        check(4, START_S + 42 * 60, full=False),
        check(5, START_S + 44 * 60),
    ]
    notices: Rows = [
        {"row": "plan", "window": 1, "revision": 1, "kind": "move", "planned_start": START_S - 3600,
         "planned_at": wall_s(8 * DAY_S), "total": 3},
        {"row": "plan", "window": 1, "revision": 2, "kind": "move", "planned_start": START_S,
         "planned_at": wall_s(8.5 * DAY_S), "total": 3},
        notice("c-1", 1), notice("c-2", 1, state="withdrawn", sent_business_at=None),
        notice("c-2", 1, channel="push", state="withdrawn", sent_business_at=None),
        notice("c-2", 2, channel="push"), notice("c-1", 2), notice("c-2", 2),
        subscription("c-2", 7 * DAY_S),
        # Too late to be told of that plan.
        subscription("c-1", 8.5 * DAY_S + 60),
    ]  # fmt: skip
    return windows, notices


def notice(account: str, revision: int, **values: Any) -> dict[str, Any]:
    """A notice of window 1."""
    return {"row": "notice", "window": 1, "revision": revision, "account": account, "channel": "email", "state": "sent",
            "sent_business_at": START_S - DAY_S - 60, **values}  # fmt: skip


def subscription(account: str, since_s: float) -> dict[str, Any]:
    """Web push, from a business time on."""
    return {"row": "subscription", "account": account, "channel": "push", "since": wall_s(since_s)}


def rows_of(notices: Rows, **values: Any) -> Rows:
    """Those rows that have these values."""
    return [one for one in notices if values.items() <= one.items()]


def judged(path: Path, windows: Rows, notices: Rows, **parameters: Any) -> Finding:
    """The finding on these dumps."""
    return parse_expectation({"window": parameters}).judge(
        Folder(path=path, dumps={"windows": windows, "notices": notices}).evidence()
    )


def test_a_window_as_announced_passes_and_too_few_show_nothing(tmp_path: Path) -> None:
    """One window began and opened: two wanted are not shown, and neither is one that never began."""
    assert judged(tmp_path / "right", *platform()).grade is Grade.PASS
    assert judged(tmp_path / "few", *platform(), min_windows=2).grade is Grade.UNKNOWN
    windows, notices = platform()
    assert judged(tmp_path / "none", windows[:4] + windows[8:], notices).grade is Grade.UNKNOWN


def test_an_overrun_that_was_published_in_time_is_as_announced(tmp_path: Path) -> None:
    """Opened ten minutes late, after the new end had been published."""
    windows, notices = platform()
    windows[7:8] = [
        event("overrun", END_S - 60, published_end=END_S + 900),
        event("opened", END_S + 600, published_end=END_S + 900),
    ]
    assert judged(tmp_path, windows, notices).grade is Grade.PASS


def overrun(published_at_s: float, opened_at_s: float) -> Callable[[Rows, Rows], object]:
    """The window opens at a time after its end, which was put off by 15 minutes at another."""

    def plant(windows: Rows, _: Rows) -> None:
        windows[7:8] = [
            event("overrun", published_at_s, published_end=END_S + 900),
            event("opened", opened_at_s, published_end=END_S + 900),
        ]

    return plant


def move_nearer(windows: Rows, _: Rows) -> None:
    """The plan that was carried out ends an hour before the first one did, and is opened between the two."""
    windows[1].update(planned_start=START_S + 3600, planned_end=END_S + 3600, published_end=END_S + 3600)
    windows[7].update(business_at=END_S + 60, recorded_at=wall_s(END_S + 60))


WRONG: dict[str, tuple[Callable[[Rows, Rows], object], str]] = {
    "a stage left out": (lambda windows, _: windows.pop(6), "stages out of order"),
    "never opened": (lambda windows, _: windows.pop(7), "begun and not opened again"),
    "too long": (
        lambda windows, _: [one.update(planned_end=START_S + 3660) for one in windows[4:8]],
        "planned for another time than 30 to 60 minutes",
    ),
    "too early": (lambda windows, _: windows[4].update(business_at=START_S - 1), "begun before its planned start"),
    "late without a word": (
        lambda windows, _: windows[7].update(business_at=END_S + 1),
        "opened later than was published",
    ),
    "begun long after its start": (
        lambda windows, _: windows[4].update(business_at=START_S + 901),
        "begun more than 15 minutes after its planned start",
    ),
    "an end put off when it had passed": (
        overrun(END_S + 1, END_S + 600),
        "overrun published after the end had passed",
    ),
    "opened after the new end too": (overrun(END_S - 60, END_S + 901), "opened later than was published"),
    "opened by the end of an earlier plan": (move_nearer, "opened later than was published"),
    "never checked": (lambda windows, _: windows.pop(12), "opened without a full check of the ledger that passed"),
    "checked in part": (
        lambda windows, _: windows[12].update(full=False),
        "opened without a full check of the ledger that passed",
    ),
    "checked and found wrong": (
        lambda windows, _: windows[12].update(passed=False, problems=[{}]),
        "opened without a full check of the ledger that passed",
    ),
    "a customer not told": (lambda _, notices: notices.remove(notice("c-2", 2)), "customers without a notice"),
    "a notice only withdrawn": (
        lambda _, notices: rows_of(notices, account="c-2", revision=2, channel="email")[0].update(state="withdrawn"),
        "customers without a notice",
    ),
    "one told twice, one not": (
        lambda _, notices: rows_of(notices, account="c-2", revision=2, channel="email")[0].update(account="c-1"),
        "customer with more than one notice",
    ),
    "told late": (
        lambda _, notices: [
            one.update(sent_business_at=START_S - DAY_S + 1) for one in rows_of(notices, account="c-2", revision=2)
        ],
        "notice less than 24 hours ahead",
    ),
    "a subscriber told by e-mail only": (
        lambda _, notices: [
            *(one.update(total=2) for one in rows_of(notices, row="plan", revision=2)),
            notices.pop(notices.index(notice("c-2", 2, channel="push"))),
        ],
        "subscriber without a notice",
    ),
    "a subscriber's push refused": (
        lambda _, notices: rows_of(notices, channel="push", revision=2)[0].update(state="undeliverable"),
        "subscriber without a notice",
    ),
    "a subscriber told twice by push": (
        lambda _, notices: notices.append(notice("c-2", 2, channel="push")),
        "customer with more than one notice",
    ),
    "an e-mail given up": (
        lambda _, notices: rows_of(notices, account="c-1", revision=2)[0].update(state="undeliverable"),
        "customers without a notice",
    ),
    "told by push alone": (
        lambda _, notices: [
            *(one.update(total=2) for one in rows_of(notices, row="plan", revision=2)),
            notices.pop(notices.index(notice("c-2", 2))),
        ],
        "customer without an e-mail",
    ),
}


def test_who_unsubscribed_meanwhile_needs_no_push(tmp_path: Path) -> None:
    """The push notice of a subscription that has ended is undeliverable: as announced; one that still stands is not."""
    windows, notices = platform()
    rows_of(notices, channel="push", revision=2)[0].update(state="undeliverable", sent_business_at=None)
    assert judged(tmp_path / "stands", windows, notices).grade is Grade.FAIL
    notices.remove(subscription("c-2", 7 * DAY_S))
    assert judged(tmp_path / "ended", windows, notices).grade is Grade.PASS


@pytest.mark.parametrize("what", WRONG)
def test_each_way_to_be_otherwise_is_found_and_named(tmp_path: Path, what: str) -> None:
    """One planted mistake at a time."""
    windows, notices = platform()
    plant, told = WRONG[what]
    plant(windows, notices)
    finding = judged(tmp_path, windows, notices)
    assert finding.grade is Grade.FAIL
    assert [one for one in finding.witness if one["wrong"].startswith(told)], finding.witness
