"""What customers are told of a maintenance window, how a notice is named, and when a failed one is tried again.

window 7, revision 1   scheduled    -> a notice to every customer
window 7, revision 2   moved        -> a notice to every customer, which replaces the first
window 7, revision 3   cancelled    -> a notice to every customer who may have had one of the others
"""

import json
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

RETRY_FIRST_S: Final = 0.25
RETRY_MOST_S: Final = 15.0
ADDRESS_TRIES: Final = 3
"""Refusals of one customer's address until the notice counts as undeliverable: a provider may be wrong for a while."""

Kind = Literal["planned", "cancelled"]

_WIDTH: Final = 72
_POSSIBLE: Final = """\
What stays possible meanwhile:

- Redemptions are taken at any time. They wait in the order in which they
  arrive, whatever the size of the account, and are settled as soon as the
  service reopens.
- Interest is credited every hour, as always.
- The state of the service, the time left and your place in the queue are
  shown at /v1/status and /v1/schedule.

The dashboard and your balance are closed until the ledger is verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One change of plan: what every notice of it says. The times are business time."""

    window: int
    revision: int
    kind: Kind
    planned_start: datetime
    planned_end: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What a customer reads."""

    subject: str
    body: str


def compose(plan: Plan) -> Text:
    """The subject, one line, and the body of a notice; the same for all customers."""
    start, end = _moment(plan.planned_start), _moment(plan.planned_end)
    if plan.planned_start.astimezone(UTC).date() == plan.planned_end.astimezone(UTC).date():
        end = end.partition(" ")[2]
    what = "Planned maintenance" if plan.kind == "planned" else "Maintenance cancelled"
    return Text(
        subject=f"{what}: {start} to {end} UTC (window {plan.window}, revision {plan.revision})",
        body="\n\n".join(_planned(plan) if plan.kind == "planned" else _cancelled(plan)) + "\n",
    )


def push_text(plan: Plan, *, account: str) -> bytes:
    """What a customer's device is told by web push, as JSON; `topic` is what it replaces, `id` names the notice."""
    what = (
        "The savings service will be closed for maintenance. Redemptions are taken all the time."
        if plan.kind == "planned"
        else "The maintenance will not take place."
    )
    message = {
        "id": notice_name(plan, account=account, channel="push"),
        "topic": topic(plan),
        "title": compose(plan).subject,
        "body": " ".join(f"{what} {plan.reason}".split()),
        "kind": plan.kind,
        "planned_start": plan.planned_start.astimezone(UTC).isoformat(),
        "planned_end": plan.planned_end.astimezone(UTC).isoformat(),
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def topic(plan: Plan) -> str:
    """The same for all plans of a window: of two that wait for a device, only the newer one is to be shown."""
    return f"window-{plan.window}"


def notice_name(plan: Plan, *, account: str, channel: str) -> str:
    """The name of a notice: the same at every try, so that a receiver that gets it twice can keep one."""
    return f"{topic(plan)}.revision-{plan.revision}.{account}.{channel}"


def message_id(plan: Plan, *, account: str, channel: str, domain: str) -> str:
    """A notice's name in the form of a Message-ID."""
    return f"<{notice_name(plan, account=account, channel=channel)}@{domain}>"


def retry_after_s(failures: int, *, jitter_ratio: float) -> float:
    """Wall seconds to wait after the n-th failure in a row (n from 1): doubling up to a limit, less up to a half.

    `jitter_ratio` is from 0 to 1, drawn by the caller, so that what failed together is not tried again together.
    """
    # Compared as exponents: a count of years of failures must not become a number of a thousand digits.
    doubled_s = RETRY_FIRST_S * 2.0 ** min(failures - 1, 16)
    return min(RETRY_MOST_S, doubled_s) * (1 - jitter_ratio / 2)


def connections_for(due: int, *, batch: int, most: int) -> int:
    """How many connections to open for `due` notices: as many as have a batch to send, never more than `most`."""
    return min(most, -(-due // batch))


def _planned(plan: Plan) -> list[str]:
    start, end = _moment(plan.planned_start), _moment(plan.planned_end)
    parts = [
        "Dear customer,",
        f"the savings service will be closed for maintenance\n\n    from  {start} UTC\n    to    {end} UTC",
        *_reason(plan),
    ]
    if plan.revision > 1:
        parts.append(f"{_replaces(plan)}:\nonly the times above hold.")
    return [*parts, _POSSIBLE, _signature(plan)]


def _cancelled(plan: Plan) -> list[str]:
    start, end = _moment(plan.planned_start), _moment(plan.planned_end)
    return [
        "Dear customer,",
        f"the maintenance that was planned\n\n    from  {start} UTC\n    to    {end} UTC\n\nis cancelled.",
        *_reason(plan),
        f"{_replaces(plan)}.",
        _signature(plan),
    ]


def _replaces(plan: Plan) -> str:
    return f"This notice replaces the notice of revision {plan.revision - 1}, and any before it"


def _reason(plan: Plan) -> list[str]:
    reason = " ".join(plan.reason.split())
    return [textwrap.fill(f"Reason: {reason}", _WIDTH)] if reason else []


def _signature(plan: Plan) -> str:
    return f"Window {plan.window}, revision {plan.revision}"


def _moment(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return utc.strftime("%Y-%m-%d %H:%M:%S" if utc.second else "%Y-%m-%d %H:%M")
