"""The reconciliation gate: a ledger that is right opens it, and the row that keeps it shut on another one is named."""

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from system_under_test.services.auditing import keep_sealed, keep_verified
from system_under_test.settings import PlatformError
from system_under_test.storage import custody_audit, reconciliation
from system_under_test.storage.reconciliation_records import ANCHOR_FILE, KEY_FILE
from tests.integration.platform.books import Books, put_back
from tests.integration.platform.corruptions import CORRUPTIONS, HOUR
from tests.integration.platform.customers import until


@pytest.fixture
async def books(shared_books: Books) -> Books:
    """The books as they were after the first verification."""
    await put_back(shared_books)
    return shared_books


@pytest.mark.parametrize("what", CORRUPTIONS)
async def test_a_corruption_shuts_the_gate_and_is_named(books: Books, what: str) -> None:
    """Plants it with the guards switched off: a whole check names the row, and the gate says why it is shut."""
    corruption = CORRUPTIONS[what]
    hours, facts = await _names(books)
    await books.plant(*(statement.format(hour=HOUR) for statement in corruption.statements))
    found = await books.verify(full=True)
    assert not found.passed
    rows = {(problem.table, problem.key) for problem in found.problems}
    assert rows >= {(table, key.format(*hours, **facts)) for table, key in corruption.named}, found.problems
    assert any(corruption.said in str(problem) for problem in found.problems), found.problems
    gate, reason = await books.gate()
    assert gate == "shut"
    assert str(found.problems[0]) in reason
    again = await books.verify(full=True)
    assert not again.passed, "the next check has forgotten it"


async def test_checks_in_parts_and_side_by_side_name_what_one_names(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch of the chain and of the payouts at a time, on two connections, with rows damaged in several of them.

    Both ways name the same rows in the same order; the payout of a batch that does not exist is among them.
    """
    await books.plant(
        "update transfer set amount = amount + 1 where seq = (select max(last_seq) from sealed_batch)",
        "delete from sealed_batch where number = 1",
        "insert into transfer (kind, debit_account, credit_account, amount, payout)"
        " values ('payout', 'payable-a', 'custody-a', 1, 999)",
        "update account set balance = balance + 1 where id = 'c-000003'",
    )
    whole = await books.verify(full=True)
    monkeypatch.setattr(reconciliation, "_BATCHES_AT_ONCE", 1)
    monkeypatch.setattr(custody_audit, "_BATCHES_AT_ONCE", 1)
    assert (await books.verify(full=True, side_by_side=2)).problems == whole.problems
    named = {(problem.table, problem.key) for problem in whole.problems}
    assert named >= {("sealed_batch", "1"), ("account", "c-000003")}
    assert any("batch 999, which does not exist" in problem.found for problem in whole.problems)


async def test_what_is_checked_side_by_side_is_of_one_moment(books: Books) -> None:
    """Pays in between the first connection's moment and the second one: both see the same newest transfer."""
    head = "select head from ledger_moment()"
    async with books.verifier() as service, service.database.snapshot(within_s=10) as first:
        before = await first.fetchval(head)
        await books.deposit()
        async with service.database.snapshot(within_s=10, beside=first) as second:
            assert await second.fetchval(head) == before
        assert (await service.database.row(head))["head"] > before


async def test_without_the_anchor_the_newest_record_holds_the_chain(books: Books) -> None:
    """Seals all the same transfers anew in one batch, as if there had never been two, with the anchor gone: named."""
    (books.folder / ANCHOR_FILE).unlink()
    await books.plant("delete from sealed_batch", "select seal()")
    found = await books.verify(full=True)
    assert [(problem.table, problem.key, problem.found) for problem in found.problems] == [
        ("sealed_batch", "2", "none")
    ]


async def test_a_ledger_that_is_right_again_opens_the_gate(books: Books) -> None:
    """Takes one unit from a balance and gives it back: shut by the first whole check, opened by the second."""
    await books.plant("update account set balance = balance - 1 where id = 'c-000003'")
    assert not (await books.verify(full=True)).passed
    assert (await books.gate())[0] == "shut"
    await books.plant("update account set balance = balance + 1 where id = 'c-000003'")
    assert (await books.verify(full=True)).passed
    assert await books.gate() == ("open", "")


async def _names(books: Books) -> tuple[list[str], dict[str, str]]:
    """What the rows that corruptions are about are called in this history."""
    async with books.owner() as owner:
        hours = await owner.fetch("select hour_name(hour) as name from accrual_hour order by hour")
        row = await owner.fetchrow(
            """
            select (select seq from transfer where redemption = 4)::text as later,
                   (select seq from transfer where payout = 1)::text as payout,
                   (select encode(manifest, 'hex') from payout_batch where number = 1) as nonce
            """
        )
    assert len(hours) > 2
    return [hour["name"] for hour in hours], dict(row)


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


async def test_without_a_record_that_passed_a_check_of_what_is_new_looks_at_everything(books: Books) -> None:
    """Forgets all records and the anchor and falsifies an hour's account of itself: named, by a whole check."""
    (books.folder / ANCHOR_FILE).unlink()
    await books.plant(
        "delete from reconciliation",
        "update accrual_hour set credited = credited + 1 where hour = (select min(hour) from accrual_hour)",
    )
    found = await books.verify(full=False)
    assert [problem.table for problem in found.problems] == ["accrual_hour"]
    async with books.owner() as owner:
        assert await owner.fetchval('select "full" from reconciliation')


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


async def test_a_record_that_leaves_one_out_is_refused(books: Books) -> None:
    """Calls the database as the maintenance process does, with a number two beyond the newest: nothing is recorded."""
    async with books.verifier() as service:
        newest = await service.database.row("select * from newest_reconciliation(false)")
        arguments = [*dict(newest).values(), ""]
        arguments[0] += 2
        with pytest.raises(asyncpg.UniqueViolationError, match="does not follow the newest one"):
            await service.database.row(
                f"select record_reconciliation({', '.join(f'${number + 1}' for number in range(len(arguments)))})",
                *arguments,
            )
    async with books.owner() as owner:
        assert await owner.fetchval("select count(*) from reconciliation") == 1


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


async def test_lost_connections_neither_end_the_process_nor_shut_the_gate(books: Books) -> None:
    """Ends the verifier's connections again and again while it works, as a database that is restarted does.

    Afterwards it has verified the newest transfer, and the gate was never shut.
    """
    async with books.verifier() as service, books.owner() as owner, asyncio.timeout(30):
        running = [asyncio.create_task(work(service)) for work in (keep_sealed, keep_verified)]
        for _ in range(40):
            await books.deposit()
            for row in await owner.fetch("select pid from pg_stat_activity where usename = 'savings_maintenance'"):
                with suppress(ProcessLookupError):  # its end was already under way
                    os.kill(row["pid"], signal.SIGTERM)
            await asyncio.sleep(0.05)
        newest = await owner.fetchval("select max(seq) from transfer")
        covered = "select max(head) from reconciliation where passed"
        await until(lambda: owner.fetchval(covered), lambda head: head >= newest)
        assert not any(task.done() for task in running)
        assert await owner.fetchval("select count(*) from reconciliation where not passed") == 0
        service.stopping.set()
        await asyncio.gather(*running)


@pytest.mark.parametrize("role", ["maintenance_dsn", "dsn", "settlement_dsn", "accrual_dsn", "auditor_dsn"])
async def test_no_role_can_write_what_the_verification_rests_on(shared_books: Books, role: str) -> None:
    """Tries each statement as the role: refused."""
    connection = await asyncpg.connect(shared_books.postgres.outputs()[role], timeout=5)
    try:
        for statement in (
            "insert into sealed_batch select * from sealed_batch",
            "update sealed_batch set hash = sha256('x')",
            "delete from reconciliation",
            "insert into reconciliation_key (public_key) values (sha256('x'))",
            "update service_state set gate = 'open'",
            *(
                ()
                if role == "auditor_dsn"
                else ("select count(*) from transfer", "select count(*) from reconciliation")
            ),
        ):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
                await connection.execute(statement)
    finally:
        await connection.close()
