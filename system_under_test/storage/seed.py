"""Opens customer accounts in bulk, each with a log-in and an opening balance that came in by a `seed` transfer.

For a load that is not about log-ins it opens sessions for them as well; some customers it subscribes to web push, at
the reference platform's own push service.
"""

import argparse
import asyncio
import csv
import json
import os
import re
import secrets
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field

from system_under_test.domain.money import AMOUNT_MAX
from system_under_test.domain.passwords import hash_password
from system_under_test.domain.push import Subscription
from system_under_test.logs import configure_logs
from system_under_test.settings import Arguments, DatabaseUrl, PlatformError, Settings, read_settings
from system_under_test.storage.connection import connect

COLUMNS: Final = ("email", "password", "account", "opening_balance")
SESSION_COLUMNS: Final = ("token", "account")
ACCOUNTS_MAX: Final = 1_000_000
SESSIONS_MAX: Final = 1_000_000
PUSH_MAX: Final = 1_000
"""Each subscription costs its push service a key."""
_PUSH_WITHIN_S: Final = 30.0
SESSION_HOURS: Final = 24
"""How long a seeded session lasts, in wall time."""
_PUSH_SERVICE: Final = re.compile(r"http://127\.0\.0\.1:[0-9]{1,5}")
_NUMBERS = "select array_agg(nextval('customer_number')) from generate_series(1, $1)"
# The time is asked for once: the default would be asked for each row.
_ACCOUNTS = """
insert into account (id, kind, wallet, balance, opened_business_at)
select id, 'customer', case number % 2 when 0 then 'a' else 'b' end, 0, (select business_now())
from unnest($1::text[]) with ordinality as given (id, number)
"""
_CUSTOMERS = """
insert into customer (email, password_hash, account)
select email, $3, account from unnest($1::text[], $2::text[]) as given (email, account)
"""
_TRANSFERS = """
insert into transfer (kind, debit_account, credit_account, amount, business_at)
select 'seed', 'custody-' || a.wallet, a.id, $2, (select business_now())
from unnest($1::text[]) as given (account) join account a on a.id = account
order by a.id
"""
_SESSIONS = """
insert into session (token_hash, account, expires_at, epoch)
select sha256(convert_to(given.token, 'UTF8')), given.account, now() + make_interval(hours => $3),
       epoch_of_new_session(given.account)
from unnest($1::text[], $2::text[]) as given (token, account)
"""
_SUBSCRIPTIONS = """
insert into push_subscription (account, endpoint, p256dh, auth)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[])
"""


class _Made(BaseModel):
    subscriptions: list[Subscription]


class SeedSettings(Settings):
    """What the command is told by its environment."""

    admin_url: DatabaseUrl = Field(alias="DATABASE_ADMIN_URL")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Opens the accounts and writes them as CSV."""
    parser = Arguments("seed", "Open customer accounts in bulk. Reads DATABASE_ADMIN_URL.")
    parser.add_argument("--accounts", type=int, required=True, metavar="N", help="how many to open")
    parser.add_argument("--opening-balance", type=int, default=1_000_000, metavar="MINOR", help="default 1000000")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"CSV to write: {','.join(COLUMNS)}")
    parser.add_argument(
        "--sessions", type=int, metavar="N", help="how many sessions to open, over the accounts in turn"
    )
    parser.add_argument("--sessions-out", type=Path, metavar="FILE", help=f"CSV to write: {','.join(SESSION_COLUMNS)}")
    parser.add_argument("--push", type=int, default=0, metavar="N", help="how many customers to subscribe to web push")
    parser.add_argument("--push-service", metavar="URL", help="where: push_url of a mailbox")
    options = parser.parse_args(arguments)
    settings = read_settings(SeedSettings, environment, beside=_problems(options))
    # One password for all, drawn now: a hash of its own for each would cost 20 ms of a core a customer.
    password = secrets.token_urlsafe(12)
    customers, sessions = asyncio.run(_seed(settings.admin_url, options, password))
    _write(options.out, COLUMNS, [(email, password, account, options.opening_balance) for email, account in customers])
    if options.sessions is not None:
        _write(options.sessions_out, SESSION_COLUMNS, sessions)
    configure_logs("seed").info(
        "accounts.seeded",
        accounts=len(customers),
        sessions=len(sessions),
        subscriptions=options.push,
        file=str(options.out),
    )
    return 0


def _problems(options: argparse.Namespace) -> list[str]:
    problems = []
    if not 1 <= options.accounts <= ACCOUNTS_MAX:
        problems.append(f"--accounts: expected 1 to {ACCOUNTS_MAX}, got {options.accounts}")
    if not 0 <= options.opening_balance <= AMOUNT_MAX:
        problems.append(f"--opening-balance: expected 0 to {AMOUNT_MAX}, got {options.opening_balance}")
    if options.sessions is not None and not 1 <= options.sessions <= SESSIONS_MAX:
        problems.append(f"--sessions: expected 1 to {SESSIONS_MAX}, got {options.sessions}")
    if (options.sessions is None) != (options.sessions_out is None):
        problems.append("--sessions and --sessions-out: give both or neither")
    if not 0 <= options.push <= min(PUSH_MAX, max(options.accounts, 0)):
        problems.append(f"--push: expected 0 to {PUSH_MAX}, not more than --accounts, got {options.push}")
    if bool(options.push) != (options.push_service is not None):
        problems.append("--push and --push-service: give both or neither")
    if options.push_service is not None and _PUSH_SERVICE.fullmatch(options.push_service) is None:
        problems.append(f"--push-service: expected an address as http://127.0.0.1:2580, got {options.push_service!r}")
    for option, file in (("--out", options.out), ("--sessions-out", options.sessions_out)):
        if file is not None and not file.absolute().parent.is_dir():
            problems.append(f"{option}: the folder of {file} does not exist")
    return problems


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


async def open_sessions(connection: Any, *, accounts: Sequence[str], sessions: int) -> list[tuple[str, str]]:
    """Opens `sessions` sessions, for each of `accounts` in turn, in one statement; gives (token, account) of each.

    The database keeps the tokens' hashes only.
    """
    opened = [(secrets.token_urlsafe(32), accounts[number % len(accounts)]) for number in range(sessions)]
    tokens, owners = zip(*opened, strict=True)
    await connection.execute(_SESSIONS, tokens, owners, SESSION_HOURS)
    return opened


async def subscribe(connection: Any, *, accounts: Sequence[str], subscriptions: Sequence[Subscription]) -> None:
    """Subscribes each of `accounts` to web push, in one statement."""
    await connection.execute(
        _SUBSCRIPTIONS,
        accounts,
        [one.endpoint for one in subscriptions],
        [one.keys.p256dh for one in subscriptions],
        [one.keys.auth for one in subscriptions],
    )


def made_by(push_service: str, count: int) -> Sequence[Subscription]:
    """So many new subscriptions of a mailbox.

    Raises:
        PlatformError: it did not answer, or not with as many.
    """
    request = urllib.request.Request(  # noqa: S310 - http to this machine alone, see _PUSH_SERVICE
        f"{push_service}/subscriptions", data=json.dumps({"count": count}).encode(), method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_PUSH_WITHIN_S) as response:  # noqa: S310 - as above
            made = _Made.model_validate_json(response.read()).subscriptions
    except (OSError, ValueError) as error:
        raise PlatformError(f"{push_service} made no subscriptions: {error}; is that a mailbox's push_url?") from error
    if len(made) != count:
        raise PlatformError(f"{push_service} made {len(made)} subscriptions, not {count}")
    return made


async def _seed(
    url: str, options: argparse.Namespace, password: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    password_hash = hash_password(password, salt=secrets.token_bytes(16))
    async with connect(url) as connection:
        customers = await open_accounts(
            connection,
            accounts=options.accounts,
            opening_balance=options.opening_balance,
            password_hash=password_hash,
        )
        accounts = [account for _, account in customers]
        if options.push:
            await subscribe(
                connection,
                accounts=accounts[: options.push],
                subscriptions=made_by(options.push_service, options.push),
            )
        if options.sessions is None:
            return customers, []
        return customers, await open_sessions(connection, accounts=accounts, sessions=options.sessions)


def _write(path: Path, columns: Sequence[str], rows: Sequence[tuple[str | int, ...]]) -> None:
    # Passwords and tokens: readable by the owner only.
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    partial.replace(path)
