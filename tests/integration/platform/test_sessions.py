"""Sessions: who is let in, how often one may try, how one leaves, and what is told after the service reopened."""

import asyncio
import csv
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from system_under_test.logs import configure_logs
from system_under_test.services.portal.requests import hash_token
from system_under_test.services.portal.routes import ROUTES
from system_under_test.services.service import Service
from system_under_test.services.synchroniser import keep_synchronised
from system_under_test.storage.database import Database, DatabaseLimits
from tests.integration.platform.customers import Customer, Reply, log_in, send, until
from tests.integration.platform.stage import Platform, start_platform

_SUBSCRIPTION = {
    "endpoint": "https://push.example/a",
    "keys": {"p256dh": f"B{'A' * 86}", "auth": "A" * 22},
}
AUTHENTICATED = [route for route in ROUTES if route.authenticated]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two portals of this module's own: its tests close and reopen the service."""
    yield from start_platform(tmp_path_factory.mktemp("sessions"), portals=2, customers=40)


@pytest.fixture
async def owner(platform: Platform) -> AsyncIterator[Any]:
    """A connection as the owner of all, for what the tests arrange; the service is left open."""
    connection = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    try:
        yield connection
        await connection.execute("update service_state set stage = 'open', gate = 'open'")
    finally:
        await connection.close()


@pytest.fixture
async def maintenance(platform: Platform) -> AsyncIterator[Any]:
    """A connection as the maintenance role."""
    connection = await asyncpg.connect(platform.postgres.outputs()["maintenance_dsn"], timeout=5)
    try:
        yield connection
    finally:
        await connection.close()


async def try_to_log_in(
    session: aiohttp.ClientSession, platform: Platform, number: int, *, password: str = "", portal: int = 0, **more: str
) -> Reply:
    """One log-in of a customer at one node, with the right password unless another is given."""
    row = platform.customers[number]
    body = {"email": row["email"], "password": password or row["password"], **more}
    return await send(session, "POST", f"http://127.0.0.1:{platform.portals[portal].port}/v1/sessions", json=body)


@asynccontextmanager
async def session_from(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with a network address of its own."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def ask(session: aiohttp.ClientSession, url: str, route: Any, authorization: str | None) -> Reply:
    """One request to an authenticated route, with everything right but perhaps the token."""
    headers = {"Idempotency-Key": secrets.token_hex(8)} if route.keyed else {}
    if authorization is not None:
        headers["Authorization"] = authorization
    body = None if route.body is None else _SUBSCRIPTION if route.operation == "subscribe" else {"amount": 1}
    path = route.path.replace("{id}", "1")
    return await send(session, route.method, f"{url}{path}", json=body, headers=headers)


async def test_a_session_ends_when_its_customer_logs_out(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Logs out through the balancer: 204, then the token is nobody's at every node, for leaving again too."""
    saver = await log_in(session, platform, 0)
    other = await log_in(session, platform, 0)
    headers = {"Authorization": f"Bearer {saver.token}"}
    left = await send(session, "DELETE", f"{platform.url}/v1/sessions/current", headers=headers)
    assert (left.status, left.body) == (204, "")
    for portal in platform.portals:
        for method, path in (("GET", "/v1/balance"), ("DELETE", "/v1/sessions/current")):
            reply = await send(session, method, f"http://127.0.0.1:{portal.port}{path}", headers=headers)
            assert (reply.status, reply.body["type"]) == (401, "unauthenticated")
    assert (await other.balance())["account"] == saver.account


async def test_only_hashes_of_tokens_are_kept(platform: Platform, session: aiohttp.ClientSession, owner: Any) -> None:
    """Looks for the token in the session's row: only its SHA-256 is there."""
    saver = await log_in(session, platform, 1)
    row = await owner.fetchrow("select * from session where token_hash = $1", hash_token(saver.token))
    assert row["account"] == saver.account
    assert saver.token not in str(dict(row))
    assert saver.token.encode() not in row["token_hash"]


@pytest.mark.parametrize("stage", ["open", "closed"])
async def test_no_route_serves_a_token_that_is_not_in_force(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, stage: str
) -> None:
    """Missing, forged, expired and logged-out tokens on every authenticated route, in a window too: 401, nothing moved.

    An expired token is a real one whose end is put into the past; near misses of a real one count as forged.
    """
    real, expired, gone = [await log_in(session, platform, 2) for _ in range(3)]
    await owner.execute(
        "update session set expires_at = now() - interval '1 ms' where token_hash = $1", hash_token(expired.token)
    )
    await send(
        session, "DELETE", f"{platform.url}/v1/sessions/current", headers={"Authorization": f"Bearer {gone.token}"}
    )
    flipped = real.token[:-1] + ("A" if real.token[-1] != "A" else "B")
    wrong = [None, "", "Bearer", "Bearer ", f"Basic {real.token}", f"Bearer {flipped}", f"Bearer {real.token} x"]
    wrong += [f"Bearer {hash_token(real.token).hex()}", f"Bearer {expired.token}", f"Bearer {gone.token}", "Bearer '--"]
    before = await owner.fetchval("select count(*) from transfer")
    await owner.execute("update service_state set stage = $1", stage)
    for route in AUTHENTICATED:
        for authorization in wrong:
            reply = await ask(session, platform.url, route, authorization)
            assert (reply.status, reply.body["type"]) == (401, "unauthenticated"), (route.path, authorization)
            assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert await owner.fetchval("select count(*) from transfer") == before


async def test_a_token_reaches_its_own_account_alone(
    platform: Platform, session: aiohttp.ClientSession, owner: Any
) -> None:
    """A customer sends what could name another account, everywhere: only the own balance is read and moved."""
    mine, theirs = await log_in(session, platform, 3), await log_in(session, platform, 4)
    before = (await theirs.balance())["balance"]
    named = {"account": theirs.account}
    sent = {
        "Authorization": f"Bearer {mine.token}",
        "X-Account": theirs.account,
        "Idempotency-Key": secrets.token_hex(8),
    }
    read = await send(session, "GET", f"{platform.url}/v1/balance", params=named, headers=sent)
    assert read.body["account"] == mine.account
    put = await send(session, "POST", f"{platform.url}/v1/deposits", params=named, json={"amount": 5}, headers=sent)
    assert put.status == 201
    refused = await mine.order("deposits", {"amount": 5, **named})
    assert (refused.status, refused.body["type"]) == (400, "invalid-field")
    assert (await theirs.balance())["balance"] == before
    credited = await owner.fetchval("select credit_account from transfer where seq = $1", put.body["id"])
    assert credited == mine.account


@pytest.mark.parametrize("moved", [timedelta(minutes=-1), timedelta(hours=1)], ids=["over", "the clock was set back"])
async def test_tries_are_limited_over_all_nodes_and_the_right_password_is_let_in_again(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, moved: timedelta
) -> None:
    """Ten wrong passwords over both nodes: the eleventh try is 429 with Retry-After at each, even with the right one.

    When the minute is over (put into the past here), or when it begins an hour from now, as after the clock was set
    back, the right password is let in.
    """
    for number in range(10):
        reply = await try_to_log_in(session, platform, 5, password="wrong", portal=number % 2)
        assert reply.status == 401, number
    for portal in (0, 1):
        limited = await try_to_log_in(session, platform, 5, portal=portal)
        assert (limited.status, limited.body["type"]) == (429, "too-many-log-ins")
        assert 1 <= int(limited.headers["Retry-After"]) <= 60
    await owner.execute("update log_in_limit set begun_at = begun_at + $1", moved)
    assert (await try_to_log_in(session, platform, 5)).status == 201


async def test_right_passwords_do_not_count(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Twelve log-ins one after another: all are let in."""
    replies = [await try_to_log_in(session, platform, 6) for _ in range(12)]
    assert {reply.status for reply in replies} == {201}


async def test_many_tries_at_once_do_not_slip_through(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Forty wrong passwords at the same moment over both nodes: exactly ten are looked at."""
    tries = [try_to_log_in(session, platform, 7, password="wrong", portal=n % 2) for n in range(40)]
    replies = await asyncio.gather(*tries)
    assert sorted(reply.status for reply in replies) == [401] * 10 + [429] * 30


async def test_an_unknown_address_is_limited_like_a_known_one(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Eleven tries with an address that nobody has: the same ten refusals and the same limit."""
    url = f"http://127.0.0.1:{platform.portals[0].port}/v1/sessions"
    body = {"email": "Nobody@savings.example", "password": "x"}
    replies = [await send(session, "POST", url, json=body) for _ in range(11)]
    assert [reply.status for reply in replies] == [401] * 10 + [429]


async def test_tries_from_elsewhere_do_not_keep_a_customer_out(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """One address uses up its tries: another one is let in. Three use up all: strangers are refused, known devices not.

    A device that the customer never logged in with is no better than a stranger, and a known one has its own limit.
    """
    device = secrets.token_urlsafe(32)
    assert (await try_to_log_in(session, platform, 8, device=device)).status == 201
    for attacker in ("127.0.0.11", "127.0.0.12", "127.0.0.13"):
        async with session_from("127.0.0.9") as elsewhere:
            assert (await try_to_log_in(elsewhere, platform, 8)).status == 201
        async with session_from(attacker) as theirs:
            replies = [await try_to_log_in(theirs, platform, 8, password="wrong") for _ in range(11)]
        assert [reply.status for reply in replies] == [401] * 10 + [429]
    unknown = secrets.token_urlsafe(32)
    assert (await try_to_log_in(session, platform, 8)).status == 429
    assert (await try_to_log_in(session, platform, 8, device=unknown)).status == 429
    assert (await try_to_log_in(session, platform, 8, device=device)).status == 201
    # Another customer's device is nobody's here.
    others = secrets.token_urlsafe(32)
    assert (await try_to_log_in(session, platform, 9, device=others)).status == 201
    assert (await try_to_log_in(session, platform, 8, device=others)).status == 429
    for _ in range(10):
        await try_to_log_in(session, platform, 8, password="wrong", device=device)
    assert (await try_to_log_in(session, platform, 8, device=device)).status == 429


async def test_the_balancer_tells_addresses_apart_and_nobody_can_pretend_another(platform: Platform) -> None:
    """Through the balancer, with a forged x-envoy-external-address each time: the limit holds for the real address."""
    row = platform.customers[10]
    async with session_from("127.0.0.21") as theirs:
        statuses = []
        for number in range(11):
            reply = await send(
                theirs,
                "POST",
                f"{platform.url}/v1/sessions",
                json={"email": row["email"], "password": "wrong"},
                headers={"x-envoy-external-address": f"10.0.0.{number}", "X-Forwarded-For": f"10.0.1.{number}"},
            )
            statuses.append(reply.status)
    assert statuses == [401] * 10 + [429]
    async with session_from("127.0.0.22") as owner:
        reply = await send(
            owner, "POST", f"{platform.url}/v1/sessions", json={"email": row["email"], "password": row["password"]}
        )
    assert reply.status == 201


async def test_sessions_are_seeded_in_bulk(platform: Platform, tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Seeds 7 sessions for 3 accounts: the file is the owner's alone, and each token reads its own account."""
    file = tmp_path / "sessions.csv"
    done = platform.stage.run(
        *("seed", "--accounts", "3", "--out", str(tmp_path / "accounts.csv")),
        *("--sessions", "7", "--sessions-out", str(file)),
        DATABASE_ADMIN_URL=platform.postgres.outputs()["admin_dsn"],
    )
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    assert len({row["token"] for row in rows}) == 7
    assert len({row["account"] for row in rows}) == 3
    for row in rows:
        saver = Customer(session=session, url=platform.url, token=row["token"], account=row["account"])
        assert (await saver.balance())["account"] == row["account"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sessions", "0", "--sessions-out", "{}/s.csv"), "--sessions: expected 1 to"),
        (("--sessions", "5"), "--sessions and --sessions-out: give both or neither"),
        (("--sessions", "5", "--sessions-out", "{}/none/s.csv"), "--sessions-out: the folder of"),
    ],
)
async def test_seeding_says_what_is_wrong_before_it_opens_anything(
    platform: Platform, tmp_path: Path, owner: Any, options: tuple[str, ...], said: str
) -> None:
    """Each with one wrong option: exit 64, the option named, no account more."""
    before = await owner.fetchval("select count(*) from account")
    done = platform.stage.run(
        *("seed", "--accounts", "3", "--out", str(tmp_path / "accounts.csv")),
        *(option.format(tmp_path) for option in options),
        DATABASE_ADMIN_URL=platform.postgres.outputs()["admin_dsn"],
    )
    assert (done.returncode, said in done.stderr) == (64, True), done.stderr
    assert await owner.fetchval("select count(*) from account") == before


async def reopen(owner: Any) -> int:
    """Reopens the service as a window does at its end; gives the epoch."""
    epoch: int = await owner.fetchval("update service_state set stage = 'open', epoch = epoch + 1 returning epoch")
    return epoch


async def synchronise(maintenance: Any, limit: int = 5000) -> Any:
    """Steps until nothing more is marked; gives the last step."""
    while (step := await maintenance.fetchrow("select * from synchronise_sessions($1)", limit))["synchronised"]:
        pass
    return step


async def view(customer: Customer) -> dict[str, Any]:
    """The answer of GET /v1/balance."""
    body: dict[str, Any] = await customer.balance()
    return body


async def test_after_a_reopening_a_session_says_synchronising_until_it_is_synchronised(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, maintenance: Any
) -> None:
    """Closed: 503. Reopened: no number for old sessions and for new ones, until the synchroniser has marked them."""
    old = await log_in(session, platform, 11)
    before = await view(old)
    await owner.execute("update service_state set stage = 'closed'")
    closed = await send(session, "GET", f"{platform.url}/v1/balance", headers={"Authorization": f"Bearer {old.token}"})
    assert (closed.status, closed.body["type"]) == (503, "closed")
    await reopen(owner)
    new = await log_in(session, platform, 11)
    for saver in (old, new):
        told = await view(saver)
        assert (told["state"], {told[name] for name in ("balance", "interest", "head")}) == ("synchronising", {None})
    await synchronise(maintenance)
    assert await view(old) == await view(new) == before
    assert await view(await log_in(session, platform, 11)) == before


async def test_sessions_are_marked_in_chunks_and_the_lag_ends_with_the_last(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, maintenance: Any
) -> None:
    """Six sessions, two a step: each step names what it did, what waits, and a lag that stands still at the end."""
    await synchronise(maintenance)
    people = [await log_in(session, platform, 12) for _ in range(6)]
    epoch = await reopen(owner)
    await owner.execute(
        "update session set epoch = $1 where token_hash <> all($2)", epoch, [hash_token(one.token) for one in people]
    )
    steps = [await maintenance.fetchrow("select * from synchronise_sessions(2)") for _ in range(4)]
    assert [(step["epoch"], step["synchronised"], step["waiting"]) for step in steps] == [
        (epoch, 2, 4),
        (epoch, 2, 2),
        (epoch, 2, 0),
        (epoch, 0, 0),
    ]
    lags = [step["lag_s"] for step in steps]
    assert 0 < lags[0] < lags[1] < lags[2] == lags[3]


async def test_a_differing_account_stays_unsynchronised_and_is_named(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, maintenance: Any
) -> None:
    """Plants one unit too much in a cached balance: its sessions, new ones too, are never told it; the others are.

    Set right again, it is found so and synchronised.
    """
    wrong, right = await log_in(session, platform, 13), await log_in(session, platform, 14)

    await add(owner, wrong, 1)
    await reopen(owner)
    step = await synchronise(maintenance)
    assert (step["waiting"], step["differing"], step["named"]) == (1, 1, [wrong.account])
    again = await log_in(session, platform, 13)
    assert [(await view(one))["state"] for one in (wrong, again, right)] == [
        "synchronising",
        "synchronising",
        "current",
    ]
    await add(owner, wrong, -1)
    await owner.execute("update reopening set checked_at = checked_at - interval '2 seconds'")
    assert (await synchronise(maintenance))["named"] == []
    assert [(await view(one))["state"] for one in (wrong, again)] == ["current", "current"]


async def test_a_clock_set_back_does_not_hold_up_the_next_comparison_of_a_differing_account(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, maintenance: Any
) -> None:
    """Puts the last comparison an hour ahead, which is as if the clock had been set back: compared again, at once."""
    wrong = await log_in(session, platform, 20)
    await add(owner, wrong, 1)
    await reopen(owner)
    assert (await synchronise(maintenance))["named"] == [wrong.account]
    await add(owner, wrong, -1)
    await owner.execute("update reopening set checked_at = checked_at + interval '1 hour'")
    assert (await synchronise(maintenance))["named"] == []
    assert (await view(wrong))["state"] == "current"


async def add(owner: Any, customer: Customer, amount: int) -> None:
    """Changes a cached balance as nobody may."""
    async with owner.transaction():
        await owner.execute("alter table account disable trigger account_balance_follows")
        await owner.execute("update account set balance = balance + $2 where id = $1", customer.account, amount)
        await owner.execute("alter table account enable trigger account_balance_follows")


async def test_the_synchroniser_works_by_itself_and_shows_the_lag(
    platform: Platform, session: aiohttp.ClientSession, owner: Any
) -> None:
    """Runs it against the database as the maintenance process does: reopened twice, sessions are served each time."""
    saver = await log_in(session, platform, 15)
    async with running_synchroniser(platform) as registry:
        for _ in range(2):
            await reopen(owner)

            async def told() -> str:
                return str((await view(saver))["state"])

            async with asyncio.timeout(15):
                await until(told, lambda state: state == "current")
                await until(metric(registry, "savings_sessions_unsynchronised"), lambda value: value == 0)
            assert 0 < (await metric(registry, "savings_session_synchronisation_lag_seconds")()) < 15


async def test_while_the_synchroniser_cannot_do_its_work_the_lag_is_told(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, maintenance: Any
) -> None:
    """Holds the reopening's row, so that no step comes to its end: a session waits, and the lag grows past a second."""
    saver = await log_in(session, platform, 18)
    epoch = await reopen(owner)
    async with owner.transaction():
        await owner.execute("select from reopening where epoch = $1 for update", epoch)
        async with running_synchroniser(platform, statement_within_s=0.2) as registry, asyncio.timeout(15):
            lag = metric(registry, "savings_session_synchronisation_lag_seconds")
            await until(lag, lambda value: value > 1)
            assert await metric(registry, "savings_sessions_unsynchronised")() >= 1
        assert (await view(saver))["state"] == "synchronising"
    await synchronise(maintenance)
    assert (await view(saver))["state"] == "current"


def metric(registry: CollectorRegistry, name: str) -> Callable[[], Awaitable[float]]:
    """Asks for the newest value of a metric."""

    async def read() -> float:
        value = registry.get_sample_value(name)
        return -1.0 if value is None else value

    return read


@asynccontextmanager
async def running_synchroniser(
    platform: Platform, *, statement_within_s: float = 10.0
) -> AsyncIterator[CollectorRegistry]:
    """The synchroniser at work with the maintenance role's rights; gives its metrics."""
    log = configure_logs("maintenance")
    database = Database(
        platform.postgres.outputs()["maintenance_dsn"],
        DatabaseLimits(pool_size=2, acquire_within_s=1.0, statement_within_s=statement_within_s),
        application="maintenance",
        on_change=lambda _ready, _problem: None,
    )
    service = Service(instance="maintenance", log=log, database=database, registry=CollectorRegistry())
    connecting = asyncio.create_task(database.keep_connected())
    working = asyncio.create_task(keep_synchronised(service))
    try:
        yield service.registry
    finally:
        service.stopping.set()
        await asyncio.wait_for(working, 5)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await database.close()


@pytest.mark.parametrize("moved", [timedelta(minutes=-1), timedelta(hours=1)], ids=["over", "the clock was set back"])
async def test_what_has_expired_is_removed(
    platform: Platform, session: aiohttp.ClientSession, owner: Any, maintenance: Any, moved: timedelta
) -> None:
    """Puts a session's end into the past, and a limit's minute into the past or the future: both go, others stay."""
    await owner.execute("delete from session where account = 'c-000017'")
    over, stays = await log_in(session, platform, 16), await log_in(session, platform, 16)
    await try_to_log_in(session, platform, 16, password="wrong")
    await owner.execute("update session set expires_at = now() where token_hash = $1", hash_token(over.token))
    await owner.execute("update log_in_limit set begun_at = begun_at + $1", moved)
    assert await maintenance.fetchval("select forget_expired(5000)") >= 3
    assert await owner.fetchval("select count(*) from log_in_limit") == 0
    left = await owner.fetch("select token_hash from session where account = $1", over.account)
    assert [row["token_hash"] for row in left] == [hash_token(stays.token)]


async def test_a_balance_is_true_of_the_head_it_names(
    platform: Platform, session: aiohttp.ClientSession, owner: Any
) -> None:
    """Reads while deposits are made at both nodes: each answer is the sum of the account's transfers up to its head."""
    saver = await log_in(session, platform, 17)
    paying = asyncio.ensure_future(pay_in_often(saver))
    answers = []
    while not paying.done():  # a balance each time round, as often as it goes
        answers.append(await view(saver))
    await paying
    assert len({answer["head"] for answer in answers}) > 10
    sums = await owner.fetch(
        "select seq, sum(amount) over (order by seq)::bigint as total from transfer where credit_account = $1",
        saver.account,
    )
    totals = {row["seq"]: row["total"] for row in sums}
    assert all(totals[answer["head"]] == answer["balance"] for answer in answers)


async def pay_in_often(saver: Customer) -> None:
    """Forty deposits, two at a time."""
    for _ in range(20):
        for reply in await asyncio.gather(*(saver.order("deposits", {"amount": 3}) for _ in range(2))):
            assert reply.status == 201


@pytest.mark.parametrize("role", ["dsn", "maintenance_dsn", "accrual_dsn", "auditor_dsn"])
async def test_each_role_may_do_with_sessions_what_its_duty_needs(platform: Platform, role: str) -> None:
    """Each role tries everything: the portal lets people in and out, maintenance synchronises, nobody reads tokens."""
    asked = {
        "select * from begin_log_in('a@b', '::1', null)": "dsn",
        "select close_session('x')": "dsn",
        "select * from synchronise_sessions(1)": "maintenance_dsn",
        "select forget_expired(1)": "maintenance_dsn",
        "select take_try('a@b', 'all', 1)": "",
        "select * from synchronisation_state()": "maintenance_dsn",
        "select find_differing_accounts()": "",
        "select * from session": "",
        "select * from known_device": "",
        "delete from log_in_limit": "",
    }
    connection = await asyncpg.connect(platform.postgres.outputs()[role], timeout=5)
    try:
        for statement, allowed in asked.items():
            if role == allowed:
                await connection.execute(statement)
            else:
                with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
                    await connection.execute(statement)
    finally:
        await connection.close()
