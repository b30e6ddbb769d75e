"""The provider of e-mail is away while business hours pass: windows wait, and nobody is told twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import aiohttp
import pytest

from tests.integration.platform.customers import send, until
from tests.integration.platform.mail import Post
from tests.integration.platform.operations import Company, Operator, operate
from tests.integration.platform.stage import Stage, await_ready, free_port

_CUSTOMERS: Final = 60
_NOTICE: Final = timedelta(hours=24)
_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """A small platform with a notifier, and the provider that it sends by."""

    company: Company
    post: Post


@pytest.fixture
def office(stage: Stage) -> Office:
    """Started in full; the notifier's claims run out soon."""
    postgres = stage.add_database()
    mailbox = stage.add("mailbox", "mailbox", HOLDFAST_PORT_SMTP=str(free_port()))
    post = Post(stage=stage, postgres=postgres, mailbox=mailbox)
    post.await_mailbox()
    portal = stage.add_portal("portal-1", postgres)
    company = Company(
        stage=stage,
        postgres=postgres,
        portals=[portal],
        maintenance=stage.add_maintenance(postgres),
        balancer=portal,
        customers=stage.seed(postgres, customers=_CUSTOMERS),
    )
    for process in (portal, post.add_notifier("notifier", timeout_s=0.3, claim_s=3.0)):
        await_ready(process)
    return Office(company=company, post=post)


@pytest.fixture
async def operator(office: Office, session: aiohttp.ClientSession) -> AsyncIterator[Operator]:
    """The office's operator."""
    async with operate(office.company, session) as operator:
        yield operator


async def moved(operator: Operator, window: int, revision: int) -> Any:
    """Lets business time go on until it is too late for the notices of the plan; gives the window when it has moved."""
    planned = await operator.row(window)
    await operator.forward(planned["planned_start"] - _NOTICE + timedelta(minutes=1))
    async with asyncio.timeout(_WITHIN_S):
        row = await until(lambda: operator.row(window), lambda row: row["revision"] == revision)
    assert row["stage"] == "scheduled"
    assert row["planned_start"] > await operator.clock() + _NOTICE
    return row


async def test_a_window_waits_until_its_notices_can_be_sent_and_everybody_is_told_once(
    office: Office, operator: Operator
) -> None:
    """The provider stops when some have been told; hours pass, twice too many for the plan; then it is back.

    Each time the window moves and its public record says why. Afterwards every customer has exactly one notice by each
    channel of the plan that holds, 24 business hours ahead and as the last that they were told of it; those who had
    been told of the first plan were so once, and nobody heard of the plan in between.
    """
    post = office.post
    customers = Counter(row["email"] for row in office.company.customers)
    post.behave(delay_s=0.05)
    window = await operator.plan(hours_ahead=26)
    async with asyncio.timeout(_WITHIN_S):
        await post.await_arrived(window, at_least=3)
    assert await asyncio.to_thread(post.mailbox.end) == 0
    reasons = [(await moved(operator, window, revision))["reason"] for revision in (2, 3)]
    last = await operator.row(window)
    post.mailbox.start()
    await asyncio.to_thread(post.await_mailbox)
    noticed = await operator.reaches(window, "noticed", within_s=_WITHIN_S)
    assert (noticed["revision"], noticed["planned_start"]) == (3, last["planned_start"])

    assert reasons[0].endswith(f"of {_CUSTOMERS} notices could not be sent 24 hours ahead")
    assert reasons[1] == f"{_CUSTOMERS} of {_CUSTOMERS} notices could not be sent 24 hours ahead"
    early = post.arrived(window, 1)
    assert 3 <= len(early) < _CUSTOMERS
    assert set(early.values()) == {1}
    assert (post.arrived(window, 2), post.arrived(window, 3)) == (Counter(), customers)
    newest = {mail["recipient"]: mail["message_id"] for mail in post.received()["mails"]}
    assert {message_id.partition(".revision-")[2][0] for message_id in newest.values()} == {"3"}

    sent = await operator.owner.fetch(
        "select account, channel, count(*) as notices, max(sent_business_at) as latest from notice"
        " where window_id = $1 and revision = 3 and state = 'sent' group by account, channel",
        window,
    )
    told_by = await operator.owner.fetch("select account, channel from notice_recipient")
    assert {(row["account"], row["channel"]) for row in sent} == {tuple(row) for row in told_by}
    assert {row["notices"] for row in sent} == {1}
    assert max(row["latest"] for row in sent) <= noticed["planned_start"] - _NOTICE

    url = f"http://127.0.0.1:{office.company.portals[0].port}/v1/schedule"
    (listed,) = (await send(operator.session, "GET", url)).body["windows"]
    assert [(event["change"], event["revision"], event["reason"]) for event in listed["events"][1:]] == [
        ("moved", 2, reasons[0]),
        ("moved", 3, reasons[1]),
        ("noticed", 3, noticed["reason"]),
    ]
