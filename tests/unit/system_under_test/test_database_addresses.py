"""A database's address that cannot be used is refused by its variable's name, and no part of it is ever repeated."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from pydantic import Field

from system_under_test.__main__ import main
from system_under_test.settings import DatabaseUrl, PlatformError, Settings, read_settings
from system_under_test.storage.connection import connect
from system_under_test.storage.database import Database, DatabaseLimits

_SECRET: Final = "S3CR3T"
_WRONG: Final = (
    f"postgresql://savings:{_SECRET}pw/x@127.0.0.1:5432/savings",
    f"postgresql://savings:123/{_SECRET}@127.0.0.1:5432/savings",
    f"postgresql://savings:{_SECRET}?x@127.0.0.1:5432/savings",
    f"postgresql://savings:{_SECRET}#x@127.0.0.1:5432/savings",
    f"postgresql://savings:{_SECRET}[@127.0.0.1:5432/savings",
    f"postgresql://savings:{_SECRET}@x@127.0.0.1:5432/savings",
    f"postgresql://savings:{_SECRET}\u2100@127.0.0.1:5432/savings",
    f"postgresql://savings:{_SECRET}@127.0.0.1:port/savings",
    f"postgresql://savings:{_SECRET}@127.0.0.1:65536/savings",
    f"postgresql://savings:{_SECRET}@127.0.0.1:0/savings",
    f"postgresql://savings:{_SECRET}@127.0.0.1:5432",
    f"postgresql://savings:{_SECRET}@127.0.0.1:5432/savings/more",
    f"postgresql://savings:{_SECRET}@127..0.0.1:5432/savings",
    f"postgresql://savings:{_SECRET}@127.0.0.1/savings?{_SECRET}",
    f"postgresql://savings:{_SECRET}@127.0.0.1/savings?port={_SECRET}",
)
_LIMITS: Final = DatabaseLimits(pool_size=1, acquire_within_s=0.1, statement_within_s=1.0)


class _Address(Settings):
    url: DatabaseUrl = Field(alias="DATABASE_URL")


@pytest.mark.parametrize("url", _WRONG)
@pytest.mark.parametrize("name", ["portal", "settlement", "accrual", "signer"])
def test_a_wrong_address_ends_the_start_by_the_variables_name_alone(
    name: str, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each process, each wrong address: exit code 64, one problem, nothing of the address."""
    monkeypatch.setenv("HOLDFAST_PORT", "32001")
    monkeypatch.setenv("HOLDFAST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", url)
    assert main([name]) == 64
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[1].startswith("  DATABASE_URL: expected an address such as postgresql://user:password@")
    assert not [line for line in said if _SECRET in line]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://savings:S3CR3Tpw%2Fx%40%3F%23@127.0.0.1:5432/savings",
        "postgres://savings@db.savings.example/savings",
        "postgresql://savings:secret@[::1]:5432/savings?sslmode=require",
    ],
)
def test_every_address_that_the_driver_reads_is_taken(url: str) -> None:
    """Special characters percent-encoded, no port, a version 6 address, a parameter: taken as they are."""
    assert read_settings(_Address, {"DATABASE_URL": url}).url == url


@pytest.mark.parametrize("url", _WRONG)
async def test_a_command_never_repeats_the_address_it_could_not_use(url: str) -> None:
    """A connection to each wrong address, past all checks of settings: the platform's error, without the secret."""
    with pytest.raises(PlatformError) as caught:
        async with connect(url):
            pass
    assert _SECRET not in str(caught.value)


async def test_what_the_driver_cannot_read_is_a_reason_not_an_end() -> None:
    """A pool at an address whose port is no number: watching goes on and gives the reason without the address."""
    told: list[tuple[bool, str]] = []
    database = Database(
        f"postgresql://savings:{_SECRET}@127.0.0.1:{_SECRET}/savings",
        _LIMITS,
        application="test",
        on_change=lambda ready, problem: told.append((ready, problem)),
    )
    await _watch(database, lambda: bool(told))
    assert told == [(False, "ValueError: the database's address cannot be used")]


async def test_each_reason_for_not_being_ready_is_told_once() -> None:
    """Nobody listens, for three looks; then somebody who hangs up, for three: two reasons, each told once."""
    told: list[tuple[bool, str]] = []
    hung_up = 0

    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hung_up
        hung_up += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    database = Database(
        f"postgresql://savings:{_SECRET}@127.0.0.1:{port}/savings?sslmode=disable",
        _LIMITS,
        application="test",
        on_change=lambda ready, problem: told.append((ready, problem)),
    )
    looks: set[float] = set()

    def three_looks() -> bool:
        looks.add(database.ping_s)
        return len(looks - {0.0}) >= 3

    await _watch(database, three_looks)
    assert len(told) == 1
    assert told[0][0] is False
    assert told[0][1].startswith("ConnectionRefusedError: ")
    async with await asyncio.start_server(hang_up, "127.0.0.1", port):
        await _watch(database, lambda: hung_up >= 3)
    assert len(told) == 2
    assert told[1][0] is False
    assert told[1][1].partition(": ")[2]


async def _watch(database: Database, until: Callable[[], bool]) -> None:
    """Has the database watched until something holds."""
    watching = asyncio.create_task(database.keep_connected())
    try:
        async with asyncio.timeout(10):
            while not until():
                assert not watching.done()
                await asyncio.sleep(0.01)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await database.close()
