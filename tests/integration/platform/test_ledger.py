"""What the database itself refuses, whoever asks: the ledger's rules do not depend on the portal."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from system_under_test.settings import PlatformError
from system_under_test.storage.migrate import Step, migrate, read_steps
from tests.integration.platform.customers import log_in, until
from tests.integration.platform.stage import Platform

OWNER, PORTAL, AUDITOR = "admin_dsn", "dsn", "auditor_dsn"


@asynccontextmanager
async def connected(platform: Platform, role: str) -> AsyncIterator[Any]:
    """A connection as `role`."""
    connection = await asyncpg.connect(platform.postgres.outputs()[role], timeout=5)
    try:
        yield connection
    finally:
        await connection.close()


TAMPERING = {
    "a transfer changed": "update transfer set amount = amount + 1",
    "a transfer deleted": "delete from transfer",
    "all transfers deleted": "truncate transfer cascade",
    "an account deleted": "delete from account",
    "a balance raised": "update account set balance = balance + 1 where kind = 'customer'",
    "a balance lowered": "update account set balance = 0, head = 0 where kind = 'customer'",
    "an account opened with money": (
        "insert into account (id, kind, wallet, balance) values ('c-x', 'customer', 'b', 5)"
    ),
    "a customer without a balance": "insert into account (id, kind, wallet) values ('c-x', 'customer', 'b')",
    "a transfer of nothing": (
        "insert into transfer (kind, debit_account, credit_account, amount)"
        " values ('deposit', 'custody-b', 'c-000001', 0)"
    ),
    "a transfer of less than nothing": (
        "insert into transfer (kind, debit_account, credit_account, amount)"
        " values ('deposit', 'custody-b', 'c-000001', -5)"
    ),
    "a transfer from an account to itself": (
        "insert into transfer (kind, debit_account, credit_account, amount)"
        " values ('deposit', 'c-000001', 'c-000001', 5)"
    ),
    "a transfer with one side": (
        "insert into transfer (kind, debit_account, credit_account, amount) values ('deposit', null, 'c-000001', 5)"
    ),
    "a transfer to nowhere": (
        "insert into transfer (kind, debit_account, credit_account, amount)"
        " values ('deposit', 'custody-b', 'c-nowhere', 5)"
    ),
    "more taken than there is": (
        "insert into transfer (kind, debit_account, credit_account, amount, redemption)"
        " values ('redemption', 'c-000001', 'payable-b', 4000000000000000000, 1)"
    ),
    "a transfer to the other wallet": (
        "insert into transfer (kind, debit_account, credit_account, amount)"
        " values ('deposit', 'custody-a', 'c-000001', 5)"
    ),
    "a redemption of nothing that was asked for": (
        "insert into transfer (kind, debit_account, credit_account, amount)"
        " values ('redemption', 'c-000001', 'payable-b', 5)"
    ),
    "a redemption taken back": "delete from redemption",
    "a decision changed": "update outcome set status = 'refused'",
    "a number of one's own choice": (
        "insert into transfer (seq, kind, debit_account, credit_account, amount)"
        " values (1, 'deposit', 'custody-b', 'c-000001', 5)"
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
@pytest.mark.parametrize("role", [OWNER, PORTAL, AUDITOR])
async def test_the_database_refuses(platform: Platform, role: str, what: str) -> None:
    """Tries each as each role, the owner too: an error, and the whole ledger is as before."""
    async with connected(platform, OWNER) as owner, connected(platform, role) as connection:
        before = await owner.fetch(_WHOLE)
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(TAMPERING[what])
        assert isinstance(
            refused.value,
            asyncpg.IntegrityConstraintViolationError
            | asyncpg.InsufficientPrivilegeError
            | asyncpg.GeneratedAlwaysError
            | asyncpg.ReadOnlySQLTransactionError,
        )
        assert await owner.fetch(_WHOLE) == before


_WHOLE = """
select (select md5(string_agg(a::text, '|' order by id)) from account a),
       (select md5(string_agg(t::text, '|' order by seq)) from transfer t)
"""


@pytest.mark.parametrize(
    "statement",
    [
        "select * from transfer",
        "select * from account",
        "select * from customer",
        "select * from session",
        "select * from idempotency",
        "insert into session values (sha256('x'), 'c-000001', now() + interval '1 day')",
        "insert into idempotency values ('c-000001', 'k', 'deposit', 'p')",
        "create table mine (x integer)",
        "select pg_read_file('/etc/hostname')",
        "set role savings_owner",
    ],
)
async def test_the_portal_has_no_right_but_to_call_its_functions(platform: Platform, statement: str) -> None:
    """Tries each as the portal's role: insufficient privilege."""
    async with connected(platform, PORTAL) as portal:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await portal.execute(statement)


async def test_a_transfer_moves_both_cached_balances_in_its_own_statement(platform: Platform) -> None:
    """One insert of three transfers by the owner, two of them of one account: balances and heads fit at once."""
    async with connected(platform, OWNER) as owner:
        transaction = owner.transaction()
        await transaction.start()
        before = dict(await owner.fetch("select id, balance from account where kind = 'customer'"))
        numbers = await owner.fetch(
            "insert into transfer (kind, debit_account, credit_account, amount, redemption) values"
            " ('deposit', 'custody-b', 'c-000011', 5, null), ('redemption', 'c-000011', 'payable-b', 3, 0),"
            " ('deposit', 'custody-a', 'c-000012', 7, null) returning seq"
        )
        rows = await owner.fetch("select id, balance, head from account where kind = 'customer'")
        after = {row["id"]: row["balance"] for row in rows}
        heads = {row["id"]: row["head"] for row in rows}
        await transaction.rollback()
    assert after == before | {"c-000011": before["c-000011"] + 2, "c-000012": before["c-000012"] + 7}
    assert (heads["c-000011"], heads["c-000012"]) == (numbers[1]["seq"], numbers[2]["seq"])


async def test_every_balance_is_the_sum_of_the_transfers_up_to_its_head(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Orders of several customers at once and their settlement; at each look: cached balance = sum up to head = all."""
    people = [await log_in(session, platform, number) for number in range(10, 14)]
    orders = [
        person.order(route, {"amount": amount})
        for person in people
        for amount in range(1, 11)
        for route in ("deposits", "redemptions")
    ]
    replies = await asyncio.gather(*orders)
    assert {reply.status for reply in replies} == {201, 202}
    decided = "select (select accepted from intake) = (select decided from settlement)"
    async with connected(platform, AUDITOR) as auditor, asyncio.timeout(10):
        looks = 0
        while not (looks and await auditor.fetchval(decided)):
            looks += 1
            assert await auditor.fetch(_WRONG_BALANCES) == []


_WRONG_BALANCES = """
select a.id, a.balance, a.head from account a
left join lateral (
    select sum(case when t.credit_account = a.id then t.amount else -t.amount end) as total,
           max(t.seq) as newest
    from transfer t where a.id in (t.credit_account, t.debit_account)
) s on true
where a.kind = 'customer' and (a.balance, a.head) <> (coalesce(s.total, 0), coalesce(s.newest, 0))
"""


async def test_a_second_try_waits_for_a_first_one_that_is_under_way(platform: Platform) -> None:
    """Holds a first try open in a transaction: the second waits, then is given the first one's answer."""
    token, key, payload = uuid.uuid4().bytes * 2, str(uuid.uuid4()), b"p" * 32
    arguments = (token, key, payload, 5)
    statement = "select outcome, response, replayed from take_deposit($1, $2, $3, $4)"
    async with (
        connected(platform, OWNER) as owner,
        connected(platform, OWNER) as first,
        connected(platform, PORTAL) as second,
    ):
        await owner.execute("insert into session values ($1, 'c-000015', now() + interval '1 hour')", token)
        transaction = first.transaction()
        await transaction.start()
        answer = await first.fetchrow(statement, *arguments)
        waiting = asyncio.create_task(second.fetchrow(statement, *arguments))
        blocked = "select count(*) from pg_locks where not granted"
        async with asyncio.timeout(5):
            await until(lambda: owner.fetchval(blocked), bool)
        await transaction.commit()
        again = await waiting
    assert (answer["replayed"], again["replayed"]) == (False, True)
    assert again["response"] == answer["response"]


async def test_a_hung_transaction_of_the_portal_is_ended_within_its_limit(platform: Platform) -> None:
    """Opens a transaction as the portal's role and says nothing more: the database ends it by itself."""
    async with connected(platform, PORTAL) as portal, asyncio.timeout(30):
        await portal.execute("begin")
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        portal.add_termination_listener(lambda _connection: ended.set_result(None))
        await ended


async def test_an_expired_session_is_no_session(platform: Platform) -> None:
    """A session whose time is over: no balance, and an order is refused without an effect."""
    token = uuid.uuid4().bytes * 2
    async with connected(platform, OWNER) as owner, connected(platform, PORTAL) as portal:
        await owner.execute("insert into session values ($1, 'c-000016', now() - interval '1 second')", token)
        assert await portal.fetch("select * from read_redemptions($1, null, 100, 10)", token) == []
        assert await portal.fetchval("select outcome from read_balance($1)", token) == "unauthenticated"
        outcome = await portal.fetchval("select outcome from take_deposit($1, 'k', $2, 5)", token, b"p" * 32)
        assert outcome == "unauthenticated"
        outcome = await portal.fetchval(
            "select outcome from queue_redemptions(array[$1::bytea], array['k'], array[$2::bytea], array[5::bigint])",
            *(token, b"p" * 32),
        )
        assert outcome == "unauthenticated"
        assert await owner.fetchval("select count(*) from idempotency where account = 'c-000016'") == 0
        opened = "select open_session('saver-000016@savings.example', '127.0.0.1', null, 'c-000016', $1, 60)"
        await portal.fetchval(opened, b"n" * 32)
        assert await owner.fetchval("select count(*) from session where account = 'c-000016'") == 1


async def test_migrating_again_changes_nothing_and_a_changed_step_is_refused(platform: Platform) -> None:
    """Two migrations at once on a finished database apply nothing; a step with another text is named."""
    async with connected(platform, OWNER) as one, connected(platform, OWNER) as other:
        applied = await asyncio.gather(migrate(one, read_steps()), migrate(other, read_steps()))
        assert not any(applied)
        changed = Step(version=1, name="0001_clock.sql", sql="select 1")
        with pytest.raises(PlatformError, match=r"0001_clock\.sql was changed"):
            await migrate(one, (changed, *read_steps()[1:]))
        with pytest.raises(PlatformError, match=r"does not know: 0003_customers\.sql"):
            await migrate(one, read_steps()[:2])


async def test_the_dump_is_the_whole_ledger_of_one_moment(platform: Platform, tmp_path: Path) -> None:
    """Dumps while orders come in: every line parses, each customer's balance is what its transfers in it add up to."""
    out = tmp_path / "ledger.ndjson"
    async with connected(platform, OWNER) as owner, asyncio.TaskGroup() as group:
        stop = asyncio.Event()

        async def order() -> None:
            while not stop.is_set():
                await owner.execute(
                    "insert into transfer (kind, debit_account, credit_account, amount)"
                    " values ('deposit', 'custody-b', 'c-000017', 1)"
                )

        group.create_task(order())
        url = platform.postgres.outputs()[AUDITOR]
        dumped = await asyncio.to_thread(platform.stage.run, "dump", "--out", str(out), DATABASE_AUDITOR_URL=url)
        stop.set()
    assert dumped.returncode == 0, dumped.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    accounts = {row["account"]: row for row in rows if row["row"] == "account"}
    transfers = [row for row in rows if row["row"] == "transfer"]
    assert set(transfers[0]) == {"row", "transfer", "kind", "debit", "credit", "amount", "key", "t", "business_at"}
    sums = dict.fromkeys(accounts, 0)
    for row in transfers:
        sums[row["credit"]] += row["amount"]
        sums[row["debit"]] -= row["amount"]
    assert sum(sums.values()) == 0
    assert {name: row["balance"] for name, row in accounts.items() if row["kind"] == "customer"} == {
        name: sums[name] for name, row in accounts.items() if row["kind"] == "customer"
    }
    own = [(row["account"], row["balance"]) for row in accounts.values() if row["kind"] != "customer"]
    assert own == [(f"{kind}-{wallet}", None) for kind in ("custody", "interest", "payable") for wallet in "ab"]
    numbers = [row["t"] for row in transfers]
    assert numbers == sorted(numbers)
    assert {row["kind"] for row in transfers} >= {"seed", "deposit"}
