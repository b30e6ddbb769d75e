r"""The life of a maintenance window: what has to happen next, decided from what is known at one moment.

    scheduled --> noticed --> draining --> closed --> verifying --> open
        ^            |        \______________________________/
        '---moved----'            overrun: the published end moves on

Business time decides about the calendar: notice, start, end. Wall time decides how long machines may take to drain.
Every stage has a way on that needs nobody: time alone leads to `open`, or to a published end that is put off with the
reason for it. Only a passed verification opens.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

NOTICE: Final = timedelta(hours=24)
"""Between the last notice and the start, in business time."""
SHORTEST: Final = timedelta(minutes=30)
USUAL: Final = timedelta(minutes=45)
LONGEST: Final = timedelta(minutes=60)
SENDING: Final = timedelta(hours=1)
"""Left for sending the notices of a first plan, in business time; each further revision gets twice as much."""
START_GRACE: Final = timedelta(minutes=15)
"""A start that was missed by more than this is not made up for: customers would find a closed portal unannounced."""
VERIFYING: Final = timedelta(minutes=10)
"""Of a window's end, kept for the verification of the ledger."""
DRAIN_AT_LEAST: Final = timedelta(seconds=0.5)
"""Wall time: every node has read the stage, and its public status says so, before anything closes."""
DRAIN_AT_MOST: Final = timedelta(seconds=5)
OVERRUN_KNOWN: Final = timedelta(minutes=1)
"""An end that will not be kept is put off this long before it passes, so that it never lies in the past."""
OVERRUN_STEP: Final = timedelta(minutes=10)
OVERRUN_STEP_MAX: Final = timedelta(hours=2)
_DOUBLINGS_MAX: Final = 7
_MINUTE: Final = timedelta(minutes=1)


class Stage(StrEnum):
    """Where a window stands; OPEN and CANCELLED are its two ends."""

    SCHEDULED = "scheduled"
    NOTICED = "noticed"
    DRAINING = "draining"
    CLOSED = "closed"
    VERIFYING = "verifying"
    OPEN = "open"
    CANCELLED = "cancelled"


class Change(StrEnum):
    """What a window does by itself."""

    NOTICED = "noticed"
    MOVED = "moved"
    DRAINING = "draining"
    CLOSED = "closed"
    VERIFYING = "verifying"
    OVERRUN = "overrun"
    OPENED = "opened"


UPCOMING: Final = frozenset({Stage.SCHEDULED, Stage.NOTICED})
UNDER_WAY: Final = frozenset({Stage.DRAINING, Stage.CLOSED, Stage.VERIFYING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window at one moment; `entered` is the wall time its stage began, all else is business time."""

    number: int
    revision: int
    stage: Stage
    start: datetime
    end: datetime
    published_end: datetime
    entered: datetime

    def __post_init__(self) -> None:
        if not SHORTEST <= self.end - self.start <= LONGEST:
            raise ValueError(f"window {self.number}: expected 30 to 60 minutes, got {self.end - self.start}")
        if self.published_end < self.end:
            raise ValueError(f"window {self.number}: the published end lies before the planned one")

    @property
    def upcoming(self) -> bool:
        """Whether it has not begun."""
        return self.stage in UPCOMING

    @property
    def under_way(self) -> bool:
        """Whether it has begun and not ended."""
        return self.stage in UNDER_WAY

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Whether any moment of it, as published, lies in [start, end)."""
        return self.start < end and start < self.published_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Notices:
    """How far the notices of a window's revision are; `last_sent` in business time, None before the first."""

    total: int
    sent: int
    last_sent: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verification of the ledger found; `covers` the head that the ledger had when verifying began."""

    passed: bool
    covers: bool
    problems: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known besides the window itself. None: not asked this time, or nothing has been found out yet."""

    others: tuple[Window, ...] = ()
    """The other windows that are to come or under way."""
    notices: Notices | None = None
    drained: bool = False
    """Whether what was under way when draining began has ended."""
    work_finished: bool = False
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of a window, the window `after` it, and the public reason."""

    change: Change
    after: Window
    reason: str


def advance(window: Window, *, now: datetime, wall: datetime, facts: Facts) -> Step | None:
    """The next change of `window` at the business time `now` and the wall time `wall`; None when it has to wait.

    To be asked again at once after a change: a window that was left alone for long may have several to catch up with.
    """
    if window.upcoming:
        return _before(window, now=now, wall=wall, facts=facts)
    if not window.under_way:
        return None
    return _on(window, now=now, wall=wall, facts=facts) or _overrun(window, now=now, facts=facts)


def earliest_start(now: datetime, *, revision: int) -> datetime:
    """The first full minute at which a window planned at `now` can begin: notice, and the time to send it."""
    return _full_minute(now + NOTICE + SENDING * 2 ** min(revision - 1, _DOUBLINGS_MAX))


def _before(window: Window, *, now: datetime, wall: datetime, facts: Facts) -> Step | None:
    blocking = next((o for o in facts.others if o.under_way and o.overlaps(window.start, window.end)), None)
    if blocking is not None:
        reason = f"the window before it lasts until {_written(blocking.published_end)}"
        return _moved(window, reason, now=now, wall=wall, facts=facts)
    if window.stage is Stage.SCHEDULED:
        return _telling(window, now=now, wall=wall, facts=facts)
    if now >= window.start + START_GRACE:
        reason = f"its start at {_written(window.start)} was missed"
        return _moved(window, reason, now=now, wall=wall, facts=facts)
    if now >= window.start:
        return _entered(window, Stage.DRAINING, Change.DRAINING, "the planned start has come", wall=wall)
    return None


def _telling(window: Window, *, now: datetime, wall: datetime, facts: Facts) -> Step | None:
    late = _late_notice(window, now=now, notices=facts.notices)
    if late is not None:
        return _moved(window, late, now=now, wall=wall, facts=facts)
    if facts.notices is None or facts.notices.sent < facts.notices.total:
        return None
    return _entered(window, Stage.NOTICED, Change.NOTICED, "every customer has been told in time", wall=wall)


def _late_notice(window: Window, *, now: datetime, notices: Notices | None) -> str | None:
    if notices is None:
        return None
    if notices.sent < notices.total:
        if now <= window.start - NOTICE:
            return None
        return f"{notices.total - notices.sent} of {notices.total} notices could not be sent 24 hours ahead"
    if notices.last_sent is not None and notices.last_sent > window.start - NOTICE:
        return f"the last notice was sent at {_written(notices.last_sent)}, less than 24 hours ahead"
    return None


def _on(window: Window, *, now: datetime, wall: datetime, facts: Facts) -> Step | None:
    if window.stage is Stage.DRAINING:
        waited = wall - window.entered
        if waited >= DRAIN_AT_LEAST and facts.drained:
            return _entered(window, Stage.CLOSED, Change.CLOSED, "what was under way has ended", wall=wall)
        # A wall clock that was set back must not keep the window here until it has caught up.
        if waited >= DRAIN_AT_MOST or waited < timedelta(0):
            return _entered(window, Stage.CLOSED, Change.CLOSED, "the time for draining is over", wall=wall)
    elif window.stage is Stage.CLOSED:
        if facts.work_finished:
            return _entered(window, Stage.VERIFYING, Change.VERIFYING, "the work is finished", wall=wall)
        if now >= window.end - VERIFYING:
            return _entered(window, Stage.VERIFYING, Change.VERIFYING, "the time for work is over", wall=wall)
    elif facts.verdict is not None and facts.verdict.passed and facts.verdict.covers:
        return _entered(window, Stage.OPEN, Change.OPENED, "the ledger is verified", wall=wall)
    return None


def _overrun(window: Window, *, now: datetime, facts: Facts) -> Step | None:
    if now < window.published_end - OVERRUN_KNOWN:
        return None
    # The longer it has taken already, the less a few minutes more would be believed.
    step = min(max(now - window.end, OVERRUN_STEP), OVERRUN_STEP_MAX)
    end = _full_minute(max(now, window.published_end) + step)
    return Step(change=Change.OVERRUN, after=replace(window, published_end=end), reason=_why_late(window, facts))


def _why_late(window: Window, facts: Facts) -> str:
    if window.stage is not Stage.VERIFYING:
        return "the work began late or was interrupted"
    if facts.verdict is None or facts.verdict.passed:
        return "the verification of the ledger is not finished"
    found = facts.verdict.problems
    return f"the verification of the ledger found {found} problem{'' if found == 1 else 's'}, still to be mended"


def _entered(window: Window, stage: Stage, change: Change, reason: str, *, wall: datetime) -> Step:
    return Step(change=change, after=replace(window, stage=stage, entered=wall), reason=reason)


def _moved(window: Window, reason: str, *, now: datetime, wall: datetime, facts: Facts) -> Step:
    revision = window.revision + 1
    length = window.end - window.start
    start = _first_free(earliest_start(now, revision=revision), length, facts.others)
    after = replace(
        window,
        revision=revision,
        stage=Stage.SCHEDULED,
        start=start,
        end=start + length,
        published_end=start + length,
        entered=wall,
    )
    return Step(change=Change.MOVED, after=after, reason=reason)


def _first_free(start: datetime, length: timedelta, others: tuple[Window, ...]) -> datetime:
    for other in sorted(others, key=lambda other: other.start):
        if other.overlaps(start, start + length):
            start = _full_minute(other.published_end)
    return start


def _full_minute(moment: datetime) -> datetime:
    full = moment.replace(second=0, microsecond=0)
    return full if full == moment else full + _MINUTE


def _written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
