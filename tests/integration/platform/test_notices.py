"""Every customer has exactly one effective notice of each change of plan, whatever the provider and the notifier do."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from tests.integration.platform.customers import until
from tests.integration.platform.mail import CUSTOMERS, Post, metric, open_post
from tests.integration.platform.stage import Process, Stage, await_true

WITHIN_S = 40.0
UNANSWERED = 'savings_notice_failures_total{reason="unanswered"}'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Post, Process]]:
    """A database, a mailbox and a notifier for all tests here, which leave all three running and well."""
    stage = Stage(folder=tmp_path_factory.mktemp("notices"))
    try:
        post = open_post(stage)
        yield post, post.add_notifier("notifier")
    finally:
        stage.close()


@pytest.fixture
async def post(shared: tuple[Post, Process]) -> AsyncIterator[Post]:
    """The shared post; all that a test killed is started again, and behaves well."""
    post, _ = shared
    yield post
    for process in post.stage.processes.values():
        if process.running is not None and process.running.poll() is not None:
            process.start()
    post.await_mailbox()
    post.behave()


@pytest.fixture
def notifier(shared: tuple[Post, Process]) -> Process:
    """The shared notifier."""
    return shared[1]


@pytest.fixture
def hasty(post: Post, notifier: Process, stage: Stage) -> Iterator[Process]:
    """A notifier whose claims run out soon, instead of the shared one."""
    notifier.end()
    own = Post(stage=stage, postgres=post.postgres, mailbox=post.mailbox).add_notifier(
        "hasty", timeout_s=0.25, claim_s=2.5
    )
    try:
        yield own
    finally:
        assert own.running is not None
        if own.running.poll() is None:
            own.send_signal(signal.SIGCONT)
            own.end()
        notifier.start()


def one_each() -> Counter[str]:
    """What has to arrive of each revision."""
    return Counter(f"saver-{number:06}@savings.example" for number in range(1, CUSTOMERS + 1))


async def states(post: Post, window: int) -> dict[tuple[int, str], int]:
    """How many notices of each revision are in each state."""
    async with post.database("auditor_dsn") as auditor:
        rows = await auditor.fetch(
            "select revision, state, count(*) from notice where window_id = $1 group by 1, 2", window
        )
    return {(row["revision"], row["state"]): row["count"] for row in rows}


async def test_a_new_window_is_told_to_everybody_once(post: Post, notifier: Process) -> None:
    """One window, nothing goes wrong: one mail each and no other, its times recorded, the gauges follow."""
    before = post.received()["received"]
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()
    assert post.received()["received"] - before == CUSTOMERS
    mail = post.received()["mails"][-1]
    row = await post.ask("auditor_dsn", "select * from notice_plan where window_id = $1", window)
    start = row["planned_start"].strftime("%Y-%m-%d %H:%M")
    assert mail["subject"].startswith(f"Planned maintenance: {start}")
    assert mail["subject"].endswith(f"(window {window}, revision 1)")
    # The clock runs at rate 1 from the time of the migration: business time is wall time.
    assert datetime.fromisoformat(mail["received_at"]) <= row["last_sent_business_at"]
    await asyncio.to_thread(
        await_true, lambda: metric(notifier, 'savings_notices{state="unsent"}') == 0, "the gauge follows"
    )
    assert metric(notifier, "savings_notices_sent_total") >= CUSTOMERS
    assert metric(notifier, "savings_notices_oldest_unsent_seconds") == 0


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "refuses connections": ({"refuse": "connection", "code": 421}, "refused"),
    "refuses senders": ({"refuse": "MAIL"}, "refused"),
    "refuses recipients for now": ({"refuse": "RCPT"}, "refused"),
    "refuses the command": ({"refuse": "DATA"}, "refused"),
    "refuses contents for good": ({"refuse": "content", "code": 554}, "refused"),
    "is slower than anybody waits": ({"delay_s": 1.2}, "unreachable"),
    "takes each mail and says nothing": ({"drop_after_data": True}, "unanswered"),
    "takes each seventh mail and says nothing": ({"drop_after_data": True, "every": 7}, "unanswered"),
    "answers each seventh mail twice": ({"answer_twice": True, "every": 7}, "refused"),
}


@pytest.mark.parametrize("what", FAULTS)
async def test_a_provider_that_fails_for_a_while_costs_time_alone(post: Post, notifier: Process, what: str) -> None:
    """A provider that <fault>, until failures of that reason are counted: then all is sent, once each, none lost."""
    behaviour, reason = FAULTS[what]
    name = f'savings_notice_failures_total{{reason="{reason}"}}'
    failures = metric(notifier, name)
    post.behave(**behaviour)
    window = await post.schedule()
    await asyncio.to_thread(await_true, lambda: metric(notifier, name) > failures, f"{name} grows")
    post.behave()
    async with asyncio.timeout(WITHIN_S):
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()
    assert await states(post, window) == {(1, "sent"): CUSTOMERS}


async def test_a_slow_provider_delays_and_loses_nothing(post: Post, notifier: Process) -> None:
    """Five milliseconds before each of four answers: everything is sent, once each, and none is given up for it."""
    duplicates, unanswered = post.received()["duplicates"], metric(notifier, UNANSWERED)
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()
    assert post.received()["duplicates"] - duplicates <= metric(notifier, UNANSWERED) - unanswered


async def test_a_provider_that_is_away_costs_no_notice_a_try(post: Post, notifier: Process) -> None:
    """The mailbox killed, a window planned meanwhile: nothing is claimed; all is sent once when it is back."""
    before = post.received()["received"]
    name = 'savings_notice_failures_total{reason="unreachable"}'
    failures = metric(notifier, name)
    post.mailbox.end(signal.SIGKILL)
    window = await post.schedule()
    await asyncio.to_thread(await_true, lambda: metric(notifier, name) >= failures + 2, f"{name} grows")
    tries = await post.ask("auditor_dsn", "select sum(claims) as claims from notice where window_id = $1", window)
    assert tries["claims"] == 0
    oldest = "savings_notices_oldest_unsent_seconds"
    await asyncio.to_thread(await_true, lambda: metric(notifier, oldest) > 0, "the gauge shows that somebody waits")
    post.mailbox.start()
    post.await_mailbox()
    async with asyncio.timeout(WITHIN_S):
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()
    assert post.received()["received"] == before + CUSTOMERS


async def test_a_provider_killed_in_the_middle_keeps_its_word(post: Post) -> None:
    """SIGKILL of the mailbox while mails come in: all that it answered for is there, and each is effective once."""
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_arrived(window, at_least=20)
        post.mailbox.end(signal.SIGKILL)
        assert (await post.progress(window, 1))["sent"] < CUSTOMERS, "the kill came too late to prove anything"
        post.mailbox.start()
        post.await_mailbox()
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()


async def test_a_notifier_killed_in_the_middle_leaves_no_one_out(post: Post, hasty: Process) -> None:
    """SIGKILL while mails go out, and a new start: its claims come back, each customer has one effective notice."""
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_arrived(window, at_least=20)
        hasty.end(signal.SIGKILL)
        assert (await states(post, window)).get((1, "claimed"), 0) > 0, "the kill left no claim to prove anything"
        post.behave()
        hasty.start()
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()


async def test_a_notifier_frozen_past_its_claims_begins_no_notice_when_it_thaws(
    post: Post, hasty: Process, stage: Stage
) -> None:
    """SIGSTOP in the middle, another notifier sends the rest, SIGCONT: at most the mails under way come once more."""
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_arrived(window, at_least=20)
        hasty.send_signal(signal.SIGSTOP)
        other = Post(stage=stage, postgres=post.postgres, mailbox=post.mailbox).add_notifier("other")
        post.behave()
        await post.await_sent(window)
    before = post.received()["received"]
    hasty.send_signal(signal.SIGCONT)
    assert hasty.end() == 0
    other.end()
    # Each of the four connections may be in the middle of one.
    assert post.received()["received"] <= before + 4
    assert post.arrived(window, 1) == one_each()


async def test_two_notifiers_share_the_work_and_send_nothing_twice(post: Post, notifier: Process, stage: Stage) -> None:
    """A second notifier beside the shared one: both send, and no more arrives twice than was left unanswered."""
    second = Post(stage=stage, postgres=post.postgres, mailbox=post.mailbox).add_notifier("second")
    await asyncio.to_thread(await_true, lambda: second.answers("/readyz"), "the second is ready")
    duplicates, unanswered = post.received()["duplicates"], metric(notifier, UNANSWERED)
    post.behave(delay_s=0.002)
    windows = [await post.schedule() for _ in range(3)]
    async with asyncio.timeout(WITHIN_S):
        for window in windows:
            await post.await_sent(window)
    assert metric(second, "savings_notices_sent_total") > 0
    assert metric(second, "savings_notices_sent_total") < 3 * CUSTOMERS
    # On a machine that stands still for a second, an answer may come too late.
    unanswered = metric(notifier, UNANSWERED) + metric(second, UNANSWERED) - unanswered
    assert second.end() == 0
    assert [post.arrived(window, 1) for window in windows] == [one_each()] * 3
    assert post.received()["duplicates"] - duplicates <= unanswered


async def test_a_moved_window_is_told_anew_and_the_old_time_no_longer(post: Post) -> None:
    """Moved in the middle: what was not sent is withdrawn, everybody has the new time, and has it last."""
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_arrived(window, at_least=20)
        await post.move(window)
        post.behave()
        await post.await_sent(window, 2)
    assert post.arrived(window, 2) == one_each()
    old = post.arrived(window, 1)
    assert set(old.values()) == {1}
    assert len(old) < CUSTOMERS
    mails = post.received()["mails"]
    last = {mail["recipient"]: mail["message_id"] for mail in mails if f"<window-{window}." in mail["message_id"]}
    assert all(".revision-2." in message_id for message_id in last.values())
    await until(lambda: states(post, window), lambda found: (1, "claimed") not in found)
    assert await states(post, window) == {
        (1, "sent"): len(old),
        (1, "withdrawn"): CUSTOMERS - len(old),
        (2, "sent"): CUSTOMERS,
    }
    assert (await post.progress(window, 1))["sent"] == len(old)


async def test_a_newer_notice_waits_for_an_older_one_that_may_be_on_its_way(post: Post, hasty: Process) -> None:
    """Moved while a killed notifier has claims: those customers get the new notice when the claims have run out."""
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_arrived(window, at_least=20)
        hasty.end(signal.SIGKILL)
        post.behave()
        await post.move(window)
        claims = await post.ask(
            "auditor_dsn",
            "select count(*) as held, max(due_at) as until from notice"
            " where window_id = $1 and state = 'withdrawn' and perhaps_sent",
            window,
        )
        assert claims["held"] > 0
        hasty.start()
        await post.await_sent(window, 2)
    assert post.arrived(window, 2) == one_each()
    early = await post.ask(
        "auditor_dsn",
        "select count(*) as early from notice o join notice n using (window_id, account, channel)"
        " where window_id = $1 and o.state = 'withdrawn' and o.perhaps_sent and n.revision = 2"
        " and n.sent_at < o.due_at",
        window,
    )
    assert early["early"] == 0


async def test_a_cancelled_window_is_told_to_those_who_may_know_of_it(post: Post) -> None:
    """Cancelled in the middle: whoever had, or may have had, the notice is told so; nobody else hears of it at all."""
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_arrived(window, at_least=20)
        await post.cancel(window)
        post.behave()
        await post.await_sent(window, 2)
        await until(lambda: states(post, window), lambda found: (1, "claimed") not in found)
    told, cancelled = post.arrived(window, 1), post.arrived(window, 2)
    assert set(told) <= set(cancelled)
    assert set(cancelled.values()) == {1}
    total = (await post.progress(window, 2))["total"]
    assert total == len(cancelled)
    assert total < CUSTOMERS


async def test_a_window_cancelled_before_anybody_knew_is_told_to_nobody(post: Post) -> None:
    """Planned and cancelled while the provider refuses all connections: no mail of it ever arrives."""
    post.behave(refuse="connection")
    window = await post.schedule()
    await post.cancel(window)
    post.behave()
    other = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_sent(other)
    assert post.arrived(window, 1) + post.arrived(window, 2) == Counter()
    assert await states(post, window) == {(1, "withdrawn"): CUSTOMERS}


async def test_a_stop_gives_back_what_was_claimed(post: Post, notifier: Process) -> None:
    """SIGTERM while mails go out slowly: an orderly end, and nothing is left claimed; a new start sends the rest."""
    post.behave(delay_s=0.02)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await until(lambda: states(post, window), lambda found: (1, "claimed") in found)
        assert await asyncio.to_thread(notifier.end) == 0
        assert (1, "claimed") not in await states(post, window)
        post.behave()
        notifier.start()
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()


async def test_a_stop_does_not_wait_for_a_provider_that_says_nothing(
    post: Post, notifier: Process, stage: Stage
) -> None:
    """SIGTERM with every connection in the middle of a minute's silence: an orderly end within seconds."""
    notifier.end()
    patient = Post(stage=stage, postgres=post.postgres, mailbox=post.mailbox).add_notifier(
        "patient", timeout_s=60, claim_s=600
    )
    post.behave(delay_s=60)
    window = await post.schedule()
    await asyncio.to_thread(
        await_true, lambda: metric(patient, "savings_notice_connections") > 0, "it waits for a greeting"
    )
    assert await asyncio.to_thread(patient.end, within_s=10) == 0
    assert await states(post, window) == {(1, "waiting"): CUSTOMERS}


async def test_a_database_killed_in_the_middle_costs_time_alone(post: Post, notifier: Process) -> None:
    """SIGKILL of PostgreSQL while mails go out, and a new start: what was sent is recorded, not sent again."""
    duplicates, unanswered = post.received()["duplicates"], metric(notifier, UNANSWERED)
    post.behave(delay_s=0.005)
    window = await post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await post.await_arrived(window, at_least=20)
        await asyncio.to_thread(post.postgres.end, signal.SIGKILL)
        post.behave()
        post.postgres.start()
        await asyncio.to_thread(await_true, lambda: post.stage.is_up(post.postgres), "postgres is back")
        await post.await_sent(window)
    assert post.arrived(window, 1) == one_each()
    assert post.received()["duplicates"] - duplicates <= metric(notifier, UNANSWERED) - unanswered


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("notifier_dsn", "select plan_notices(1, 1)"),
        ("notifier_dsn", "select cancel_notices(1)"),
        ("notifier_dsn", "select withdraw_notices(1)"),
        ("notifier_dsn", "select * from notice"),
        ("notifier_dsn", "update notice set state = 'waiting'"),
        ("notifier_dsn", "select * from customer"),
        ("notifier_dsn", "select * from account"),
        ("maintenance_dsn", "select * from claim_notices('email', 1, 1)"),
        ("maintenance_dsn", "select mark_notices_sent('{1}')"),
        ("maintenance_dsn", "delete from notice"),
        ("dsn", "select plan_notices(1, 1)"),
        ("dsn", "select * from claim_notices('email', 1, 1)"),
        ("dsn", "select * from notice"),
        ("settlement_dsn", "select mark_notices_failed('{1}', '{1}', '{released}', '{x}', '{0}')"),
        ("auditor_dsn", "update notice_plan set sent = total"),
        ("auditor_dsn", "select mark_notices_sent('{1}')"),
    ],
)
async def test_nobody_may_do_another_ones_part(post: Post, role: str, statement: str) -> None:
    """Each forbidden act as each role: insufficient privilege, or no writing at all."""
    async with post.database(role) as connection:
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
            await connection.execute(statement)


@pytest.fixture
async def outbox(post: Post, notifier: Process) -> AsyncIterator[Any]:
    """The owner's connection to the database, in a transaction that is undone at the end; nobody else sends meanwhile.

    In it: a window, its notices planned.
    """
    notifier.end()
    async with post.database("admin_dsn") as owner:
        undone = owner.transaction()
        await undone.start()
        # Nothing left of other tests is due before the notices of this one.
        await owner.execute("update notice set due_at = 'infinity' where state in ('waiting', 'claimed')")
        await owner.execute(
            "insert into maintenance_window (planned_start, planned_end, published_end, reason)"
            " values ('2999-01-01', '2999-01-01 00:45', '2999-01-01 00:45', 'new disks')"
        )
        await owner.execute("select plan_notices(max(id), 1) from maintenance_window")
        # In this transaction `now()` stands still.
        await owner.execute(
            "update notice set due_at = now() where window_id = (select max(id) from maintenance_window)"
        )
        yield owner
        await undone.rollback()
    notifier.start()


CLAIM = "select id, claim from claim_notices('email', $1, $2)"
FAIL = "select mark_notices_failed($1, $2, $3, $4, $5) as marked"


def failed(claims: list[Any], outcome: str) -> tuple[list[Any], ...]:
    """The arguments that give these claims back."""
    return (
        [claim["id"] for claim in claims],
        [claim["claim"] for claim in claims],
        [outcome] * len(claims),
        ["because"] * len(claims),
        [0.0] * len(claims),
    )


async def progress(owner: Any) -> tuple[int, int]:
    """Total and sent of the newest window's first revision."""
    row = await owner.fetchrow(
        "select p.total, p.sent from maintenance_window w, notice_progress(w.id, 1) p order by w.id desc limit 1"
    )
    return row["total"], row["sent"]


async def test_planning_again_changes_nothing(outbox: Any) -> None:
    """The same revision twice: the same number, no new notice; a window or revision that is not there: an error."""
    before = await outbox.fetchval("select count(*) from notice")
    again = await outbox.fetchval("select plan_notices(max(id), 1) from maintenance_window")
    assert (again, await outbox.fetchval("select count(*) from notice")) == (CUSTOMERS, before)
    for wrong in ("select plan_notices(max(id), 2) from maintenance_window", "select plan_notices(987654321, 1)"):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="there is no window"):
            async with outbox.transaction():
                await outbox.execute(wrong)


async def test_a_late_plan_is_refused(outbox: Any) -> None:
    """A plan for the revision that was the cancellation: an error, because customers know better by now."""
    await outbox.execute(
        "update maintenance_window set revision = 2, stage = 'cancelled'"
        " where id = (select max(id) from maintenance_window)"
    )
    assert await outbox.fetchval("select cancel_notices(max(id)) from maintenance_window") == 0
    assert await outbox.fetchval("select cancel_notices(max(id)) from maintenance_window") == 0
    with pytest.raises(asyncpg.InvalidParameterValueError, match="too late"):
        await outbox.execute("select plan_notices(max(id), 2) from maintenance_window")


async def test_a_claim_is_exclusive_until_it_runs_out(outbox: Any) -> None:
    """Some are claimed for a minute, some until a minute ago: only these are given again, under a new number."""
    held = await outbox.fetch(CLAIM, 10, 60.0)
    over = await outbox.fetch(CLAIM, 10, -60.0)
    again = await outbox.fetch(CLAIM, CUSTOMERS, 60.0)
    numbers = {row["id"]: row["claim"] for row in again}
    assert len(held) == len(over) == 10
    assert len(again) == CUSTOMERS - len(held)
    assert {row["id"] for row in held}.isdisjoint(numbers)
    assert {numbers[row["id"]] - row["claim"] for row in over} == {1}
    assert await outbox.fetch(CLAIM, CUSTOMERS, 60.0) == []


async def test_whoever_lost_a_claim_cannot_give_the_notice_back(outbox: Any) -> None:
    """A claim that another one has taken over: its failure is not recorded, its success is, and only once."""
    (claim,) = await outbox.fetch(CLAIM, 1, -60.0)
    (taken_over,) = await outbox.fetch(CLAIM, 1, 60.0)
    assert (taken_over["id"], taken_over["claim"]) == (claim["id"], claim["claim"] + 1)
    assert await outbox.fetchval(FAIL, *failed([claim], "refused")) == 0
    assert await outbox.fetchval("select mark_notices_sent($1)", [claim["id"]]) == 1
    assert await outbox.fetchval("select mark_notices_sent($1)", [claim["id"]]) == 0
    assert await outbox.fetchval(FAIL, *failed([taken_over], "refused")) == 0
    assert await progress(outbox) == (CUSTOMERS, 1)


async def test_addresses_that_are_refused_for_good_do_not_hold_up_a_window_unless_they_are_many(outbox: Any) -> None:
    """1 % and one of 300 may be undeliverable, so 4: left out of the total; a fifth is not; one sent late counts."""
    claims = await outbox.fetch(CLAIM, 5, 60.0)
    assert await outbox.fetchval(FAIL, *failed(claims[:4], "undeliverable")) == 4
    assert await progress(outbox) == (CUSTOMERS - 4, 0)
    assert await outbox.fetchval(FAIL, *failed(claims[4:], "undeliverable")) == 1
    assert await progress(outbox) == (CUSTOMERS - 4, 0)
    assert await outbox.fetchval("select mark_notices_sent($1)", [claims[0]["id"]]) == 1
    assert await progress(outbox) == (CUSTOMERS - 4, 1)


async def test_an_outcome_that_does_not_exist_is_refused(outbox: Any) -> None:
    """A word of no meaning, and none: an error that says which there are."""
    claims = await outbox.fetch(CLAIM, 1, 60.0)
    for word in ("forgotten", None):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="expected released, refused"):
            async with outbox.transaction():
                await outbox.execute(FAIL, *failed(claims, word))  # type: ignore[arg-type]
