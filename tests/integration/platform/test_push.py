"""Web push: each subscriber has exactly one effective message of each change of plan, and only they can read it."""

import asyncio
import csv
import http.client
import json
import signal
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import pytest

from system_under_test.domain.p256 import public_key
from system_under_test.domain.web_push import encode64
from system_under_test.storage.key_file import P256, open_key
from tests.integration.platform.customers import until
from tests.integration.platform.mail import Post, metric
from tests.integration.platform.stage import PATIENT, Process, Stage, await_ready, await_true, free_port

CUSTOMERS: Final = 40
SUBSCRIBERS: Final = 30
WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A post with subscribers, its notifier, and a portal node with the customers who may log in there."""

    post: Post
    notifier: Process
    portal: Process
    customers: list[dict[str, str]]

    def everybody(self) -> Counter[str]:
        """What has to arrive of each revision: one message for each subscriber."""
        return Counter(row["account"] for row in self.customers[:SUBSCRIBERS])

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str = "") -> tuple[int, Any]:
        """One request to the portal; its answer as JSON where there is one."""
        return _exchange(self.portal.port, method, path, body, token)

    def log_in(self, number: int) -> tuple[str, str]:
        """Account and token of a customer."""
        row = self.customers[number]
        status, answer = self.ask("POST", "/v1/sessions", {"email": row["email"], "password": row["password"]})
        assert status == 201, answer
        return row["account"], answer["token"]

    def new_subscription(self) -> dict[str, Any]:
        """A device's subscription, as its browser would give it."""
        status, answer = _exchange(self.post.mailbox.port, "POST", "/subscriptions", {"count": 1}, "")
        assert status == 201, answer
        made: dict[str, Any] = answer["subscriptions"][0]
        return made

    async def push_states(self, window: int) -> Counter[str]:
        """How many push notices of a window's first revision are in each state."""
        async with self.post.database("auditor_dsn") as auditor:
            rows = await auditor.fetch(
                "select state from notice where window_id = $1 and revision = 1 and channel = 'push'", window
            )
        return Counter(row["state"] for row in rows)

    async def subscribed(self, account: str) -> bool:
        """Whether the platform knows a subscription of an account."""
        async with self.post.database("auditor_dsn") as auditor:
            found = await auditor.fetchval("select count(account) from push_subscription where account = $1", account)
        return bool(found)


def _exchange(port: int, method: str, path: str, body: Mapping[str, Any] | None, token: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None
    finally:
        connection.close()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Everything for all tests here, which leave it running and well."""
    stage = Stage(folder=tmp_path_factory.mktemp("push"))
    try:
        postgres = stage.add_database()
        mailbox = stage.add("mailbox", "mailbox", HOLDFAST_PORT_SMTP=str(free_port()))
        post = Post(stage=stage, postgres=postgres, mailbox=mailbox)
        post.await_mailbox()
        out = stage.folder / "accounts.csv"
        seeded = stage.run(
            *("seed", "--accounts", str(CUSTOMERS), "--out", str(out)),
            *("--push", str(SUBSCRIBERS), "--push-service", mailbox.outputs()["push_url"]),
            DATABASE_ADMIN_URL=postgres.outputs()["admin_dsn"],
        )
        assert seeded.returncode == 0, seeded.stderr
        with out.open(encoding="utf-8", newline="") as file:
            customers = list(csv.DictReader(file))
        portal = stage.add_portal("portal", postgres, PUSH_HOSTS=mailbox.outputs()["push_host"], **PATIENT)
        notifier = post.add_notifier("notifier")
        await_ready(portal)
        await_ready(notifier)
        await_true(lambda: portal.answers("/v1/push-key"), "the notifier has published its key")
        yield Room(post=post, notifier=notifier, portal=portal, customers=customers)
    finally:
        stage.close()


@pytest.fixture(autouse=True)
async def well(room: Room) -> AsyncIterator[None]:
    """After each test: what was killed runs again, and the push service behaves."""
    yield
    for process in room.post.stage.processes.values():
        if process.running is not None and process.running.poll() is not None and process.name != "stranger":
            process.start()
    room.post.await_mailbox()
    room.post.behave_as_push_service()


async def test_every_subscriber_is_told_on_both_channels_and_the_others_by_mail(room: Room) -> None:
    """One window: one message each that its device can read, one mail each besides, and the dump shows both."""
    before = room.post.received("pushes")["received"]
    window = await room.post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(window)
    assert room.post.pushed(window, 1) == room.everybody()
    assert len(room.post.arrived(window, 1)) == CUSTOMERS
    answer = room.post.received("pushes")
    assert answer["received"] - before == SUBSCRIBERS
    assert metric(room.post.mailbox, 'savings_mailbox_pushes_total{kind="unreadable"}') == 0
    assert answer["mails"][-1]["subject"].startswith("Planned maintenance: ")
    out = room.post.stage.folder / "notices.ndjson"
    dumped = room.post.stage.run(
        *("dump", "--rows", "notices", "--out", str(out)),
        DATABASE_AUDITOR_URL=room.post.postgres.outputs()["auditor_dsn"],
    )
    assert dumped.returncode == 0, dumped.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    plan = next(row for row in rows if row["row"] == "plan" and row["window"] == window)
    told = Counter(row["channel"] for row in rows if row["row"] == "notice" and row["window"] == window)
    assert told == {"email": CUSTOMERS, "push": SUBSCRIBERS}
    assert plan["total"] == CUSTOMERS + SUBSCRIBERS
    subscribed = [row for row in rows if row["row"] == "subscription"]
    assert {row["account"] for row in subscribed} == set(room.everybody())
    assert all(row["since"] < plan["planned_at"] for row in subscribed)


FAULTS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "has too much to do": ({"refuse": 429, "retry_after_s": 1}, "refused"),
    "is slower than anybody waits": ({"delay_s": 1.5}, "unanswered"),
    "takes each fifth message and says nothing": ({"drop_after_taking": True, "every": 5}, "unanswered"),
}
SLOW: Final = {"is slower than anybody waits"}


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=pytest.mark.prove if what in SLOW else ()) for what in FAULTS],
)
async def test_a_push_service_that_fails_for_a_while_costs_time_alone(room: Room, what: str) -> None:
    """A push service that <fault>, until failures of that reason are counted: then all is sent, once each."""
    behaviour, reason = FAULTS[what]
    name = f'savings_notice_failures_total{{reason="{reason}"}}'
    failures = metric(room.notifier, name)
    room.post.behave_as_push_service(**behaviour)
    window = await room.post.schedule()
    await asyncio.to_thread(await_true, lambda: metric(room.notifier, name) > failures, f"{name} grows")
    room.post.behave_as_push_service()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(window)
    assert room.post.pushed(window, 1) == room.everybody()
    assert await room.push_states(window) == {"sent": SUBSCRIBERS}


async def test_an_answer_given_twice_is_one_and_accepted_is_taken(room: Room) -> None:
    """202 instead of 201, every third time twice: one message each, none sent again."""
    duplicates = room.post.received("pushes")["duplicates"]
    room.post.behave_as_push_service(status=202, answer_twice=True, every=3)
    window = await room.post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(window)
    assert room.post.pushed(window, 1) == room.everybody()
    assert room.post.received("pushes")["duplicates"] == duplicates


async def test_a_push_service_that_is_away_and_comes_back_has_everything_once(room: Room) -> None:
    """SIGKILL of the mailbox, a window planned meanwhile, a new start: it knows its subscriptions, all arrives once."""
    name = 'savings_notice_failures_total{reason="unreachable"}'
    failures = metric(room.notifier, name)
    room.post.mailbox.end(signal.SIGKILL)
    window = await room.post.schedule()
    await asyncio.to_thread(await_true, lambda: metric(room.notifier, name) > failures, f"{name} grows")
    room.post.mailbox.start()
    room.post.await_mailbox()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(window)
    assert room.post.pushed(window, 1) == room.everybody()


async def test_a_moved_window_is_told_anew(room: Room) -> None:
    """Moved after all have the first plan: one message each of the second one."""
    window = await room.post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(window)
        await room.post.move(window)
        await room.post.await_sent(window, 2)
    assert room.post.pushed(window, 2) == room.everybody()


async def test_a_customer_subscribes_another_device_and_unsubscribes(room: Room) -> None:
    """Twice by the portal, the second device in place of the first: only that one is told; then none is."""
    account, token = room.log_in(SUBSCRIBERS)
    first, second = room.new_subscription(), room.new_subscription()
    for subscription in (first, {**second, "expirationTime": None}, second):
        assert room.ask("PUT", "/v1/push-subscription", subscription, token=token) == (204, None)
    window = await room.post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(window)
    assert room.post.pushed(window, 1) == room.everybody() + Counter([account])
    told = {mail["recipient"] for mail in room.post.received("pushes")["mails"]}
    assert second["endpoint"].rpartition("/")[2] in told
    assert first["endpoint"].rpartition("/")[2] not in told
    for _ in range(2):
        assert room.ask("DELETE", "/v1/push-subscription", token=token) == (204, None)
    other = await room.post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(other)
    assert room.post.pushed(other, 1) == room.everybody()


async def test_a_subscription_that_is_over_is_forgotten_and_holds_nothing_up(room: Room) -> None:
    """A device unsubscribed at its push service, which answers 410: undeliverable, forgotten, not waited for."""
    account, token = room.log_in(SUBSCRIBERS + 1)
    subscription = room.new_subscription()
    assert room.ask("PUT", "/v1/push-subscription", subscription, token=token)[0] == 204
    name = subscription["endpoint"].rpartition("/")[2]
    assert _exchange(room.post.mailbox.port, "DELETE", f"/subscriptions/{name}", None, "")[0] == 204
    window = await room.post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await until(lambda: room.push_states(window), lambda found: found["undeliverable"] == 1)
        await room.post.await_sent(window)
    assert (await room.post.progress(window, 1))["total"] == CUSTOMERS + SUBSCRIBERS
    assert not await room.subscribed(account)
    assert room.post.pushed(window, 1) == room.everybody()
    assert metric(room.notifier, 'savings_notice_failures_total{reason="gone"}') >= 1


async def test_devices_that_are_refused_for_good_are_forgotten_and_hold_nothing_up(room: Room) -> None:
    """Three of 73 subscribe where every message is answered with 405: more than a hundredth, and all else is sent."""
    others = range(CUSTOMERS - 3, CUSTOMERS)
    for number in others:
        account, token = room.log_in(number)
        subscription = {**room.new_subscription(), "endpoint": f"http://127.0.0.1:{room.post.mailbox.port}/metrics"}
        assert room.ask("PUT", "/v1/push-subscription", subscription, token=token)[0] == 204
        assert await room.subscribed(account)
    window = await room.post.schedule()
    async with asyncio.timeout(WITHIN_S):
        await until(lambda: room.push_states(window), lambda found: found["undeliverable"] == len(others))
        await room.post.await_sent(window)
    assert (await room.post.progress(window, 1))["total"] == CUSTOMERS + SUBSCRIBERS
    assert room.post.pushed(window, 1) == room.everybody()
    for number in others:
        assert not await room.subscribed(room.customers[number]["account"])


async def test_a_device_that_takes_the_place_of_a_lost_one_is_told_instead(room: Room) -> None:
    """The push service is busy while a customer changes devices and the first one ends: the second is told."""
    account, token = room.log_in(SUBSCRIBERS + 2)
    first, second = room.new_subscription(), room.new_subscription()
    assert room.ask("PUT", "/v1/push-subscription", first, token=token)[0] == 204
    room.post.behave_as_push_service(refuse=503)
    window = await room.post.schedule()
    name = first["endpoint"].rpartition("/")[2]
    assert _exchange(room.post.mailbox.port, "DELETE", f"/subscriptions/{name}", None, "")[0] == 204
    assert room.ask("PUT", "/v1/push-subscription", second, token=token)[0] == 204
    room.post.behave_as_push_service()
    async with asyncio.timeout(WITHIN_S):
        await room.post.await_sent(window)
    assert room.post.pushed(window, 1) == room.everybody() + Counter([account])
    assert room.ask("DELETE", "/v1/push-subscription", token=token)[0] == 204


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "https://push.example.net/mine"}, "endpoint"),
        ({"endpoint": "http://127.0.0.1:1/mine"}, "endpoint"),
        ({"endpoint": "http://127.0.0.1:99999/mine"}, "endpoint"),
        ({"keys": {"p256dh": "B" + "A" * 86, "auth": "A" * 22}}, "keys.p256dh"),
    ],
)
async def test_what_cannot_be_sent_to_is_refused(room: Room, change: dict[str, Any], field: str) -> None:
    """Another host, another port of this machine, a key beside the curve: 422 with the field, and nothing is kept."""
    account, token = room.log_in(SUBSCRIBERS + 3)
    status, answer = room.ask("PUT", "/v1/push-subscription", {**room.new_subscription(), **change}, token=token)
    assert (status, answer["type"], answer["field"]) == (422, "subscription-refused", field)
    assert not await room.subscribed(account)


async def test_the_key_is_made_once_kept_secret_and_served(room: Room) -> None:
    """The public half at /v1/push-key, the private one in a file of its owner alone, in no log and no table."""
    path = room.post.key_file
    key = open_key(path, P256)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert room.ask("GET", "/v1/push-key") == (200, {"public_key": encode64(public_key(key))})
    async with room.post.database("admin_dsn") as owner:
        stored = await owner.fetchval("select json_agg(k)::text from push_key k")
    told = room.notifier.log.read_text(encoding="utf-8") + stored
    assert encode64(key) not in told
    assert key.hex() not in told


@pytest.mark.prove
async def test_a_notifier_with_another_key_sends_mail_only_and_says_why(room: Room) -> None:
    """A second notifier with a key of its own, the first one ended: it says so; mails go out, no message is pushed."""
    room.notifier.end()
    post = room.post
    stranger = Post(stage=post.stage, postgres=post.postgres, mailbox=post.mailbox).add_notifier(
        "stranger", key_file=post.stage.folder / "another.key"
    )
    try:
        await asyncio.to_thread(await_true, lambda: bool(stranger.lines("push.foreign_key")), "it says so")
        assert metric(stranger, "savings_push_foreign_key") == 1
        window = await post.schedule()
        async with asyncio.timeout(WITHIN_S):
            await post.await_sent(window, at_least=CUSTOMERS)
        assert post.pushed(window, 1) == Counter()
        assert len(post.arrived(window, 1)) == CUSTOMERS
    finally:
        assert stranger.end() == 0
        room.notifier.start()
    async with asyncio.timeout(WITHIN_S):
        await post.await_sent(window)
    assert post.pushed(window, 1) == room.everybody()


async def test_the_auditor_sees_who_is_subscribed_and_not_how(room: Room) -> None:
    """Accounts and notices can be read; endpoints, secrets and addresses cannot."""
    async with room.post.database("auditor_dsn") as auditor:
        assert await auditor.fetchval("select count(account) from push_subscription") >= SUBSCRIBERS
        assert await auditor.fetchval("select count(*) from notice where channel = 'push'") >= SUBSCRIBERS
        for secret in ("endpoint from push_subscription", "address from notice", "n from notice n"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await auditor.fetchval(f"select {secret} limit 1")


@pytest.fixture
async def outbox(room: Room) -> AsyncIterator[Any]:
    """The owner's connection, in a transaction that is undone at the end and that the notifier cannot look into.

    In it: a window, its notices planned and due.
    """
    async with room.post.database("admin_dsn") as owner:
        undone = owner.transaction()
        await undone.start()
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


CLAIM: Final = "select * from claim_notices('push', $1, 60)"
GONE: Final = """
select mark_notices_failed(
    array_agg(id), array_agg(claims), array_agg('gone'::text), array_agg(''::text), array_agg(0.0::double precision))
from notice where id = any ($1)
"""


async def test_a_customer_who_subscribes_after_the_plan_does_not_hold_it_up(outbox: Any) -> None:
    """Three devices gone, more than a hundredth, and three new ones since: the plan's total stays without them."""
    ids = [row["id"] for row in await outbox.fetch(CLAIM, 3)]
    gone = (
        "delete from push_subscription s using notice n where n.id = any ($1) and s.account = n.account returning s.*"
    )
    devices = await outbox.fetch(gone, ids)
    await outbox.execute(GONE, ids)
    for device in devices:
        await outbox.execute(
            "insert into push_subscription (account, endpoint, p256dh, auth) values ($1, $2, $3, $4)",
            *(device["account"], device["endpoint"], device["p256dh"], device["auth"]),
        )
    total = await outbox.fetchval(
        "select p.total from maintenance_window w, notice_progress(w.id, 1) p order by w.id desc"
    )
    everything = await outbox.fetchval(
        "select count(*) from notice where window_id = (select max(id) from maintenance_window)"
    )
    assert total == everything - 3


async def test_a_notice_whose_device_is_gone_waits_for_the_customers_other_one(outbox: Any) -> None:
    """Two claimed, for devices that are gone; the first customer changes devices meanwhile: only that one waits."""
    ids = [row["id"] for row in await outbox.fetch(CLAIM, 2)]
    await outbox.execute(
        "update push_subscription s set endpoint = s.endpoint || 'x' from notice n"
        " where n.id = $1 and s.account = n.account",
        ids[0],
    )
    await outbox.execute(GONE, ids)
    states = await outbox.fetch("select state from notice where id = any ($1) order by id", ids)
    assert [row["state"] for row in states] == ["waiting", "undeliverable"]


async def test_a_claim_that_ran_out_leaves_a_notice_that_was_perhaps_sent(outbox: Any) -> None:
    """Claimed, its claimer never heard of again, claimed once more: perhaps sent, as it was not at the first claim."""
    (row,) = await outbox.fetch(CLAIM, 1)
    perhaps = "select perhaps_sent from notice where id = $1"
    assert await outbox.fetchval(perhaps, row["id"]) is False
    await outbox.execute("update notice set due_at = now() - interval '1 second' where id = $1", row["id"])
    (again,) = await outbox.fetch(CLAIM, 1)
    assert again["id"] == row["id"]
    assert await outbox.fetchval(perhaps, row["id"]) is True


async def test_a_clock_that_was_set_back_holds_no_notice_up(outbox: Any) -> None:
    """Due in a day, later than any notice is asked to wait: due now. Five minutes, a long claim's hour: not due."""
    ids = [row["id"] for row in await outbox.fetch(CLAIM, SUBSCRIBERS)]
    assert len(ids) == SUBSCRIBERS
    waiting, soon, claimed, long_claimed, *others = ids
    await outbox.execute("update notice set state = 'waiting' where id = any ($1)", [waiting, soon])
    due_at = "update notice set due_at = now() + $2::text::interval where id = any ($1)"
    for numbers, after in (([waiting, claimed], "1 day"), ([soon], "5 minutes"), ([long_claimed, *others], "1 hour")):
        await outbox.execute(due_at, numbers, after)
    assert await outbox.fetchval("select due_notices('push', 100)") == 2
    assert {row["id"] for row in await outbox.fetch(CLAIM, 100)} == {waiting, claimed}
