"""Whether maintenance windows were announced in time, kept their length, and opened only on a verified ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.dumps import NOTICES, WINDOWS, Dump, rows_of_kind, unusable
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.evidence import Evidence

Row = Mapping[str, Any]
NOTICE_S: Final = 24 * 3600
LENGTH_S: Final = (30 * 60, 60 * 60)
EMAIL: Final = "email"
"""The channel on which everybody is told; others are for those who have subscribed."""
GRACE_S: Final = 15 * 60
"""A start missed by more is to be announced anew."""
_STAGES: Final = ("draining", "closed", "verifying", "opened")
_TOLD_MAX: Final = 5


@CHECKERS.register("window")
@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """At least `min_windows` windows were opened again, each as it was announced; times are business time.

    Planned for 30 to 60 minutes; begun at the planned start, at most 15 minutes after it; opened not later than the end
    that was published last, which was only ever put off before it had passed; every stage passed in order; a full check
    of the ledger passed between `verifying` and `opened`; each customer got exactly one notice of the plan that was
    carried out by e-mail, and each subscriber one on their channel besides, at least 24 hours before.
    """

    min_windows: Annotated[int, Field(ge=1)] = 1
    dump: str = "windows"
    notices: str = "notices"

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "window" if self.dump == "windows" else f"window:{self.dump}"

    def check(self, evidence: "Evidence") -> Finding:
        """Reads every window's events, the checks of the ledger meanwhile, and the notices of its plan."""
        if told := unusable(evidence.dumps, {self.dump: WINDOWS, self.notices: NOTICES}):
            return Finding(name=self.title, grade=Grade.UNKNOWN, detail=told)
        windows = evidence.dumps[self.dump]
        begun: dict[Any, list[Row]] = defaultdict(list)
        for event in rows_of_kind(windows, "event"):
            begun[event["window"]].append(event)
        begun = {window: events for window, events in begun.items() if "draining" in _changes(events)}
        verified = [
            row["recorded_at"] for row in rows_of_kind(windows, "reconciliation") if row["full"] and row["passed"]
        ]
        notices = evidence.dumps[self.notices]
        wrong = [
            {"window": window, **one}
            for window, events in sorted(begun.items())
            for one in (*_life(events, verified), *_published(events), *_notices(window, events, notices))
        ]
        opened = sum("opened" in _changes(events) for events in begun.values())
        doubts = [] if opened >= self.min_windows else [f"only {count(opened, 'window')} opened again"]
        return Finding(
            name=self.title,
            grade=Grade.FAIL if wrong else Grade.PASS,
            value=len(wrong),
            limit=0,
            unit="mistakes",
            witness=wrong[:_TOLD_MAX],
            detail=f"{count(len(begun), 'window')} began, {opened} opened again"
            + (f"; {count(len(wrong), 'mistake')} found." if wrong else ", as announced."),
        ).doubted(doubts)


def _changes(events: Sequence[Row]) -> list[str]:
    return [str(event["change"]) for event in events]


def _life(events: Sequence[Row], verified: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Mistakes in the stages; `verified` is when full checks of the ledger passed, in wall time as `recorded_at`."""
    stages = [event for event in events if event["change"] in _STAGES]
    if [stage["change"] for stage in stages] != list(_STAGES[: len(stages)]):
        yield {"wrong": "stages out of order", "stages": [stage["change"] for stage in stages]}
        return
    start = stages[0]
    length_s = start["planned_end"] - start["planned_start"]
    if not LENGTH_S[0] <= length_s <= LENGTH_S[1]:
        yield {"wrong": "planned for another time than 30 to 60 minutes", "planned_s": length_s}
    late_s = start["business_at"] - start["planned_start"]
    if late_s < 0:
        yield {"wrong": "begun before its planned start", "early_s": -late_s}
    if late_s > GRACE_S:
        yield {"wrong": "begun more than 15 minutes after its planned start", "late_s": late_s}
    if len(stages) < len(_STAGES):
        yield {"wrong": "begun and not opened again", "stage": stages[-1]["change"]}
        return
    _, _, verifying, opened = stages
    if not any(verifying["recorded_at"] <= passed <= opened["recorded_at"] for passed in verified):
        yield {"wrong": "opened without a full check of the ledger that passed meanwhile",
               "verifying_at": verifying["recorded_at"], "opened_at": opened["recorded_at"]}  # fmt: skip


def _published(events: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Moments at which the end that had been published last was in the past; `events` are in their order."""
    for before, event in pairwise(events):
        late_s = event["business_at"] - before["published_end"]
        if late_s > 0 and event["change"] == "opened":
            yield {"wrong": "opened later than was published", "late_s": late_s}
        elif late_s > 0 and event["change"] == "overrun":
            yield {"wrong": "overrun published after the end had passed", "late_s": late_s}


def _notices(window: Any, events: Sequence[Row], notices: Dump) -> Iterator[dict[str, Any]]:
    drained = next(event for event in events if event["change"] == "draining")
    carried_out = (window, drained["revision"])
    due = [plan for plan in rows_of_kind(notices, "plan") if (plan["window"], plan["revision"]) == carried_out]
    of_plan = [one for one in rows_of_kind(notices, "notice") if (one["window"], one["revision"]) == carried_out]
    effective = [one for one in of_plan if one["state"] == "sent"]
    told = Counter((one["account"], one["channel"]) for one in effective)
    to_tell = {
        (one["account"], one["channel"])
        for one in rows_of_kind(notices, "subscription")
        for plan in due
        if one["since"] <= plan.get("planned_at", one["since"])
    }
    # Whose subscription ended cannot be told there any more; whose did not is missed below. E-mail has no such excuse.
    ended = [one for one in of_plan if one["channel"] != EMAIL and one["state"] == "undeliverable"]
    planned = sum(plan["total"] for plan in due)
    if planned != len(effective) + len(ended) or not effective:
        yield {"wrong": "customers without a notice", "planned": [plan["total"] for plan in due],
               "sent": len(effective)}  # fmt: skip
    for account, channel in sorted(to_tell - told.keys())[:_TOLD_MAX]:
        yield {"wrong": "subscriber without a notice", "account": account, "channel": channel}
    by_mail = {account for account, channel in told if channel == EMAIL}
    for account in sorted({account for account, _ in (*told, *map(_whose, ended))} - by_mail)[:_TOLD_MAX]:
        yield {"wrong": "customer without an e-mail", "account": account}
    for (account, channel), times in told.items():
        if times > 1:
            yield {"wrong": "customer with more than one notice", "account": account, "channel": channel}
    late = [one for one in effective if drained["planned_start"] - one["sent_business_at"] < NOTICE_S]
    for one in late[:_TOLD_MAX]:
        yield {"wrong": "notice less than 24 hours ahead", "account": one["account"], "channel": one["channel"],
               "ahead_s": drained["planned_start"] - one["sent_business_at"]}  # fmt: skip


def _whose(notice: Row) -> tuple[Any, Any]:
    return notice["account"], notice["channel"]
