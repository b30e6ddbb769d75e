"""Everything that the verification of the ledger has to find."""

from dataclasses import dataclass
from typing import Final

HOUR: Final = "(select min(hour) + interval '1 hour' from accrual_hour)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """What is changed behind the platform's back, and the rows that a whole check has to name for it.

    In statements `{hour}` is the history's second hour of interest; in names `{0}`, `{1}`, ... are its hours, `{nonce}`
    and `{payout}` the first payout's manifest and transfer, and `{later}` the transfer that settled redemption 4.
    """

    statements: tuple[str, ...]
    named: tuple[tuple[str, str], ...]
    # What one of the problems has to say, where the row would be named for something else too.
    said: str = ""


def _moved(column: str, amount: int) -> str:
    """Gives one account's snapshot so much more and another's so much less: no total tells."""
    return (
        f"update accrual_snapshot set {column} = {column}"  # noqa: S608 - names of our own
        f" + case account when 'c-000004' then {amount} else -{amount} end"
        " where hour = {hour} and account in ('c-000004', 'c-000005')"
    )


CORRUPTIONS: Final = {
    "a transfer of one unit more": Corruption(
        statements=("update transfer set amount = amount + 1 where seq = 20",),
        named=(("transfer", "20"), ("account", "c-000008")),
    ),
    "a transfer of more than 64 bits can add up": Corruption(
        statements=("update transfer set amount = 9223372036854775807 where seq in (20, 32)",),
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
        said="a signature by the key",
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
    "an hour of interest missing": Corruption(
        statements=(
            "create temporary table gone on commit drop as select {hour} as hour",
            "delete from accrual_snapshot where hour = (select hour from gone)",
            "delete from accrual_hour where hour = (select hour from gone)",
        ),
        named=(("accrual_hour", "{1}"),),
    ),
    "an hour of interest missing with all that it paid": Corruption(
        statements=(
            "create temporary table gone on commit drop as select {hour} as hour",
            "delete from accrual_snapshot where hour = (select hour from gone)",
            "delete from accrual_hour where hour = (select hour from gone)",
            "delete from transfer using gone where kind = 'interest' and business_at = gone.hour + interval '1 hour'",
        ),
        named=(("accrual_hour", "{1}"),),
    ),
    "the newest hour of interest missing": Corruption(
        statements=(
            "delete from accrual_snapshot where hour = (select max(hour) from accrual_hour)",
            "delete from accrual_hour where hour = (select max(hour) from accrual_hour)",
        ),
        named=(("accrual_hour", "{2}"),),
    ),
    "an hour's snapshots missing": Corruption(
        statements=("delete from accrual_snapshot where hour = {hour}",),
        named=(("accrual_hour", "{1}"), ("accrual_snapshot", "{1} c-000001")),
    ),
    "one snapshot missing": Corruption(
        statements=("delete from accrual_snapshot where hour = {hour} and account = 'c-000005'",),
        named=(("accrual_hour", "{1}"), ("accrual_snapshot", "{1} c-000005")),
    ),
    "a snapshot's interest": Corruption(
        statements=(
            "update accrual_snapshot set interest = interest + 1 where hour = {hour} and account = 'c-000005'",
        ),
        named=(("accrual_snapshot", "{1} c-000005"),),
    ),
    "a remainder that is one part of": Corruption(
        statements=(
            "update accrual_snapshot set remainder = remainder + 1 where hour = {hour} and account = 'c-000005'",
        ),
        named=(("accrual_snapshot", "{1} c-000005"),),
    ),
    "a snapshot's balance": Corruption(
        statements=("update accrual_snapshot set balance = balance + 1 where hour = {hour} and account = 'c-000005'",),
        named=(("accrual_snapshot", "{1} c-000005"),),
    ),
    "a snapshot's balance, by just what a half of it holds": Corruption(
        statements=(
            "update accrual_snapshot set balance = balance + 2147483648 where hour = {hour} and account = 'c-000005'",
        ),
        named=(("accrual_snapshot", "{1} c-000005"),),
    ),
    "two snapshots' balances, one as much more as the other one less": Corruption(
        statements=(_moved("balance", 1_000),),
        named=(("accrual_snapshot", "{1} c-000004"), ("accrual_snapshot", "{1} c-000005")),
    ),
    "two snapshots' remainders, one part more and one part less": Corruption(
        statements=(_moved("remainder", 1),),
        named=(("accrual_snapshot", "{1} c-000004"), ("accrual_snapshot", "{1} c-000005")),
    ),
    "two snapshots, in all that they say": Corruption(
        statements=(_moved("balance", 1_000), _moved("remainder", 1), _moved("interest", 1)),
        named=(("accrual_snapshot", "{1} c-000004"), ("accrual_snapshot", "{1} c-000005")),
    ),
    "a snapshot under another account's name": Corruption(
        statements=("update accrual_snapshot set account = 'custody-a' where hour = {hour} and account = 'c-000005'",),
        named=(("accrual_snapshot", "{1} c-000005"), ("accrual_snapshot", "{1} custody-a")),
    ),
    "interest of one account paid to another": Corruption(
        statements=(
            """
            update transfer set credit_account = 'c-000004'
            where kind = 'interest' and business_at = {hour} + interval '1 hour' and credit_account = 'c-000005'
            """,
        ),
        named=(("accrual_snapshot", "{1} c-000004"), ("accrual_snapshot", "{1} c-000005")),
    ),
    "a settled redemption that is called refused": Corruption(
        statements=(
            "update outcome set status = 'refused', reason = 'insufficient-funds', transfer = null where seq = 5",
        ),
        named=(("outcome", "5"),),
    ),
    "a refusal of what there were funds for": Corruption(
        statements=("update redemption set amount = 1 where seq = 30",), named=(("outcome", "30"),)
    ),
    "a refusal for a balance that never was": Corruption(
        statements=("update outcome set balance_after = balance_after - 1 where seq = 30",),
        named=(("outcome", "30"),),
    ),
    "a settled redemption that there were no funds for": Corruption(
        statements=(
            """
            insert into transfer (kind, debit_account, credit_account, amount, redemption)
            select 'redemption', r.account, 'payable-' || a.wallet, r.amount, r.seq
            from redemption r join account a on a.id = r.account where r.seq = 30
            """,
            """
            update outcome o set status = 'settled', reason = null, balance_after = a.balance - r.amount,
                transfer = (select max(seq) from transfer where redemption = 30)
            from redemption r join account a on a.id = r.account where o.seq = 30 and r.seq = 30
            """,
        ),
        named=(("outcome", "30"),),
    ),
    "an outcome that says another balance": Corruption(
        statements=("update outcome set balance_after = balance_after + 1 where seq = 5",), named=(("outcome", "5"),)
    ),
    "an outcome gone": Corruption(
        statements=("delete from outcome where seq = 7",), named=(("outcome", "7"), ("settlement", "decided"))
    ),
    "a redemption gone": Corruption(
        statements=("delete from redemption where seq = 30",), named=(("redemption", "30"), ("intake", "accepted"))
    ),
    "redemptions settled out of their order": Corruption(
        statements=(
            "create temporary table swapped on commit drop as select * from transfer where redemption in (3, 4)",
            "delete from transfer where redemption in (3, 4)",
            "update swapped set seq = (select sum(seq) from swapped) - seq",
            "insert into transfer overriding system value select * from swapped",
            "update outcome o set transfer = s.seq from swapped s where s.redemption = o.seq",
        ),
        named=(("transfer", "{later}"),),
        said="redemptions in their order",
    ),
    "a forged manifest": Corruption(
        statements=(
            """
            update manifest set head = head + 1, canonical = manifest_bytes(
                (nonce, batch, encoding, wallet, digest, count, total, head + 1, policy_version, created_at, expires_at,
                 canonical, status, reason, closed_at)::manifest)
            where batch = 1
            """,
        ),
        named=(("signature", "{nonce}"),),
    ),
    "a payout of more than was redeemed": Corruption(
        statements=("update transfer set amount = amount + 1 where payout = 1",),
        named=(("transfer", "{payout}"), ("account", "payable-a")),
    ),
}
