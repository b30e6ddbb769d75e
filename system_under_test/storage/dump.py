"""Writes the ledger as NDJSON, in the schema `ledger/1`: every account and every transfer of one moment.

    {"row": "account", "account": "c-000001", "kind": "customer", "balance": 1000500}
    {"row": "transfer", "transfer": "201", "kind": "deposit", "debit": "custody-a", "credit": "c-000001",
     "amount": 500, "key": "...", "t": 201}

`balance` is the cached one, null where none is cached; `t` is the transfer's number: in the order of these numbers an
account's own transfers were committed.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from pydantic import Field

from system_under_test.logs import configure_logs
from system_under_test.settings import Arguments, ConfigurationError, DatabaseUrl, Settings, read_settings
from system_under_test.storage.connection import connect

_ACCOUNTS: Final = "select 'account' as row, id as account, kind, balance from account order by id"
_TRANSFERS: Final = """
select 'transfer' as row, seq::text as transfer, kind, debit_account as debit, credit_account as credit, amount, key,
       seq as t
from transfer order by seq
"""
_ROWS_AT_ONCE: Final = 1000


class DumpSettings(Settings):
    """What the command is told by its environment."""

    auditor_url: DatabaseUrl = Field(alias="DATABASE_AUDITOR_URL")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Writes the file and says how many rows it has."""
    parser = Arguments("dump", "Write the ledger as NDJSON (ledger/1). Reads DATABASE_AUDITOR_URL.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    out: Path = parser.parse_args(arguments).out
    if not out.absolute().parent.is_dir():
        raise ConfigurationError([f"--out: the folder of {out} does not exist"])
    settings = read_settings(DumpSettings, environment)
    rows = asyncio.run(_dump(settings.auditor_url, out))
    configure_logs("dump").info("ledger.dumped", rows=rows, file=str(out))
    return 0


async def _dump(url: str, out: Path) -> int:
    partial = out.with_name(f"{out.name}.partial")
    async with connect(url) as connection:
        with partial.open("w", encoding="utf-8") as file:
            rows = await write_ledger(connection, file)
    partial.replace(out)
    return rows


async def write_ledger(connection: Any, file: TextIO) -> int:
    """Writes the ledger as one snapshot shows it, a thousand rows in memory at a time; gives the number of rows."""
    rows = 0
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for query in (_ACCOUNTS, _TRANSFERS):
            async for record in connection.cursor(query, prefetch=_ROWS_AT_ONCE):
                file.write(json.dumps(dict(record), separators=(",", ":")) + "\n")
                rows += 1
    return rows
