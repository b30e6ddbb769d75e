"""The life of a maintenance window: never unverified, never stuck, never untruthful, never unannounced."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from system_under_test.domain.windows import (
    DRAIN_AT_LEAST,
    DRAIN_AT_MOST,
    LONGEST,
    NOTICE,
    SENDING,
    SHORTEST,
    START_GRACE,
    UPCOMING,
    USUAL,
    VERIFYING,
    Change,
    Facts,
    Notices,
    Stage,
    Step,
    Verdict,
    Window,
    advance,
    earliest_start,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
WALL = datetime(2031, 1, 1, tzinfo=UTC)
PASSED = Verdict(passed=True, covers=True)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def window(
    stage: Stage, *, start: datetime = NOW, length: timedelta = USUAL, number: int = 1, revision: int = 1
) -> Window:
    """A window that starts now, its stage entered now."""
    end = start + length
    return Window(number=number, revision=revision, stage=stage, start=start, end=end, published_end=end, entered=WALL)


def step(
    of: Window, facts: Facts | None = None, *, business: timedelta = timedelta(0), wall: timedelta = timedelta(0)
) -> Step | None:
    """What `of` does so long after NOW and WALL."""
    return advance(of, now=NOW + business, wall=WALL + wall, facts=facts or Facts())


def change(taken: Step | None) -> Change | None:
    """What changed."""
    return None if taken is None else taken.change


@pytest.mark.parametrize(
    ("sent", "last", "now", "expected"),
    [
        (3, -25 * HOUR, -25 * HOUR, Change.NOTICED),
        (3, -24 * HOUR, -24 * HOUR, Change.NOTICED),
        (3, -24 * HOUR + SECOND, -24 * HOUR + SECOND, Change.MOVED),
        (2, -25 * HOUR, -25 * HOUR, None),
        (2, -25 * HOUR, -24 * HOUR, None),
        (2, -25 * HOUR, -24 * HOUR + SECOND, Change.MOVED),
        (0, None, -24 * HOUR + SECOND, Change.MOVED),
    ],
)
def test_a_window_is_noticed_a_day_ahead_or_moves(
    sent: int, last: timedelta | None, now: timedelta, expected: Change | None
) -> None:
    """Three notices, so many sent and the last of them then: at the edges of 24 hours."""
    told = Notices(total=3, sent=sent, last_sent=None if last is None else NOW + last)
    assert change(step(window(Stage.SCHEDULED), Facts(notices=told), business=now)) is expected


def test_nobody_to_tell_is_everybody_told() -> None:
    """A service without customers can be maintained."""
    assert (
        change(step(window(Stage.SCHEDULED), Facts(notices=Notices(total=0, sent=0, last_sent=None)))) is Change.NOTICED
    )


def test_a_moved_window_is_a_new_revision_with_time_to_tell_everybody_and_a_free_place() -> None:
    """Moves one whose notices are late into a time that another window has: it lands behind that one."""
    taken = window(Stage.NOTICED, start=earliest_start(NOW, revision=2) + 30 * MINUTE, number=2)
    late = Facts(notices=Notices(total=2, sent=1, last_sent=NOW), others=(taken,))
    moved = step(window(Stage.SCHEDULED), late)
    assert moved is not None
    assert (moved.change, moved.after.revision, moved.after.stage) == (Change.MOVED, 2, Stage.SCHEDULED)
    assert moved.after.start == taken.published_end
    assert moved.after.end - moved.after.start == USUAL
    assert moved.reason == "1 of 2 notices could not be sent 24 hours ahead"


def test_each_further_move_leaves_more_time_for_sending() -> None:
    """The margin doubles with the revision, and stops growing: a slow provider is waited for, not for ever."""
    margins = [earliest_start(NOW, revision=revision) - NOW - NOTICE for revision in (1, 2, 3, 8, 9, 1000)]
    assert margins == [SENDING, 2 * SENDING, 4 * SENDING, 128 * SENDING, 128 * SENDING, 128 * SENDING]


@pytest.mark.parametrize(
    ("business", "expected"),
    [
        (-SECOND, None),
        (timedelta(0), Change.DRAINING),
        (START_GRACE - SECOND, Change.DRAINING),
        (START_GRACE, Change.MOVED),
        (30 * 24 * HOUR, Change.MOVED),
    ],
)
def test_a_window_starts_when_planned_or_is_planned_anew(business: timedelta, expected: Change | None) -> None:
    """Around the planned start, and after a start that was slept through."""
    assert change(step(window(Stage.NOTICED), business=business)) is expected


def test_a_window_makes_way_for_one_that_overran_into_its_time() -> None:
    """The published end of the one under way lies after the start of the next: the next moves, and says until when."""
    running = replace(window(Stage.VERIFYING, start=NOW - 2 * HOUR), published_end=NOW + 20 * MINUTE)
    for stage in UPCOMING:
        moved = step(window(stage, start=NOW + 10 * MINUTE, number=2), Facts(others=(running,)))
        assert moved is not None
        assert moved.change is Change.MOVED
        assert moved.reason == "the window before it lasts until 2026-05-04 12:20 UTC"
        assert moved.after.start >= NOW + NOTICE


@pytest.mark.parametrize(
    ("wall", "drained", "expected"),
    [
        (DRAIN_AT_LEAST - SECOND / 10, True, None),
        (DRAIN_AT_LEAST, True, Change.CLOSED),
        (DRAIN_AT_LEAST, False, None),
        (DRAIN_AT_MOST - SECOND / 10, False, None),
        (DRAIN_AT_MOST, False, Change.CLOSED),
        (-HOUR, False, Change.CLOSED),
    ],
)
def test_draining_takes_as_long_as_needed_and_no_longer_than_allowed(
    wall: timedelta, *, drained: bool, expected: Change | None
) -> None:
    """At the edges of its wall time, and with a wall clock that was set back meanwhile."""
    assert change(step(window(Stage.DRAINING), Facts(drained=drained), wall=wall)) is expected


def test_a_closed_window_verifies_when_the_work_is_finished_or_its_time_is_over() -> None:
    """Before the time kept for verifying only a finished work leads on; at it, time alone does."""
    closed = window(Stage.CLOSED)
    just_before = USUAL - VERIFYING - SECOND
    assert step(closed, business=just_before) is None
    assert change(step(closed, Facts(work_finished=True), business=just_before)) is Change.VERIFYING
    assert change(step(closed, business=USUAL - VERIFYING)) is Change.VERIFYING


@pytest.mark.parametrize(
    "verdict", [None, Verdict(passed=False, covers=True, problems=2), replace(PASSED, covers=False)]
)
def test_nothing_but_a_passed_verification_of_the_whole_ledger_opens(verdict: Verdict | None) -> None:
    """None yet, a failed one, and a passed one of an older head: none opens, early or late."""
    for business in (35 * MINUTE, 3 * HOUR):
        assert change(step(window(Stage.VERIFYING), Facts(verdict=verdict), business=business)) is not Change.OPENED
    assert change(step(window(Stage.VERIFYING), Facts(verdict=PASSED), business=3 * HOUR)) is Change.OPENED


def test_an_overrun_is_published_before_the_end_passes_with_its_reason() -> None:
    """A minute before the end that cannot be kept: a later end, and what keeps the window."""
    verifying = window(Stage.VERIFYING)
    assert step(verifying, business=USUAL - MINUTE - SECOND) is None
    failed = Facts(verdict=Verdict(passed=False, covers=True, problems=2))
    overrun = step(verifying, failed, business=USUAL - MINUTE)
    assert overrun is not None
    assert (overrun.change, overrun.after.end) == (Change.OVERRUN, verifying.end)
    assert overrun.after.published_end == verifying.end + 10 * MINUTE
    assert overrun.reason == "the verification of the ledger found 2 problems, still to be mended"
    much_later = step(overrun.after, failed, business=USUAL + HOUR)
    assert much_later is not None
    assert much_later.after.published_end == verifying.end + 2 * HOUR


def test_the_length_of_a_window_is_checked() -> None:
    """A minute less than the shortest, a minute more than the longest, and an end published before the planned one."""
    for length in (SHORTEST - MINUTE, LONGEST + MINUTE):
        with pytest.raises(ValueError, match="30 to 60 minutes"):
            window(Stage.SCHEDULED, length=length)
    with pytest.raises(ValueError, match="before the planned one"):
        replace(window(Stage.CLOSED), published_end=NOW)


@dataclass(slots=True)
class Mail:
    """The notices of one revision of a window: when each was sent."""

    total: int
    sent_at: list[datetime] = field(default_factory=list)

    def notices(self) -> Notices:
        last = self.sent_at[-1] if self.sent_at else None
        return Notices(total=self.total, sent=len(self.sent_at), last_sent=last)


class LifeOfWindows(RuleBasedStateMachine):
    """A service whose operator, provider, ledger and clocks do what they like.

    Only `look` lets windows advance, as the maintenance process does; between two looks any time may pass, as when it
    was killed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.wall, self.rate = NOW, WALL, 60.0
        self.windows: dict[int, Window] = {}
        self.mail: dict[int, Mail] = {}
        self.provider_up = True
        self.drained = True
        self.work_finished = False
        self.verdict: Verdict | None = None
        self.looked_at = NOW

    def unfinished(self) -> list[Window]:
        return [one for one in self.windows.values() if one.upcoming or one.under_way]

    def plan(self, number: int, revision: int, start: datetime, minutes: int) -> None:
        end = start + minutes * MINUTE
        if any(other.overlaps(start, end) for other in self.unfinished() if other.number != number):
            return  # refused by the database
        self.windows[number] = Window(
            number=number,
            revision=revision,
            stage=Stage.SCHEDULED,
            start=start,
            end=end,
            published_end=end,
            entered=self.wall,
        )
        self.mail[number] = Mail(total=3)

    @precondition(lambda self: len(self.unfinished()) < 3)
    @rule(ahead_minutes=st.integers(0, 3000), minutes=st.integers(30, 60))
    def schedule(self, ahead_minutes: int, minutes: int) -> None:
        start = earliest_start(self.now, revision=1) + ahead_minutes * MINUTE
        self.plan(len(self.windows) + 1, 1, start, minutes)

    @precondition(lambda self: any(one.upcoming for one in self.windows.values()))
    @rule(data=st.data(), ahead_minutes=st.integers(0, 3000))
    def move(self, data: st.DataObject, ahead_minutes: int) -> None:
        one = data.draw(st.sampled_from([one for one in self.unfinished() if one.upcoming]))
        start = earliest_start(self.now, revision=1) + ahead_minutes * MINUTE
        self.plan(one.number, one.revision + 1, start, int((one.end - one.start) / MINUTE))

    @precondition(lambda self: any(one.upcoming for one in self.windows.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from([one for one in self.unfinished() if one.upcoming]))
        self.windows[one.number] = replace(one, stage=Stage.CANCELLED)

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.now += timedelta(seconds=seconds * self.rate)

    @rule(hours=st.floats(0, 60))
    def fast_forward(self, hours: float) -> None:
        self.now += hours * HOUR

    @precondition(lambda self: any(one.upcoming for one in self.windows.values()))
    @rule(early_s=st.sampled_from([-60, 0, 1]))
    def go_to_the_next_start(self, early_s: int) -> None:
        """Everybody is told in time, and the start comes: what happens in a window is rare otherwise."""
        self.provider_up = True
        self.send_notices(3)
        self.look()
        starts = [one.start for one in self.unfinished() if one.upcoming]
        self.now = max(self.now, min(starts, default=self.now) - early_s * SECOND)
        self.look()

    @precondition(lambda self: any(one.under_way for one in self.windows.values()))
    @rule(early_s=st.integers(-30, 120), pauses=st.integers(0, 2))
    def go_to_the_published_end(self, early_s: int, pauses: int) -> None:
        for _ in range(pauses):
            self.wall += DRAIN_AT_MOST
            self.look()
        for one in self.unfinished():
            if one.under_way:
                self.now = max(self.now, one.published_end - early_s * SECOND)
                self.look()

    @rule(seconds=st.floats(0, 7200))
    def set_the_wall_clock_back(self, seconds: float) -> None:
        self.wall -= timedelta(seconds=seconds)

    @rule(rate=st.sampled_from([1.0, 10.0, 60.0]))
    def change_the_rate(self, rate: float) -> None:
        self.rate = rate

    @rule(up=st.booleans())
    def switch_the_provider(self, *, up: bool) -> None:
        self.provider_up = up

    @rule(many=st.integers(1, 3))
    def send_notices(self, many: int) -> None:
        for one in self.unfinished():
            mail = self.mail[one.number]
            if self.provider_up:
                mail.sent_at += [self.now] * min(many, mail.total - len(mail.sent_at))

    @rule(drained=st.booleans(), finished=st.booleans())
    def work(self, *, drained: bool, finished: bool) -> None:
        self.drained, self.work_finished = drained, finished

    @rule(verdict=st.sampled_from([None, PASSED, replace(PASSED, covers=False), Verdict(passed=False, covers=True)]))
    def verify(self, verdict: Verdict | None) -> None:
        self.verdict = verdict

    @rule()
    def look(self) -> None:
        """As the maintenance process does: step after step, until nothing is due."""
        steps = 0
        while (due := self.first_due()) is not None:
            before, taken = due
            self.check(before, taken)
            self.windows[before.number] = taken.after
            if taken.change is Change.MOVED:
                self.mail[before.number] = Mail(total=3)
            if taken.change is Change.OPENED:
                self.verdict = None
            steps += 1
            assert steps <= 4 * len(self.windows), "windows go round in circles"
        self.looked_at = self.now

    def first_due(self) -> tuple[Window, Step] | None:
        for one in sorted(self.unfinished(), key=lambda one: not one.under_way):
            facts = Facts(
                others=tuple(other for other in self.unfinished() if other.number != one.number),
                notices=self.mail[one.number].notices(),
                drained=self.drained,
                work_finished=self.work_finished,
                verdict=self.verdict,
            )
            taken = advance(one, now=self.now, wall=self.wall, facts=facts)
            if taken is not None:
                return one, taken
        return None

    def check(self, before: Window, taken: Step) -> None:
        """What must be true of every step."""
        after = taken.after
        assert taken.reason
        assert SHORTEST <= after.end - after.start <= LONGEST
        if taken.change is Change.OPENED:
            assert before.stage is Stage.VERIFYING
            assert self.verdict == PASSED
        if taken.change is Change.DRAINING:
            notices = self.mail[before.number].notices()
            assert notices.sent == notices.total
            assert notices.last_sent is not None
            assert notices.last_sent + NOTICE <= before.start <= self.now < before.start + START_GRACE
        if taken.change is Change.MOVED:
            assert before.upcoming
            assert after.revision == before.revision + 1
            assert after.start >= self.now + NOTICE + SENDING
            assert not any(o.overlaps(after.start, after.end) for o in self.unfinished() if o.number != after.number)
        else:
            assert (after.start, after.end, after.revision) == (before.start, before.end, before.revision)
        if taken.change is Change.OVERRUN:
            assert after.published_end > max(self.now, before.published_end)

    @invariant()
    def never_two_at_once_and_no_end_in_the_past(self) -> None:
        under_way = [one for one in self.windows.values() if one.under_way]
        assert len(under_way) <= 1
        if self.looked_at == self.now:
            assert all(one.published_end > self.now for one in under_way)

    def teardown(self) -> None:
        """Time alone leads on from wherever it stands, first with everything broken, then with everything well."""
        self.provider_up, self.drained, self.work_finished, self.verdict = False, False, False, None
        self.look()
        self.let_time_pass(days=6)
        assert all(one.stage in UPCOMING | {Stage.VERIFYING} for one in self.unfinished())
        self.never_two_at_once_and_no_end_in_the_past()
        for one in self.unfinished():
            fully_told = len(self.mail[one.number].sent_at) == self.mail[one.number].total
            assert one.under_way or one.start > self.now or fully_told
        self.provider_up, self.verdict = True, PASSED
        self.let_time_pass(days=30)
        assert self.unfinished() == []

    def let_time_pass(self, *, days: int) -> None:
        for _ in range(days * 24 * 4):
            if not self.unfinished():
                return
            self.wall += DRAIN_AT_MOST
            self.now += 10 * MINUTE
            if self.provider_up:
                self.send_notices(3)
                self.verdict = PASSED
            self.look()


LifeOfWindows.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_whatever_happens_windows_keep_their_promises = LifeOfWindows.TestCase
test_whatever_happens_windows_keep_their_promises.__doc__ = LifeOfWindows.__doc__
