"""Segregation of duties: each forbidden act is tried as each role, and the database refuses it."""

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest

from tests.integration.platform.stage import Platform

ROLES: Final = {
    "portal": "dsn",
    "auditor": "auditor_dsn",
    "accrual": "accrual_dsn",
    "settlement": "settlement_dsn",
    "maintenance": "maintenance_dsn",
    "notifier": "notifier_dsn",
    "signer-1": "signer_1_dsn",
    "signer-2": "signer_2_dsn",
    "signer-3": "signer_3_dsn",
}
SIGNERS: Final = {"signer-1", "signer-2", "signer-3"}
# What is tried, and the roles whose duty it is; nobody else may, and the owner is no process's role.
STATEMENTS: Final[dict[str, tuple[str, set[str]]]] = {
    "takes the lease of settlement": ("select take_lease('settlement', 'thief', 60)", {"settlement"}),
    "takes the lease of accrual": ("select take_lease('accrual', 'thief', 60)", {"accrual"}),
    "gives settlement's lease away": ("select release_lease('settlement', 1)", {"settlement"}),
    "moves money by a transfer of its own": (
        (
            "insert into transfer (kind, debit_account, credit_account, amount)"
            " values ('deposit', 'custody-a', 'c-000001', 5)"
        ),
        set(),
    ),
    "pays itself out": (
        (
            "insert into transfer (kind, debit_account, credit_account, amount, payout)"
            " values ('payout', 'payable-a', 'custody-a', 5, 1)"
        ),
        set(),
    ),
    "raises a balance": ("update account set balance = balance + 1", set()),
    "opens an account": ("insert into account (id, kind, wallet, balance) values ('c-x', 'customer', 'a', 0)", set()),
    "rewrites the ledger": ("delete from transfer", set()),
    "empties the ledger": ("truncate transfer", set()),
    "turns a guard off": ("alter table transfer disable trigger user", set()),
    "reads password hashes": ("select * from customer", set()),
    "reads sessions": ("select token_hash from session", set()),
    "reads where customers' devices are": ("select endpoint, auth from push_subscription", set()),
    "subscribes somebody": ("update push_subscription set endpoint = 'http://127.0.0.1/mine'", set()),
    "changes the queue": ("update redemption set amount = 1", set()),
    "invents a redemption": ("insert into redemption values (0, 'c-000001', 'k', 1, now(), now(), 1)", set()),
    "invents an outcome": ("insert into outcome values (0, 'settled', null, 1, 1, now())", set()),
    "makes a manifest": ("insert into manifest (nonce, batch) values ('n', 1)", set()),
    "alters a manifest": ("update manifest set total = 0", set()),
    "signs in another's name": ("insert into signature values ('n', 'signer-2', 'k', 1, 'v', now())", set()),
    "alters a signature": ("update signature set signer = 'signer-2'", set()),
    "replaces a key": ("update signer_key set public_key = 'k'", set()),
    "takes a seat": ("update signer set database_role = current_user, vacant = true", set()),
    "asks for one signer only": ("insert into custody_policy (version, required, cause) values (99, 2, 'x')", set()),
    "moves the watermark of payouts": ("update payout_progress set considered = 0", set()),
    "alters a batch": ("update payout_batch set total = 1", set()),
    "opens the gate by itself": ("update service_state set gate = 'open'", set()),
    "keeps a turn": ("select from turn for update", set()),
    "shares a turn": ("select from turn for key share", set()),
    "locks all turns": ("lock table turn in row share mode", set()),
    "keeps others from migrating": ("lock table schema_step in row share mode", set()),
    "takes a lease by itself": ("update lease set token = token + 1", set()),
    "changes the interest": ("insert into accrual_hour (hour) values (date_trunc('hour', now(), 'UTC'))", set()),
    "moves the clock by itself": ("insert into business_clock values (now(), now(), 1)", set()),
    "becomes the owner": ("set role savings_owner", set()),
    "becomes settlement": ("set session authorization savings_settlement", {"settlement"}),
    "becomes signer 2": ("set session authorization savings_signer_2", {"signer-2"}),
    "makes a function": ("create function mine() returns integer language sql as 'select 1'", set()),
    "makes a table": ("create table mine (x integer)", set()),
    "reads files": ("select pg_read_file('/etc/hostname')", set()),
    "runs programs": ("copy (select 1) to program 'cat'", set()),
}
# A function is called without regard to what it takes: the refusal comes first.
CALLS: Final[dict[str, tuple[str, set[str]]]] = {
    "takes a deposit": ("take_deposit", {"portal"}),
    "queues a redemption": ("queue_redemptions", {"portal"}),
    "reads a balance in a session's name": ("read_balance", {"portal"}),
    "subscribes in a session's name": ("put_push_subscription", {"portal"}),
    "unsubscribes in a session's name": ("delete_push_subscription", {"portal"}),
    "publishes the key for web push": ("publish_push_key", {"notifier"}),
    "claims notices": ("claim_notices", {"notifier"}),
    "opens a session": ("open_session", {"portal"}),
    "looks up a password": ("begin_log_in", {"portal"}),
    "synchronises sessions": ("synchronise_sessions", {"maintenance"}),
    "seals the ledger": ("seal", {"maintenance"}),
    "records a verification": ("record_reconciliation", {"maintenance"}),
    "keeps balances as verified": ("keep_verified_balances", {"maintenance"}),
    "accrues interest": ("accrue_step", {"accrual"}),
    "settles": ("settle_chunk", {"settlement"}),
    "parks a redemption": ("park_redemption", {"settlement"}),
    "proposes payouts": ("propose_payouts", {"settlement"}),
    "pays out": ("pay_out", {"settlement"}),
    "reads lists to be signed": ("pending_manifests", SIGNERS),
    "signs": ("sign_manifest", SIGNERS),
    "enrols a key": ("enrol_key", SIGNERS),
    "takes a turn": ("take_turn", set()),
    "changes the policy": ("set_custody_policy", set()),
    "revokes a signer": ("revoke_signer", set()),
    "rotates a signer": ("rotate_signer", set()),
}


@pytest.fixture
async def owner(platform: Platform) -> AsyncIterator[Any]:
    """A connection as the owner."""
    connection = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    yield connection
    await connection.close()


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_can_do_nothing_but_its_duty(platform: Platform, owner: Any, role: str) -> None:
    """Tries each act that is not the role's duty, in a transaction that is undone: each lacks the privilege."""
    calls = {
        f"{act}: {call}": (call, duty) for act, (name, duty) in CALLS.items() for call in await _calls(owner, name)
    }
    forbidden = {act: statement for act, (statement, duty) in (STATEMENTS | calls).items() if role not in duty}
    connection = await asyncpg.connect(platform.postgres.outputs()[ROLES[role]], timeout=5)
    try:
        # What the role may change for itself must not be what keeps it from writing.
        await connection.execute("set default_transaction_read_only = off")
        possible = [act for act, statement in forbidden.items() if not await _refused(connection, statement)]
    finally:
        await connection.close()
    assert possible == []


async def _calls(owner: Any, name: str) -> list[str]:
    """A call of each function of this name, with nothing in it."""
    functions = await owner.fetch(
        "select array(select t::regtype::text from unnest(p.proargtypes) with ordinality u (t, n) order by n) as types"
        " from pg_proc p where p.proname = $1 and p.pronamespace = 'public'::regnamespace order by p.oid",
        name,
    )
    assert functions, f"no function {name}"
    return [f"select {name}({', '.join(f'null::{each}' for each in row['types'])})" for row in functions]


async def _refused(connection: Any, statement: str) -> bool:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    except asyncpg.PostgresError as error:
        raise AssertionError(f"{statement}: refused for another reason than the role: {error}") from error
    finally:
        await transaction.rollback()
    return False


@pytest.mark.parametrize("act", CALLS)
async def test_whose_duty_it_is_may_do_it(owner: Any, act: str) -> None:
    """Asks the database who may call the function of an act: exactly the roles whose duty it is."""
    name, duty = CALLS[act]
    may = {
        role
        for role in ROLES
        if await owner.fetchval(
            "select bool_or(has_function_privilege($1, p.oid, 'execute')) from pg_proc p"
            " where p.proname = $2 and p.pronamespace = 'public'::regnamespace",
            f"savings_{role.replace('-', '_')}",
            name,
        )
    }
    assert may == duty


async def test_no_role_but_the_auditor_has_a_right_on_a_table_and_the_auditor_only_reads(owner: Any) -> None:
    """Reads the rights on every table, column and sequence from the catalogue."""
    rights = await owner.fetch(
        """
        select r.rolname as role, c.relname as relation, a.privilege_type as right
        from pg_class c, aclexplode(c.relacl) a join pg_roles r on r.oid = a.grantee
        where c.relnamespace = 'public'::regnamespace and r.rolname <> 'savings_owner'
        union all
        select r.rolname, c.relname || '.' || t.attname, a.privilege_type
        from pg_attribute t join pg_class c on c.oid = t.attrelid, aclexplode(t.attacl) a
        join pg_roles r on r.oid = a.grantee
        where c.relnamespace = 'public'::regnamespace
        """
    )
    assert {(row["role"], row["right"]) for row in rights} == {("savings_auditor", "SELECT")}
    read = {row["relation"] for row in rights}
    assert {"transfer", "outcome", "manifest", "signature"} <= read
    assert read.isdisjoint({"customer", "session"})


async def test_no_function_is_open_to_everybody(owner: Any) -> None:
    """Reads the rights on every function: nobody is the public, and all of a role's own run under a fixed path."""
    rows = await owner.fetch(
        """
        select p.oid::regprocedure::text as function, p.prosecdef as definer, p.proconfig as settings,
               coalesce(bool_or(a.grantee = 0), true) as open, bool_or(r.rolname like 'savings%') as granted
        from pg_proc p left join lateral aclexplode(p.proacl) a on true
        left join pg_roles r on r.oid = a.grantee and r.rolname <> 'savings_owner'
        where p.pronamespace = 'public'::regnamespace
        group by p.oid
        """
    )
    assert [row["function"] for row in rows if row["open"]] == []
    loose = [row["function"] for row in rows if row["definer"] and "search_path=public, pg_temp" not in row["settings"]]
    assert loose == []


@pytest.mark.parametrize("role", ["portal", "auditor", "accrual", "settlement", "maintenance", "notifier"])
async def test_every_role_of_the_service_can_tell_business_time(platform: Platform, role: str) -> None:
    """Calls each function of the clock as the role itself, not from within another function."""
    connection = await asyncpg.connect(platform.postgres.outputs()[ROLES[role]], timeout=5)
    try:
        row = await connection.fetchrow(
            "select business_now() as now, business_time(clock_timestamp()) as then, wall_time(business_now()) as wall"
        )
    finally:
        await connection.close()
    assert all(value is not None for value in row.values())
