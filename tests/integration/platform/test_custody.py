"""Custody with real signers: what two of them approved is paid once; with fewer it waits, and nothing else stops."""

import asyncio
import json
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from system_under_test.domain import signatures
from system_under_test.settings import ConfigurationError, PlatformError
from system_under_test.storage import signers
from system_under_test.storage.custody_audit import audit
from tests.integration.platform.custody_room import (
    OWNER,
    WITHIN_S,
    Room,
    Settlement,
    public_key_of,
    settlement_of,
    start_room,
    until,
)
from tests.integration.platform.stage import Process, Stage, await_true, free_port, get


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """One database with three signers for all tests here: each test makes batches of its own."""
    stage = Stage(folder=tmp_path_factory.mktemp("custody"))
    try:
        yield start_room(stage)
    finally:
        stage.close()


@pytest.fixture
async def settlement(room: Room) -> AsyncIterator[Settlement]:
    """The active settlement; whatever an earlier test left unpaid is paid before the next one begins."""
    async with settlement_of(room) as settlement:
        yield settlement
        for signer in room.signers:
            assert signer.running is not None
            if signer.running.poll() is not None:
                signer.start()
        await until(_stepped(settlement), lambda open_batches: not open_batches)


def _stepped(settlement: Settlement) -> Any:
    async def step() -> Any:
        await settlement.settle()
        await settlement.payouts.step()
        return await settlement.state("select 1 from payout_batch where transfer is null")

    return step


async def _batch(settlement: Settlement, amounts: list[int]) -> int:
    """A new unpaid batch of wallet a."""
    await settlement.room.redeem(amounts)
    (number,) = await settlement.propose()
    return number


def _end(*signers: Process) -> None:
    for signer in signers:
        signer.end(signal.SIGKILL)


async def test_what_was_redeemed_is_paid_from_its_wallet_under_a_signed_manifest(settlement: Settlement) -> None:
    """Redemptions of both wallets: one batch and one transfer each, for the sums, and the audit finds nothing."""
    await settlement.room.redeem([10, 20, 30], wallet="a")
    await settlement.room.redeem([5], wallet="b")
    numbers = await settlement.propose()
    rows = [await settlement.paid(number) for number in numbers]
    transfers = await settlement.state(
        "select debit_account, credit_account, amount from transfer where payout = any($1) order by 1", numbers
    )
    assert sorted((row["wallet"], row["count"], row["total"]) for row in rows) == [("a", 3, 60), ("b", 1, 5)]
    assert [tuple(row) for row in transfers] == [("payable-a", "custody-a", 60), ("payable-b", "custody-b", 5)]
    assert await _audited(settlement) == []


async def test_with_one_signer_down_payouts_go_on(settlement: Settlement) -> None:
    """Kills signer 2: a batch is signed by the others and paid."""
    _end(settlement.room.signers[1])
    number = await _batch(settlement, [1])
    await settlement.paid(number)
    signers = await settlement.state(
        "select signer from signature s join payout_batch b on b.manifest = s.manifest where b.number = $1", number
    )
    assert {row["signer"] for row in signers} == {"signer-1", "signer-3"}


async def test_with_two_signers_down_payouts_wait_settlement_goes_on_and_they_resume(settlement: Settlement) -> None:
    """Kills signers 2 and 3: redemptions are settled on, the batch waits with one signature until one is back."""
    room = settlement.room
    _end(*room.signers[1:])
    number = await _batch(settlement, [1])
    await settlement.signed(number, by=1)
    await room.redeem([2, 2, 2])
    await settlement.settle()
    assert await settlement.payouts.step() == 0
    (queue,) = await settlement.state("select accepted - decided as waiting from intake, settlement")
    (batch,) = await settlement.state("select transfer from payout_batch where number = $1", number)
    assert (queue["waiting"], batch["transfer"]) == (0, None)
    assert settlement.service.registry.get_sample_value("savings_payout_batches", {"state": "waiting"}) == 1
    room.signers[2].start()
    await settlement.paid(number)


async def test_a_signer_killed_and_started_again_has_its_key(settlement: Settlement) -> None:
    """Kills and starts signer 1: the same key counts, and the policy has not changed."""
    signer = settlement.room.signers[0]
    before, version = public_key_of(signer), await settlement.state("select max(version) from custody_policy")
    _end(signer)
    told = len(signer.lines("signer.key"))
    signer.start()
    await asyncio.to_thread(await_true, lambda: len(signer.lines("signer.key")) > told, "the key stands")
    assert signer.lines("signer.key")[-1]["standing"] == "current"
    assert public_key_of(signer) == before
    assert await settlement.state("select max(version) from custody_policy") == version


async def test_a_private_key_is_for_its_owner_alone_and_in_no_log_metric_or_table(settlement: Settlement) -> None:
    """Looks for each signer's private key in its log, its metrics and every row that the auditor may read."""
    room = settlement.room
    for signer in room.signers:
        path = signer.folder / "signer.key"
        private = path.read_text(encoding="ascii").splitlines()[1]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert private not in signer.log.read_text(encoding="utf-8")
        assert private.encode() not in get(signer.port, "/metrics")[1]
        for table in ("signer", "signer_key", "signature", "manifest", "custody_policy"):
            text = await settlement.state(f"select coalesce(string_agg(t::text, '|'), '') as text from {table} t")  # noqa: S608 - our own names
            assert private not in text[0]["text"]


async def test_a_signer_serves_nothing_but_health_and_metrics(settlement: Settlement) -> None:
    """Asks a signer's port for other paths: 404; its metrics count signatures."""
    signer = settlement.room.signers[0]
    assert {path: get(signer.port, path)[0] for path in ("/healthz", "/readyz", "/metrics", "/", "/sign", "/v1")} == {
        "/healthz": 200,
        "/readyz": 200,
        "/metrics": 200,
        "/": 404,
        "/sign": 404,
        "/v1": 404,
    }
    assert b"savings_signer_signatures_total" in get(signer.port, "/metrics")[1]
    assert b"savings_signer_key_current 1.0" in get(signer.port, "/metrics")[1]


async def test_a_manifest_altered_after_it_was_signed_is_not_paid(settlement: Settlement) -> None:
    """Raises a signed manifest's total, its stored bytes with it, as the owner with the guard off: refused, unpaid."""
    number = await _batch(settlement, [7])
    await settlement.signed(number, by=3)
    before = settlement.count("altered")
    await _tamper(
        settlement.room,
        "manifest",
        "update manifest set total = total + 1 where status = 'pending'",
        "update manifest m set canonical = manifest_bytes(m) where status = 'pending'",
    )
    await settlement.refused("altered", before=before)
    async with settlement.room.connected(OWNER) as owner:
        assert await owner.fetchval("select transfer from payout_batch where number = $1", number) is None
    await _tamper(
        settlement.room,
        "manifest",
        "update manifest set total = total - 1 where status = 'pending'",
        "update manifest m set canonical = manifest_bytes(m) where status = 'pending'",
    )


async def test_the_database_refuses_what_settlement_did_not_notice(settlement: Settlement) -> None:
    """Pays without enough signatures, without the lease, another batch's manifest, and a list that has changed."""
    room = settlement.room
    _end(*room.signers[1:])
    number = await _batch(settlement, [8])
    await settlement.signed(number, by=1)
    nonce = "(select nonce from manifest where batch = $2 and status = 'pending')"
    pay = f"select pay_out($1, $3, {nonce}, $4)"
    token, everyone = settlement.lease.token, ["signer-1", "signer-2", "signer-3"]
    async with room.connected(OWNER) as owner:
        assert await owner.fetchval(pay, token, number, number, everyone) == "too_few"
        room.signers[1].start()
        await settlement.signed(number, by=2)
        assert await owner.fetchval(pay, token, number, number, ["signer-1", "signer-1", "signer-3"]) == "too_few"
        assert await owner.fetchval(pay, token, number, number - 1, everyone) == "another_batch"
        with pytest.raises(asyncpg.PostgresError, match="fenced: token 1000000000"):
            await owner.fetchval(pay, 10**9, number, number, everyone)
        for table, change in (
            ("redemption", "update redemption set amount = amount + 1 where seq = (select max(seq) from redemption)"),
            ("manifest", "update manifest set head = head + 1 where status = 'pending'"),
        ):
            transaction = owner.transaction()
            await transaction.start()
            await owner.execute(f"alter table {table} disable trigger user")
            await owner.execute(change)
            assert await owner.fetchval(pay, token, number, number, everyone) == "altered"
            await transaction.rollback()


async def test_a_signer_does_not_sign_what_its_list_does_not_bear_out(settlement: Settlement) -> None:
    """Manifests with another total and with other bytes wait when the signers start: objected to once, not signed."""
    room = settlement.room
    _end(*room.signers)
    await room.redeem([12], wallet="a")
    await room.redeem([13], wallet="b")
    one, other = await settlement.propose()
    await _tamper(
        room,
        "manifest",
        f"update manifest set total = total + 1 where batch = {one}",  # noqa: S608 - our own number
        f"update manifest m set canonical = manifest_bytes(m) where batch = {one}",  # noqa: S608
        f"update manifest set canonical = canonical || '\\x00' where batch = {other}",  # noqa: S608
    )
    for signer in room.signers:
        signer.start()
    for signer in room.signers:

        def objections(signer: Process = signer) -> list[str]:
            lines = signer.lines("manifest.objection")
            return [line["problem"] for line in lines if line["batch"] in (one, other)]

        await asyncio.to_thread(await_true, lambda: len(objections()) == 2, "both were objected to")
        assert objections()[0] in ("its list does not add up to 13", "its list does not add up to 14")
        assert objections()[1] == "its stored bytes are not what its fields say"
    assert await settlement.state("select 1 from signature where batch in ($1, $2)", one, other) == []
    async with room.connected(OWNER) as owner:
        await owner.fetchval("select set_custody_policy(2, '5 minutes')")
    await settlement.paid(one)
    await settlement.paid(other)
    assert [len(signer.lines("manifest.objection")) for signer in room.signers] == [2, 2, 2]


async def test_a_used_manifest_pays_nothing_again(settlement: Settlement) -> None:
    """Pays a paid batch again; then opens it and its manifest again, as the owner with the guards off: one transfer."""
    number = await _batch(settlement, [9])
    row = await settlement.paid(number)
    before = settlement.count("reused")
    pay = "select pay_out($1, $2, $3, array['signer-1', 'signer-2', 'signer-3'])"
    facts = (settlement.lease.token, number, row["manifest"])
    async with settlement.room.connected(OWNER) as owner:
        assert await owner.fetchval(pay, *facts) == "reused"
        await _tamper(
            settlement.room,
            "payout_batch",
            f"update payout_batch set transfer = null, manifest = null, paid_at = null where number = {number}",  # noqa: S608
        )
        await _tamper(
            settlement.room,
            "manifest",
            f"update manifest set status = 'pending', closed_at = null where batch = {number} and status = 'paid'",  # noqa: S608
        )
        assert await owner.fetchval(pay, *facts) == "reused"
        await settlement.refused("reused", before=before)
        assert await owner.fetchval("select count(*) from transfer where payout = $1", number) == 1
        await owner.execute(
            "update payout_batch set transfer = $1, manifest = $2, paid_at = $3 where number = $4",
            *(row["transfer"], row["manifest"], row["paid_at"], number),
        )
        await owner.execute(
            "update manifest set status = 'paid', closed_at = now() where batch = $1 and status = 'pending'", number
        )


async def test_an_expired_manifest_is_refused_and_replaced(settlement: Settlement) -> None:
    """Manifests that live half a second: the database refuses the expired one; a new one is signed and paid."""
    room = settlement.room
    async with room.connected(OWNER) as owner:
        await owner.fetchval("select set_custody_policy(2, '0.5 seconds')")
        number = await _batch(settlement, [11])
        await settlement.signed(number, by=2)
        (manifest,) = await settlement.state("select * from manifest where batch = $1 and status = 'pending'", number)
        await until(lambda: owner.fetchval("select clock_timestamp() > $1", manifest["expires_at"]), bool)
        said = await owner.fetchval(
            "select pay_out($1, $2, $3, $4)",
            *(settlement.lease.token, number, manifest["nonce"], ["signer-1", "signer-2", "signer-3"]),
        )
        assert said == "expired"
        await owner.fetchval("select set_custody_policy(2, '5 minutes')")
    row = await settlement.paid(number)
    (old,) = await settlement.state("select status, reason from manifest where nonce = $1", manifest["nonce"])
    assert tuple(old) == ("refused", "expired")
    assert row["manifest"] != manifest["nonce"]


async def test_signatures_made_for_another_batch_are_refused(settlement: Settlement) -> None:
    """Puts signatures for one batch under another, as the owner: refused as another batch's, or as not fitting."""
    room = settlement.room
    await room.redeem([12], wallet="a")
    await room.redeem([13], wallet="b")
    one, other = await settlement.propose()
    for number in (one, other):
        await settlement.signed(number, by=3)
    before = {reason: settlement.count(reason) for reason in ("another_batch", "altered")}
    move = """
    update signature s set value = t.value, batch = {batch}
    from manifest m, signature t join manifest n on n.nonce = t.manifest
    where m.nonce = s.manifest and m.batch = {other} and n.batch = {one} and t.signer = s.signer
    """
    await _tamper(room, "signature", move.format(batch="t.batch", one=one, other=other))
    await settlement.refused("another_batch", before=before["another_batch"])
    # The label put right: what was signed still is not this manifest.
    relabel = "update signature set batch = {0} where manifest in (select nonce from manifest where batch = {0})"
    await _tamper(room, "signature", relabel.format(other))
    await settlement.refused("altered", before=before["altered"])
    async with room.connected(OWNER) as owner:
        await owner.fetchval("select set_custody_policy(2, '5 minutes')")  # new manifests, to be signed as they should


async def test_one_signer_under_two_names_counts_once(settlement: Settlement) -> None:
    """Stores signer 1's signature in the names of the others too, as the owner: refused; it waits for a second one."""
    room = settlement.room
    _end(*room.signers[1:])
    number = await _batch(settlement, [14])
    await settlement.signed(number, by=1)
    before = settlement.count("unknown_key")
    async with room.connected(OWNER) as owner:
        await owner.execute(
            "insert into signature (manifest, signer, public_key, batch, value)"
            " select manifest, 'signer-2', public_key, batch, value from signature where batch = $1",
            number,
        )
        await settlement.refused("unknown_key", before=before)
        assert await owner.fetchval("select transfer from payout_batch where number = $1", number) is None
    # Signer 2's place is taken by what was planted: signer 3's own signature makes two.
    room.signers[2].start()
    await settlement.paid(number)


async def test_a_key_revoked_after_it_signed_does_not_count_and_cannot_come_back(settlement: Settlement) -> None:
    """Revokes signer 3 when it and signer 1 have signed: replaced, unpaid until signer 2; then rotates signer 3 in."""
    room = settlement.room
    third = room.signers[2]
    _end(room.signers[1])
    number = await _batch(settlement, [15])
    await settlement.signed(number, by=2)
    async with room.connected(OWNER) as owner:
        await owner.fetchval("select revoke_signer('signer-3')")
        assert await settlement.payouts.step() == 1  # the manifest under the new policy
        for _ in range(3):
            assert await settlement.payouts.step() == 0
        await settlement.signed(number, by=1)
        await asyncio.to_thread(
            await_true, lambda: third.lines("signer.key")[-1]["standing"] == "revoked", "signer 3 knows"
        )
        room.signers[1].start()
        row = await settlement.paid(number)
        signers = await owner.fetch("select signer from signature where manifest = $1", row["manifest"])
        assert {row["signer"] for row in signers} == {"signer-1", "signer-2"}
        # Another key of the same signer does not get in either, until the operator opens the seat.
        async with room.connected("signer_3_dsn") as signer:
            new_key = signatures.public_key(signatures.generate())
            assert await signer.fetchval("select enrol_key($1)", new_key) == "replaced"
        assert await owner.fetchval("select rotate_signer('signer-3')") > 0
    _end(third)
    old = public_key_of(third)
    (third.folder / "signer.key").rename(third.folder / "signer.key.old")
    third.start()
    await asyncio.to_thread(
        await_true, lambda: third.lines("signer.key")[-1]["standing"] == "current", "signer 3 is back"
    )
    assert public_key_of(third) != old
    assert await _audited(settlement) == []


async def test_a_signer_can_act_in_no_other_name(settlement: Settlement) -> None:
    """As signer 1's role: with signer 2's key, and with a key of its own beside its enrolled one; nothing is stored."""
    room = settlement.room
    _end(*room.signers)
    number = await _batch(settlement, [16])
    (manifest,) = await settlement.state("select nonce from manifest where batch = $1", number)
    sign = "select sign_manifest($1, $2, $3, $4)"
    async with room.connected("signer_1_dsn") as first:
        for key in (public_key_of(room.signers[1]), signatures.public_key(signatures.generate())):
            assert await first.fetchval(sign, number, manifest["nonce"], key, b"s" * 64) == "key"
            assert await first.fetchval("select enrol_key($1)", key) == "replaced"
        own = public_key_of(room.signers[0])
        assert await first.fetchval(sign, number + 1, manifest["nonce"], own, b"s" * 64) == "gone"
        assert await settlement.state("select 1 from signature where batch = $1", number) == []
        # A signature that is none is stored in its own name, once, and counts for nothing.
        assert await first.fetchval(sign, number, manifest["nonce"], own, b"s" * 64) == "stored"
        assert await first.fetchval(sign, number, manifest["nonce"], own, b"t" * 64) == "again"
    before = settlement.count("altered")
    room.signers[1].start()
    await settlement.refused("altered", before=before)
    room.signers[2].start()
    await settlement.paid(number)


async def test_nothing_is_paid_while_the_gate_is_shut(settlement: Settlement) -> None:
    """Shuts the gate with a signed batch waiting: not paid; opens it: paid."""
    number = await _batch(settlement, [16])
    await settlement.signed(number, by=3)
    async with settlement.room.connected(OWNER) as owner:
        await owner.execute("update service_state set gate = 'shut', gate_reason = 'a test'")
        assert await settlement.payouts.step() == 0
        pay = "select pay_out($1, $2, (select nonce from manifest where batch = $2 and status = 'pending'), $3)"
        everyone = ["signer-1", "signer-2", "signer-3"]
        assert await owner.fetchval(pay, settlement.lease.token, number, everyone) == "closed"
        await owner.execute("update service_state set gate = 'open', gate_reason = ''")
    await settlement.paid(number)


async def test_a_batch_has_at_most_five_thousand_and_full_ones_do_not_wait(settlement: Settlement) -> None:
    """10,500 redemptions: batches of 5,000 and 5,000 at once, the rest after they are paid; all of it is paid."""
    for _ in range(3):
        await settlement.room.redeem([1] * 3500)
    await settlement.settle()
    before = await settlement.state("select coalesce(max(number), 0) as last from payout_batch")
    await until(
        _stepped(settlement), lambda _open: settlement.service.registry.get_sample_value("savings_payouts_total") == 3
    )
    rows = await settlement.state(
        "select count, total, paid_at is not null as paid from payout_batch where number > $1 order by number",
        before[0]["last"],
    )
    assert [tuple(row) for row in rows] == [(5000, 5000, True), (5000, 5000, True), (500, 500, True)]


async def test_the_settlement_process_pays_what_it_settles_and_another_goes_on_when_it_is_killed(room: Room) -> None:
    """Two settlement processes, the first killed after its first payout: all redemptions of both rounds are paid."""
    url = room.address("settlement_dsn")
    first, second = (room.stage.add(name, "settlement", DATABASE_URL=url) for name in ("settle-1", "settle-2"))
    async with room.connected("auditor_dsn") as auditor:

        async def unpaid() -> Any:
            return await auditor.fetchval(
                "select accepted - decided + coalesce((select sum(case kind when 'payout' then -amount else amount end)"
                " from transfer where kind in ('redemption', 'payout')), 0) from intake, settlement"
            )

        for round_ in range(2):
            await room.redeem([3, 4], wallet="a")
            await room.redeem([5], wallet="b")
            await until(unpaid, lambda owed: owed == 0)
            if round_ == 0:
                _end(first if first.lines("payout.paid") else second)
        assert await audit(auditor) == []
    left = second if first.running is None or first.running.poll() is not None else first
    assert left.lines("payout.paid")
    assert b'savings_payout_refusals_total{reason="altered"} 0.0' in get(left.port, "/metrics")[1]
    assert left.end() == 0


async def _audited(settlement: Settlement) -> list[Any]:
    async with settlement.room.connected("auditor_dsn") as auditor:
        return await audit(auditor)


PLANTED: Final = {
    "a payout's amount": (
        "transfer",
        "update transfer set amount = amount + 1 where payout = {batch}",
        "transfer {transfer}",
    ),
    "a payout without a batch": (
        "transfer",
        "update transfer set payout = 999999 where payout = {batch}",
        "batch 999999, which does not exist",
    ),
    "a manifest's total": (
        "manifest",
        "update manifest set total = total + 1 where batch = {batch} and status = 'paid'",
        "manifest {nonce}",
    ),
    "a manifest's bytes": (
        "manifest",
        "update manifest set canonical = canonical || '\\x00' where batch = {batch} and status = 'paid'",
        "manifest {nonce}",
    ),
    "a signature's bit": (
        "signature",
        "update signature set value = set_bit(value, 5, 1 - get_bit(value, 5)) where batch = {batch}",
        "signature {nonce}",
    ),
    "a forged manifest with its bytes": (
        "manifest",
        """
        update manifest set head = head + 1, canonical = manifest_bytes(
            (nonce, batch, encoding, wallet, digest, count, total, head + 1, policy_version, created_at, expires_at,
             canonical, status, reason, closed_at)::manifest)
        where batch = {batch} and status = 'paid'
        """,
        "signature {nonce}",
    ),
    "a batch's end": (
        "payout_batch",
        "update payout_batch set last_seq = last_seq + 1 where number = {batch}",
        "payout_batch {batch}",
    ),
    "a redemption passed over": (
        "payout_progress",
        """
        insert into redemption select seq + 1, account, key || 'x', amount, recorded_at, business_at, place
            from redemption where seq = {last};
        insert into transfer (kind, debit_account, credit_account, amount, redemption)
            select 'redemption', account, 'payable-a', amount, seq from redemption where seq = {last} + 1;
        insert into outcome select {last} + 1, 'settled', null, max(seq), 0, now() from transfer;
        update payout_progress set considered = {last} + 1;
        """,
        "payout_progress a",
    ),
    "signatures deleted": ("signature", "delete from signature where batch = {batch}", "signature {nonce}"),
    "a redemption's outcome": (
        "outcome",
        "update outcome set status = 'refused', transfer = null, reason = 'x' where seq = {last}",
        "payout_batch {batch}",
    ),
}


@pytest.mark.parametrize("what", PLANTED)
async def test_the_audit_names_the_row_that_was_tampered_with(settlement: Settlement, what: str) -> None:
    """Tampers with the newest payout as the owner, triggers off, in a transaction that is rolled back: named."""
    number = await _batch(settlement, [17, 18])
    row = await settlement.paid(number)
    table, statement, named = PLANTED[what]
    facts = {"batch": number, "transfer": row["transfer"], "nonce": row["manifest"].hex(), "last": row["last_seq"]}
    async with settlement.room.connected(OWNER) as owner:
        assert await audit(owner) == []
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(f"alter table {table} disable trigger user")
        await owner.execute(statement.format(**facts))
        problems = [str(problem) for problem in await audit(owner, after=number - 1)]
        await transaction.rollback()
    assert any(named.format(**facts) in problem for problem in problems), problems


async def _tamper(room: Room, table: str, *statements: str) -> None:
    async with room.connected(OWNER) as owner, owner.transaction():
        await owner.execute(f"alter table {table} disable trigger user")
        for statement in statements:
            await owner.execute(statement)
        await owner.execute(f"alter table {table} enable trigger user")


async def test_the_operator_lists_revokes_and_rotates_by_command(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command `signers`: the list, an unknown name, a missing name, and a key's end that the list shows."""
    environment = {"DATABASE_ADMIN_URL": room.address(OWNER)}

    async def said(*arguments: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert await asyncio.to_thread(signers.main, arguments, environment) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    listed = await said("list")
    assert [row["signer"] for row in listed] == ["signer-1", "signer-2", "signer-3"]
    assert [row["public_key"] for row in listed] == [public_key_of(signer).hex() for signer in room.signers]
    with pytest.raises(PlatformError, match="there is no signer signer-9; `signers list` names them"):
        await said("revoke", "signer-9")
    with pytest.raises(ConfigurationError, match="rotate: expected the name of a signer"):
        await said("rotate")
    third = room.signers[2]
    for what, standing in (("revoke", "revoked"), ("rotate", "vacant")):
        assert (await said(what, "signer-3"))[0]["policy_version"] > listed[2]["since_policy"]
        assert (await said("list"))[2]["standing"] == standing
    _end(third)
    (third.folder / "signer.key").replace(third.folder / "signer.key.former")
    third.start()
    await asyncio.to_thread(
        await_true, lambda: third.lines("signer.key")[-1]["standing"] == "current", "signer 3 is back"
    )


def test_a_damaged_key_file_ends_the_start_with_what_to_do(room: Room, tmp_path: Path) -> None:
    """Starts a signer on a key file of rubbish: exit code 1, the reason, no traceback, the file untouched."""
    folder = tmp_path / "damaged"
    signer = Process(
        name="damaged",
        command=room.signers[0].command,
        port=free_port(),
        folder=folder,
        environment={"DATABASE_URL": room.address("signer_1_dsn")},
    )
    folder.mkdir()
    (folder / "signer.key").write_text("rubbish")
    (folder / "signer.key").chmod(0o600)
    signer.start()
    assert signer.running is not None
    assert signer.running.wait(WITHIN_S) == 1
    log = signer.log.read_text(encoding="utf-8")
    assert "signer.key: the private key is damaged" in log
    assert "Traceback" not in log
    assert (folder / "signer.key").read_text() == "rubbish"


async def test_a_signer_with_a_role_that_is_none_says_so(room: Room, stage: Stage) -> None:
    """Starts a signer with the portal's role: exit code 1 and the reason."""
    signer = stage.add("signer-x", "signer", DATABASE_URL=room.address("dsn"))
    assert signer.running is not None
    assert await asyncio.to_thread(signer.running.wait, WITHIN_S) == 1
    log = signer.log.read_text(encoding="utf-8")
    assert "DATABASE_URL: its role may not sign" in log
    assert "Traceback" not in log
