"""Opens customer accounts in bulk, each with a log-in and an opening balance that came in by a `seed` transfer."""

import asyncio
import csv
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from system_under_test.domain.money import AMOUNT_MAX
from system_under_test.domain.passwords import hash_password
from system_under_test.logs import configure_logs
from system_under_test.settings import (
    Arguments,
    ConfigurationError,
    DatabaseUrl,
    Settings,
    read_settings,
)
from system_under_test.storage.connection import connect

COLUMNS: Final = ("email", "password", "account", "opening_balance")
ACCOUNTS_MAX: Final = 1_000_000
_NUMBERS = "select array_agg(nextval('customer_number')) from generate_series(1, $1)"
_ACCOUNTS = """
insert into account (id, kind, wallet, balance)
select id, 'customer', case number % 2 when 0 then 'a' else 'b' end, 0
from unnest($1::text[]) with ordinality as given (id, number)
"""
_CUSTOMERS = """
insert into customer (email, password_hash, account)
select email, $3, account from unnest($1::text[], $2::text[]) as given (email, account)
"""
_TRANSFERS = """
insert into transfer (kind, debit_account, credit_account, amount)
select 'seed', 'custody-' || a.wallet, a.id, $2
from unnest($1::text[]) as given (account) join account a on a.id = account
order by a.id
"""


class SeedSettings(Settings):
    """What the command is told by its environment."""

    admin_url: DatabaseUrl = Field(alias="DATABASE_ADMIN_URL")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Opens the accounts and writes them as CSV."""
    parser = Arguments("seed", "Open customer accounts in bulk. Reads DATABASE_ADMIN_URL.")
    parser.add_argument("--accounts", type=int, required=True, metavar="N", help="how many to open")
    parser.add_argument("--opening-balance", type=int, default=1_000_000, metavar="MINOR", help="default 1000000")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"CSV to write: {','.join(COLUMNS)}")
    options = parser.parse_args(arguments)
    problems = []
    if not 1 <= options.accounts <= ACCOUNTS_MAX:
        problems.append(f"--accounts: expected 1 to {ACCOUNTS_MAX}, got {options.accounts}")
    if not 0 <= options.opening_balance <= AMOUNT_MAX:
        problems.append(f"--opening-balance: expected 0 to {AMOUNT_MAX}, got {options.opening_balance}")
    if not options.out.absolute().parent.is_dir():
        problems.append(f"--out: the folder of {options.out} does not exist")
    if problems:
        raise ConfigurationError(problems)
    settings = read_settings(SeedSettings, environment)
    # One password for all, drawn now: a hash of its own for each would cost 20 ms of a core a customer.
    password = secrets.token_urlsafe(12)
    customers = asyncio.run(_seed(settings.admin_url, options.accounts, options.opening_balance, password))
    _write(options.out, [(email, password, account, options.opening_balance) for email, account in customers])
    configure_logs("seed").info("accounts.seeded", accounts=len(customers), file=str(options.out))
    return 0


async def open_accounts(
    connection: Any, *, accounts: int, opening_balance: int, password_hash: str
) -> list[tuple[str, str]]:
    """Opens `accounts` customers in one transaction; gives (email, account) of each."""
    async with connection.transaction():
        numbers = await connection.fetchval(_NUMBERS, accounts)
        emails = [f"saver-{number:06}@savings.example" for number in numbers]
        ids = [f"c-{number:06}" for number in numbers]
        await connection.execute(_ACCOUNTS, ids)
        await connection.execute(_CUSTOMERS, emails, ids, password_hash)
        if opening_balance:
            await connection.execute(_TRANSFERS, ids, opening_balance)
    return list(zip(emails, ids, strict=True))


async def _seed(url: str, accounts: int, opening_balance: int, password: str) -> list[tuple[str, str]]:
    password_hash = hash_password(password, salt=secrets.token_bytes(16))
    async with connect(url) as connection:
        return await open_accounts(
            connection, accounts=accounts, opening_balance=opening_balance, password_hash=password_hash
        )


def _write(path: Path, rows: Sequence[tuple[str, str, str, int]]) -> None:
    # Passwords: readable by the owner only.
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    partial.replace(path)
