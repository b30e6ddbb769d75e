"""The final dumps: all rows of one moment, in the schemas that docs/formats.md describes."""

import json
from pathlib import Path
from typing import Any

import pytest

from system_under_test.storage.dump import DUMPS
from tests.integration.platform.books import Books
from tests.integration.platform.stage import ROOT

_TABLES = {
    "ledger": ("account", "transfer"),
    "intake": ("redemption",),
    "redemptions": ("redemption",),
    "accrual": ("interest_rate", "accrual_hour", "accrual_snapshot"),
    "payouts": ("signer_key", "custody_policy", "payout_batch", "manifest", "signature"),
    "notices": ("notice_plan", "notice", "push_subscription"),
    "windows": ("maintenance_window", "window_event", "reconciliation"),
    "sessions": ("reopening", "session"),
}


async def _dumped(books: Books, name: str, folder: Path) -> list[dict[str, Any]]:
    out = folder / f"{name}.ndjson"
    url = books.postgres.outputs()["auditor_dsn"]
    done = books.stage.run("dump", "--rows", name, "--out", str(out), DATABASE_AUDITOR_URL=url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout or done.stderr)["schema"] == DUMPS[name].schema
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", DUMPS)
async def test_a_dump_has_every_row_and_the_fields_that_are_documented(
    shared_books: Books, name: str, tmp_path: Path
) -> None:
    """Runs the command as the auditor: as many rows as the tables have, and only fields that the document names."""
    rows = await _dumped(shared_books, name, tmp_path)
    async with shared_books.owner() as owner:
        counts = [await owner.fetchval(f"select count(*) from {table}") for table in _TABLES[name]]  # noqa: S608 - ours
    assert len(rows) == sum(counts)
    document = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert f"`{DUMPS[name].schema}`" in document
    section = document[document.index("## Final dumps") : document.index("## What a load or prober")]
    assert {field for row in rows for field in row if field not in section} == set()


async def test_redemptions_tell_what_became_of_each_request(shared_books: Books, tmp_path: Path) -> None:
    """The history's 36 requests: two of three settled, the third refused, those of the frozen account parked."""
    rows = await _dumped(shared_books, "redemptions", tmp_path)
    assert [row["seq"] for row in rows] == list(range(1, 37))
    statuses = [row["status"] for row in rows]
    assert {status: statuses.count(status) for status in set(statuses)} == {"settled": 22, "refused": 11, "parked": 3}
    assert {row["reason"] for row in rows if row["status"] == "refused"} == {"insufficient-funds"}
    assert all((row["transfer"] is not None) == (row["status"] == "settled") for row in rows)
    effects = await _dumped(shared_books, "intake", tmp_path)
    assert effects == [
        {"f": "redeem", "key": row["key"], "value": {"amount": row["amount"], "account": row["account"]}}
        for row in rows
    ]


async def test_nobody_is_given_a_secret(shared_books: Books, tmp_path: Path) -> None:
    """The dump of sessions has no token's hash, and no other role than the auditor's can write one."""
    rows = await _dumped(shared_books, "sessions", tmp_path)
    assert {frozenset(row) for row in rows} == {frozenset({"row", "account", "epoch", "expires_at"})}
    url = shared_books.postgres.outputs()["dsn"]
    out = tmp_path / "refused.ndjson"
    done = shared_books.stage.run("dump", "--rows", "sessions", "--out", str(out), DATABASE_AUDITOR_URL=url)
    assert done.returncode == 1
    assert "permission denied" in done.stderr
    assert not out.exists()


def test_an_unknown_name_is_refused_with_those_that_there_are(shared_books: Books, tmp_path: Path) -> None:
    """Asks for rows that do not exist: the exit code of a wrong usage, and the names."""
    done = shared_books.stage.run("dump", "--rows", "everything", "--out", str(tmp_path / "x.ndjson"))
    assert done.returncode == 64
    assert "redemptions" in done.stderr
