"""What customers are told, by which name, and when a failed notice is tried again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.domain.notices import (
    RETRY_FIRST_S,
    RETRY_MOST_S,
    Plan,
    compose,
    connections_for,
    message_id,
    retry_after_s,
)

PLAN = Plan(
    window=7,
    revision=1,
    kind="planned",
    planned_start=datetime(2030, 3, 1, 9, 0, tzinfo=UTC),
    planned_end=datetime(2030, 3, 1, 9, 45, tzinfo=UTC),
    reason="new disks",
)
CANCELLED = replace(PLAN, kind="cancelled", revision=2, reason="the disks are late")


@pytest.mark.parametrize(
    ("plan", "subject"),
    [
        (PLAN, "Planned maintenance: 2030-03-01 09:00 to 09:45 UTC (window 7, revision 1)"),
        (CANCELLED, "Maintenance cancelled: 2030-03-01 09:00 to 09:45 UTC (window 7, revision 2)"),
        (
            replace(PLAN, planned_end=datetime(2030, 3, 2, 0, 15, 30, tzinfo=UTC)),
            "Planned maintenance: 2030-03-01 09:00 to 2030-03-02 00:15:30 UTC (window 7, revision 1)",
        ),
        (
            replace(PLAN, planned_start=datetime(2030, 3, 1, 10, 0, tzinfo=timezone(timedelta(hours=1)))),
            "Planned maintenance: 2030-03-01 09:00 to 09:45 UTC (window 7, revision 1)",
        ),
    ],
)
def test_the_subject_names_the_window_its_revision_and_its_times_in_utc(plan: Plan, subject: str) -> None:
    """A window of one day, a cancelled one, one over midnight, and one given in another time zone."""
    assert compose(plan).subject == subject


def test_the_body_says_when_why_and_what_stays_possible() -> None:
    """The whole text of a first notice: nothing of it is left to chance, nothing is replaced yet."""
    assert compose(PLAN).body == (
        "Dear customer,\n\n"
        "the savings service will be closed for maintenance\n\n"
        "    from  2030-03-01 09:00 UTC\n"
        "    to    2030-03-01 09:45 UTC\n\n"
        "Reason: new disks\n\n"
        "What stays possible meanwhile:\n\n"
        "- Redemptions are taken at any time. They wait in the order in which they\n"
        "  arrive, whatever the size of the account, and are settled as soon as the\n"
        "  service reopens.\n"
        "- Interest is credited every hour, as always.\n"
        "- The state of the service, the time left and your place in the queue are\n"
        "  shown at /v1/status and /v1/schedule.\n\n"
        "The dashboard and your balance are closed until the ledger is verified.\n\n"
        "Window 7, revision 1\n"
    )


def test_a_later_revision_says_which_notice_it_replaces() -> None:
    """Revision 3 of a plan, and a cancellation: both name the revision before."""
    assert "replaces the notice of revision 2, and any before it:\nonly the times above" in (
        compose(replace(PLAN, revision=3)).body
    )
    cancelled = compose(CANCELLED).body
    assert "replaces the notice of revision 1" in cancelled
    assert "is cancelled." in cancelled
    assert "the disks are late" in cancelled
    assert "Redemptions" not in cancelled


@settings(deadline=None)
@given(reason=st.text())
def test_no_reason_breaks_the_text(reason: str) -> None:
    """Any text as reason: it is one paragraph, and the subject stays one line."""
    text = compose(replace(PLAN, reason=reason))
    assert text.subject == compose(PLAN).subject
    paragraphs = text.body.split("\n\n")
    words = reason.split()
    assert len(paragraphs) == (8 if words else 7)
    if words:
        # Long words are broken to the width: their letters stay.
        assert "".join(paragraphs[3].split()) == "Reason:" + "".join(words)


NAMES = st.tuples(
    st.integers(1, 10**6),
    st.integers(1, 99),
    st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True),
    st.sampled_from(["email", "web"]),
)


@settings(deadline=None)
@given(one=NAMES, other=NAMES)
def test_a_notice_has_a_name_of_its_own_that_no_retry_changes(
    one: tuple[int, int, str, str], other: tuple[int, int, str, str]
) -> None:
    """Two arbitrary notices: the same Message-ID exactly when all four parts are the same, whatever else differs."""
    first, second = (
        message_id(
            replace(PLAN, window=window, revision=revision, reason=reason),
            account=account,
            channel=channel,
            domain="a.example",
        )
        for (window, revision, account, channel), reason in ((one, "then"), (other, "now"))
    )
    assert (first == second) == (one == other)
    assert first.startswith("<")
    assert first.endswith("@a.example>")
    assert not any(letter.isspace() or letter in "<>" for letter in first[1:-1])


@settings(deadline=None)
@given(failures=st.integers(1, 10**9), jitter_ratio=st.floats(0, 1))
def test_a_retry_comes_later_each_time_up_to_a_limit(failures: int, jitter_ratio: float) -> None:
    """Any number of failures: between half of the doubled wait and the whole, never over the limit, never at once."""
    whole_s = min(RETRY_MOST_S, RETRY_FIRST_S * 2.0 ** min(failures - 1, 100))
    assert whole_s / 2 <= retry_after_s(failures, jitter_ratio=jitter_ratio) <= whole_s
    assert retry_after_s(failures + 1, jitter_ratio=0) >= retry_after_s(failures, jitter_ratio=0)


@pytest.mark.parametrize(("due", "connections"), [(0, 0), (1, 1), (200, 1), (201, 2), (800, 4), (10**6, 4)])
def test_a_connection_is_opened_for_each_batch_and_never_too_many(due: int, connections: int) -> None:
    """Batches of 200, four connections at most."""
    assert connections_for(due, batch=200, most=4) == connections
