"""Writes rows of the database as NDJSON, as the auditor sees them at one moment; docs/formats.md describes each schema.

    {"row": "account", "account": "c-000001", "kind": "customer", "balance": 1000500}
    {"row": "transfer", "transfer": "201", "kind": "deposit", "debit": "custody-a", "credit": "c-000001",
     "amount": 500, "key": "...", "t": 201}

Times are seconds since 1970: of wall time, or where the schema says so of business time. Bytes are in hexadecimal.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from pydantic import Field

from system_under_test.logs import configure_logs
from system_under_test.settings import Arguments, DatabaseUrl, Settings, read_settings
from system_under_test.storage.connection import connect

_ROWS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What one dump holds: its schema, and the queries that give its rows, one after the other."""

    schema: str
    queries: tuple[str, ...]


DUMPS: Final[Mapping[str, Dump]] = {
    "ledger": Dump(
        schema="ledger/1",
        queries=(
            "select 'account' as row, id as account, kind, balance from account order by id",
            # In the order of these numbers an account's own transfers were committed.
            """
            select 'transfer' as row, seq::text as transfer, kind, debit_account as debit, credit_account as credit,
                   amount, key, seq as t, extract(epoch from business_at)::float8 as business_at
            from transfer order by seq
            """,
        ),
    ),
    "intake": Dump(
        schema="effects/1",
        queries=(
            """
            select 'redeem' as f, key, json_build_object('amount', amount, 'account', account) as value
            from redemption order by seq
            """,
        ),
    ),
    "redemptions": Dump(
        schema="redemptions/1",
        queries=(
            """
            select 'redemption' as row, r.seq, r.account, r.key, r.amount,
                   extract(epoch from r.recorded_at)::double precision as accepted_at,
                   coalesce(o.status, 'queued') as status, o.reason, o.transfer, o.balance_after
            from redemption r left join outcome o on o.seq = r.seq order by r.seq
            """,
        ),
    ),
    "accrual": Dump(
        schema="accrual/1",
        queries=(
            """
            select 'rate' as row, extract(epoch from from_hour)::bigint as hour, rate_ppb
            from interest_rate order by from_hour
            """,
            """
            select 'hour' as row, extract(epoch from hour)::bigint as hour, rate_ppb, accounts, credited,
                   extract(epoch from started_at)::double precision as started_at,
                   extract(epoch from finished_at)::double precision as finished_at
            from accrual_hour order by accrual_hour.hour
            """,
            """
            select 'snapshot' as row, extract(epoch from hour)::bigint as hour, account, balance, interest, remainder
            from accrual_snapshot order by accrual_snapshot.hour, account
            """,
        ),
    ),
    "payouts": Dump(
        schema="payouts/1",
        queries=(
            """
            select 'key' as row, signer, encode(public_key, 'hex') as public_key, since, until, revoked
            from signer_key order by enrolled_at, public_key
            """,
            "select 'policy' as row, version, required from custody_policy order by version",
            """
            select 'batch' as row, number as batch, wallet, first_seq, last_seq, count, total,
                   encode(digest, 'hex') as digest, transfer, encode(manifest, 'hex') as manifest,
                   extract(epoch from proposed_at)::double precision as proposed_at,
                   extract(epoch from paid_at)::double precision as paid_at
            from payout_batch order by number
            """,
            """
            select 'manifest' as row, encode(nonce, 'hex') as manifest, batch, encode(canonical, 'hex') as canonical,
                   policy_version, status, reason, extract(epoch from created_at)::double precision as created_at,
                   extract(epoch from expires_at)::double precision as expires_at
            from manifest order by created_at, nonce
            """,
            """
            select 'signature' as row, encode(manifest, 'hex') as manifest, signer,
                   encode(public_key, 'hex') as public_key, encode(value, 'hex') as signature,
                   extract(epoch from signed_at)::double precision as signed_at
            from signature order by signed_at, signer
            """,
        ),
    ),
    "notices": Dump(
        schema="notices/1",
        queries=(
            """
            select 'plan' as row, window_id as window, revision, kind,
                   extract(epoch from planned_start)::double precision as planned_start,
                   extract(epoch from planned_end)::double precision as planned_end, total,
                   extract(epoch from planned_at)::double precision as planned_at
            from notice_plan order by window_id, revision
            """,
            """
            select 'notice' as row, window_id as window, revision, account, channel, state,
                   extract(epoch from sent_at)::double precision as sent_at,
                   extract(epoch from sent_business_at)::double precision as sent_business_at
            from notice order by window_id, revision, account, channel
            """,
            """
            select 'subscription' as row, account, 'push' as channel,
                   extract(epoch from since)::double precision as since
            from push_subscription order by account
            """,
        ),
    ),
    "windows": Dump(
        schema="windows/1",
        queries=(
            """
            select 'window' as row, id as window, revision, stage,
                   extract(epoch from planned_start)::double precision as planned_start,
                   extract(epoch from planned_end)::double precision as planned_end,
                   extract(epoch from published_end)::double precision as published_end, reason
            from maintenance_window order by id
            """,
            """
            select 'event' as row, window_id as window, revision, change, stage,
                   extract(epoch from planned_start)::double precision as planned_start,
                   extract(epoch from planned_end)::double precision as planned_end,
                   extract(epoch from published_end)::double precision as published_end, reason,
                   extract(epoch from business_at)::double precision as business_at,
                   extract(epoch from recorded_at)::double precision as recorded_at
            from window_event order by id
            """,
            """
            select 'reconciliation' as row, number, "full", passed, head, batch, problems,
                   extract(epoch from recorded_at)::double precision as recorded_at
            from reconciliation order by number
            """,
        ),
    ),
    "sessions": Dump(
        schema="sessions/1",
        queries=(
            """
            select 'reopening' as row, epoch, extract(epoch from reopened_at)::double precision as reopened_at,
                   extract(epoch from synchronised_at)::double precision as synchronised_at
            from reopening order by reopening.epoch
            """,
            """
            select 'session' as row, account, epoch, extract(epoch from expires_at)::double precision as expires_at
            from session order by account, session.expires_at
            """,
        ),
    ),
}
"""Every dump by the name under which the command writes it."""
_JSON: Final = ("value", "problems")
"""Columns that are JSON already."""


class DumpSettings(Settings):
    """What the command is told by its environment."""

    auditor_url: DatabaseUrl = Field(alias="DATABASE_AUDITOR_URL")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Writes the file and says how many rows it has."""
    parser = Arguments("dump", "Write rows of the database as NDJSON. Reads DATABASE_AUDITOR_URL.")
    parser.add_argument(
        "--rows", choices=DUMPS, default="ledger", metavar="NAME", help=f"{', '.join(DUMPS)}; default ledger"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    options = parser.parse_args(arguments)
    out: Path = options.out
    problems = [] if out.absolute().parent.is_dir() else [f"--out: the folder of {out} does not exist"]
    settings = read_settings(DumpSettings, environment, beside=problems)
    dump = DUMPS[options.rows]
    rows = asyncio.run(_dump(settings.auditor_url, dump, out))
    configure_logs("dump").info("rows.dumped", schema=dump.schema, rows=rows, file=str(out))
    return 0


async def _dump(url: str, dump: Dump, out: Path) -> int:
    partial = out.with_name(f"{out.name}.partial")
    async with connect(url) as connection:
        with partial.open("w", encoding="utf-8") as file:
            rows = await write_rows(connection, dump, file)
    partial.replace(out)
    return rows


async def write_rows(connection: Any, dump: Dump, file: TextIO) -> int:
    """Writes the rows as one snapshot shows them, a thousand in memory at a time; gives their number."""
    rows = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for query in dump.queries:
            async for record in connection.cursor(query, prefetch=_ROWS_AT_ONCE):
                file.write(_line(record))
                rows += 1
    return rows


def _line(record: Any) -> str:
    row = {name: json.loads(value) if name in _JSON else value for name, value in record.items()}
    return json.dumps(row, separators=(",", ":")) + "\n"
