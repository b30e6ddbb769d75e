"""The operator's hand on custody's signers: who they are, and the end of a key."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg
from pydantic import Field

from system_under_test.settings import (
    Arguments,
    DatabaseUrl,
    PlatformError,
    Settings,
    read_settings,
)
from system_under_test.storage.connection import connect

_LIST: Final = """
select s.name as signer, case when k.signer is not null then 'current' when s.vacant then 'vacant' else 'revoked' end
           as standing,
       encode(k.public_key, 'hex') as public_key, k.since as since_policy
from signer s left join signer_key k on k.signer = s.name and k.until is null order by s.name
"""
_ENDS: Final = {"revoke": "select revoke_signer($1)", "rotate": "select rotate_signer($1)"}


class SignersSettings(Settings):
    """What the command is told by its environment."""

    admin_url: DatabaseUrl = Field(alias="DATABASE_ADMIN_URL")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Does what is asked and prints a JSON object a line."""
    parser = Arguments(
        "signers",
        "List custody's signers; revoke one (its key never counts again, its seat stays taken); or rotate one (its key"
        " ends and its seat is open: move its key file away and start it again). Reads DATABASE_ADMIN_URL.",
    )
    parser.add_argument("what", choices=("list", *_ENDS))
    parser.add_argument("name", nargs="?", default="", help="such as signer-1; not with `list`")
    options = parser.parse_args(arguments)
    problems = []
    if (options.what == "list") != (not options.name):
        problems.append(f"{options.what}: expected {'no name' if options.name else 'the name of a signer'}")
    settings = read_settings(SignersSettings, environment, beside=problems)
    rows = asyncio.run(_do(settings.admin_url, options.what, options.name))
    sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
    return 0


async def _do(url: str, what: str, name: str) -> list[dict[str, Any]]:
    async with connect(url) as connection:
        if what == "list":
            return [dict(row) for row in await connection.fetch(_LIST)]
        try:
            return [{"signer": name, "policy_version": await connection.fetchval(_ENDS[what], name)}]
        except asyncpg.NoDataFoundError as error:
            raise PlatformError(f"{error}; `signers list` names them") from error
