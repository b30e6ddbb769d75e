"""The reconciliation gate: a ledger that is right opens it, and the row that keeps it shut on another one is named."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from system_under_test.services.auditing import keep_sealed, keep_verified
from system_under_test.settings import PlatformError
from system_under_test.storage.reconciliation_records import ANCHOR_FILE, KEY_FILE
from tests.integration.platform.books import Books, open_books, put_back
from tests.integration.platform.customers import until
from tests.integration.platform.stage import Stage


@pytest.fixture(scope="module")
def shared_books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """One database for all tests of this module."""
    stage = Stage(folder=tmp_path_factory.mktemp("books"))
    try:
        with open_books(stage) as books:
            yield books
    finally:
        stage.close()


@pytest.fixture
async def books(shared_books: Books) -> Books:
    """The books as they were after the first verification."""
    await put_back(shared_books)
    return shared_books


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """What is changed behind the platform's back, and the rows that a whole check has to name for it."""

    statements: tuple[str, ...]
    named: tuple[tuple[str, str], ...]


CORRUPTIONS = {
    "a transfer of one unit more": Corruption(
        statements=("update transfer set amount = amount + 1 where seq = 20",),
        named=(("transfer", "20"), ("account", "c-000008")),
    ),
    "a transfer gone": Corruption(
        statements=("delete from transfer where seq = 20",),
        named=(("transfer", "20"), ("account", "c-000008")),
    ),
    "two transfers swapped": Corruption(
        statements=(
            "create temporary table swapped on commit drop as select * from transfer where seq in (15, 27)",
            "delete from transfer where seq in (15, 27)",
            "update swapped set seq = 42 - seq",
            "insert into transfer overriding system value select * from swapped",
        ),
        named=(("transfer", "15"), ("transfer", "27")),
    ),
    "a transfer slipped into a batch that is sealed": Corruption(
        statements=(
            (
                "insert into transfer (seq, kind, debit_account, credit_account, amount, transaction_id)"
                " overriding system value select 5000, kind, debit_account, credit_account, amount, transaction_id"
                " from transfer where seq = 20"
            ),
            (
                "update account set balance = balance + t.amount, head = 5000 from transfer t"
                " where t.seq = 20 and id = t.credit_account"
            ),
        ),
        named=(("transfer", "5000"),),
    ),
    "a transfer moved to another time": Corruption(
        statements=("update transfer set business_at = business_at - interval '1 hour' where seq = 20",),
        named=(("transfer", "20"),),
    ),
    "a transfer out of its wallet": Corruption(
        statements=(
            (
                "insert into transfer (kind, debit_account, credit_account, amount)"
                " values ('deposit', 'custody-a', 'c-000001', 3), ('deposit', 'custody-b', 'c-000001', 3)"
            ),
        ),
        named=(("account", "c-000001"), ("account", "wallet a"), ("account", "wallet b")),
    ),
    "a cached balance": Corruption(
        statements=("update account set balance = balance + 1 where id = 'c-000003'",),
        named=(("account", "c-000003"),),
    ),
    "a cached head": Corruption(
        statements=("update account set head = head - 1 where id = 'c-000003'",),
        named=(("account", "c-000003"),),
    ),
    "interest that was never paid": Corruption(
        statements=("update account set interest = interest + 1 where id = 'c-000003'",),
        named=(("account", "c-000003"),),
    ),
    "a sealed batch gone": Corruption(
        statements=("delete from sealed_batch where number = 1",), named=(("sealed_batch", "1"),)
    ),
    "a sealed batch with other digests": Corruption(
        statements=("update sealed_batch set digests = sha256('x') || substr(digests, 33) where number = 2",),
        named=(("sealed_batch", "2"),),
    ),
    "a record with a bad signature": Corruption(
        statements=("update reconciliation set signature = sha256('x') || sha256('y')",),
        named=(("reconciliation", "1"),),
    ),
    "a record that says something else": Corruption(
        statements=("update reconciliation set head = head + 1",), named=(("reconciliation", "1"),)
    ),
    "all records gone": Corruption(statements=("delete from reconciliation",), named=(("reconciliation", "1"),)),
    "a transfer and the whole chain rewritten with it": Corruption(
        statements=(
            "update transfer set amount = amount + 1 where seq = 20",
            "update account set balance = balance + 1 from transfer t where t.seq = 20 and id = t.credit_account",
            "delete from sealed_batch",
            "select seal()",
        ),
        named=(("sealed_batch", "2"),),
    ),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
async def test_a_corruption_shuts_the_gate_and_is_named(books: Books, what: str) -> None:
    """Plants it with the guards switched off: a whole check names the row, and the gate says so; put back, it opens."""
    corruption = CORRUPTIONS[what]
    await books.plant(*corruption.statements)
    found = await books.verify(full=True)
    assert not found.passed
    rows = {(problem.table, problem.key) for problem in found.problems}
    assert rows >= set(corruption.named), found.problems
    gate, reason = await books.gate()
    assert gate == "shut"
    assert str(found.problems[0]) in reason
    await put_back(books)
    assert (await books.verify(full=True)).problems == ()
    assert await books.gate() == ("open", "")


async def test_a_check_of_what_is_new_finds_what_came_and_whom_it_touched(books: Books) -> None:
    """After a verified deposit, damages the balance of its account and the one of an account that nothing touched.

    The check of what is new names the first alone and shuts the gate; it does not open it again, a whole one does.
    """
    await books.deposit()
    await books.plant("update account set balance = balance + 1 where id in ('c-000001', 'c-000002')")
    found = await books.verify(full=False)
    assert [(problem.table, problem.key) for problem in found.problems] == [("account", "c-000001")]
    assert (await books.gate())[0] == "shut"
    await books.plant("update account set balance = balance - 1 where id in ('c-000001', 'c-000002')")
    await books.deposit()
    assert (await books.verify(full=False)).passed
    assert (await books.gate())[0] == "shut"
    assert (await books.verify(full=True)).passed
    assert await books.gate() == ("open", "")


async def test_nothing_new_needs_no_new_record(books: Books) -> None:
    """Checks what is new three times around one deposit: one record more, and answers cover the newest transfer."""
    heads = [(await books.verify(full=False)).head]
    await books.deposit()
    heads += [(await books.verify(full=False)).head for _ in range(2)]
    async with books.owner() as owner:
        assert await owner.fetchval("select count(*) from reconciliation") == 2
        newest = await owner.fetchval("select max(seq) from transfer")
    assert heads[1:] == [newest, newest]
    assert heads[0] < newest


async def test_a_result_that_another_was_recorded_before_is_not_recorded(books: Books) -> None:
    """Two whole checks at once, many times: each record follows the one before, whoever wrote it."""
    results = await asyncio.gather(*(books.verify(full=True) for _ in range(4)), return_exceptions=True)
    recorded = [result for result in results if not isinstance(result, BaseException)]
    async with books.owner() as owner:
        numbers = [row["number"] for row in await owner.fetch("select number from reconciliation order by number")]
    assert numbers == list(range(1, len(recorded) + 2))
    assert {type(result).__name__ for result in results if isinstance(result, BaseException)} <= {"NotDoneError"}
    assert (await books.verify(full=True)).passed


async def test_without_its_key_nobody_can_record(books: Books) -> None:
    """Takes the key away, as another machine would lack it: nothing is recorded, and the error says what to do."""
    (books.folder / KEY_FILE).unlink()
    with pytest.raises(PlatformError, match="Bring the old key file back"):
        await books.verify(full=True)
    async with books.owner() as owner:
        assert await owner.fetchval("select count(*) from reconciliation") == 1
        await owner.execute("update reconciliation_key set retired_at = now()")
    assert (await books.verify(full=True)).passed


async def test_key_and_anchor_are_for_their_owner_only_and_damage_is_told(books: Books) -> None:
    """Looks at both files' modes, then cuts the anchor."""
    assert {(books.folder / name).stat().st_mode & 0o777 for name in (KEY_FILE, ANCHOR_FILE)} == {0o600}
    (books.folder / ANCHOR_FILE).write_text('{"number": 1', encoding="utf-8")
    with pytest.raises(PlatformError, match=r"reconciliation\.anchor: .* damaged"):
        await books.verify(full=True)


async def test_another_database_in_its_place_is_noticed(books: Books, tmp_path: Path) -> None:
    """Verifies with the anchor of a later record than the database has, as after an old copy was brought back."""
    await books.verify(full=True)
    shutil.copy2(books.folder / ANCHOR_FILE, tmp_path / ANCHOR_FILE)
    await put_back(books)
    shutil.copy2(tmp_path / ANCHOR_FILE, books.folder / ANCHOR_FILE)
    found = await books.verify(full=True)
    assert [(problem.table, problem.key, problem.found) for problem in found.problems] == [
        ("reconciliation", "2", "none")
    ]


async def test_the_process_shuts_the_gate_by_itself_and_opens_it_again(books: Books) -> None:
    """Runs sealing and verification as the maintenance process does, damages a touched balance, then repairs it."""
    async with books.verifier() as service, asyncio.timeout(30):
        running = [asyncio.create_task(work(service)) for work in (keep_sealed, keep_verified)]
        await books.deposit()
        await books.plant("update account set balance = balance + 1 where id = 'c-000001'")
        assert "account c-000001" in (await until(books.gate, lambda gate: gate[0] == "shut"))[1]
        await books.plant("update account set balance = balance - 1 where id = 'c-000001'")
        await until(books.gate, lambda gate: gate[0] == "open")
        async with books.owner() as owner:
            unsealed = "select count(*) from transfer where seq > (select max(last_seq) from sealed_batch)"
            await until(lambda: owner.fetchval(unsealed), lambda number: number == 0)
        service.stopping.set()
        await asyncio.gather(*running)
    labels = {"scope": "whole", "outcome": "passed"}
    assert (service.registry.get_sample_value("savings_reconciliations_total", labels) or 0) >= 1


@pytest.mark.parametrize(
    "statement",
    [
        "insert into sealed_batch select * from sealed_batch",
        "update sealed_batch set hash = sha256('x')",
        "delete from reconciliation",
        "insert into reconciliation_key (public_key) values (sha256('x'))",
        "update service_state set gate = 'open'",
        "select count(*) from transfer",
    ],
)
@pytest.mark.parametrize("role", ["maintenance_dsn", "dsn", "settlement_dsn", "auditor_dsn"])
async def test_no_role_can_write_what_the_verification_rests_on(books: Books, role: str, statement: str) -> None:
    """Tries each as each role; only the auditor may read the ledger."""
    connection = await asyncpg.connect(books.postgres.outputs()[role], timeout=5)
    try:
        if (role, statement) == ("auditor_dsn", "select count(*) from transfer"):
            assert await connection.fetchval(statement) > 0
            return
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
            await connection.execute(statement)
    finally:
        await connection.close()
