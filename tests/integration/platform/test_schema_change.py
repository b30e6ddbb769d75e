"""A schema that changes beneath running nodes costs nobody a request."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from system_under_test.settings import PlatformError
from system_under_test.storage.migrate import Step, migrate, read_steps
from tests.integration.platform.customers import Customer, Reply, at_rate, honest_session, log_in, until
from tests.integration.platform.releases import release_before_references
from tests.integration.platform.stage import ROOT, Platform, Process, Stage, await_ready

# Longer than a node's statement (2 s) and a request through the balancer (3 s) may take.
_READ_FOR_S = 3.5
_RATE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """A platform of the release before, its customer at the balancer and at each node, and its owner."""

    platform: Platform
    saver: Customer
    nodes: list[Customer]
    owner: Any

    async def migrate(self) -> None:
        """Runs the new release's migration to its end."""
        url = self.platform.postgres.outputs()["admin_dsn"]
        self.platform.stage.release = ROOT
        ended = await asyncio.to_thread(self.platform.stage.run, "migrate", DATABASE_ADMIN_URL=url)
        assert ended.returncode == 0, ended.stderr

    async def replace(self, portal: Process) -> None:
        """Ends a node as a deploy does, starts it as one of the new release, and waits until it is sent requests."""
        assert await asyncio.to_thread(portal.end) == 0
        portal.release = ROOT
        portal.environment = {**portal.environment, "VERSION": "v2"}
        portal.start()
        await asyncio.to_thread(await_ready, portal)
        async with asyncio.timeout(60):
            await until(
                lambda: self.saver.read("status"),
                lambda reply: reply.headers.get("X-Served-By") == f"{portal.name}@v2",
            )

    async def steps(self) -> list[int]:
        """The numbers of the steps that the database has."""
        return [row["version"] for row in await self.owner.fetch("select version from schema_step order by version")]


@pytest.fixture
async def deploy(stage: Stage, tmp_path: Path) -> AsyncIterator[Deploy]:
    """Three nodes of the release before, behind a balancer, on the schema before: one can be slow while one is gone."""
    stage.release = release_before_references(tmp_path)
    postgres = stage.add_database()
    portals = [stage.add_portal(f"portal-{number}", postgres) for number in (1, 2, 3)]
    for portal in portals:
        await asyncio.to_thread(await_ready, portal)
    balancer = stage.add_balancer("balancer", portals)
    rows = stage.seed(postgres, customers=2)
    platform = Platform(stage=stage, postgres=postgres, portals=portals, balancer=balancer, customers=rows)
    owner = await asyncpg.connect(postgres.outputs()["admin_dsn"])
    try:
        async with honest_session() as session:
            saver = await log_in(session, platform, 0)
            nodes = [replace(saver, url=f"http://127.0.0.1:{portal.port}") for portal in portals]
            yield Deploy(platform=platform, saver=saver, nodes=nodes, owner=owner)
    finally:
        await owner.close(timeout=5)


async def test_a_schema_change_and_a_rolling_deploy_cost_no_request(deploy: Deploy) -> None:
    """Under load: the step is applied while somebody reads the ledger for 3.5 s, then each node is replaced.

    Every deposit is answered and counts once; both releases answer; a key that one release has seen gets its stored
    answer from the other; what was sealed before the change still has its digests.
    """
    new, old, other = deploy.nodes
    early, late = str(uuid.uuid4()), str(uuid.uuid4())
    before = (await deploy.saver.balance())["balance"]
    first = await new.order("deposits", {"amount": 7}, key=early)
    refused = await new.order("deposits", {"amount": 7, "reference": "rent"})
    assert (first.status, refused.status, refused.body["field"]) == (201, 400, "reference")
    assert await deploy.owner.fetchval("select seal()") > 0
    known = await deploy.steps()

    done = asyncio.Event()
    load = asyncio.create_task(_until(done, deploy.saver))
    async with deploy.owner.transaction():
        await deploy.owner.execute("select from transfer limit 1")
        migrating = asyncio.create_task(deploy.migrate())
        await asyncio.sleep(_READ_FOR_S)
        assert await deploy.steps() == known, "the step did not wait for the reader"
    await migrating
    assert await deploy.steps() == [step.version for step in read_steps()]
    assert len(known) < len(await deploy.steps())
    columns = "select count(*) from pg_attribute where attrelid = 'transfer'::regclass and attname = 'reference'"
    assert await deploy.owner.fetchval(columns) == 1
    # Nodes of the release before go on with the statements that they prepared.
    between = await other.order("deposits", {"amount": 11}, key=late)
    assert between.status == 201

    await deploy.replace(deploy.platform.portals[0])
    again = [
        await new.order("deposits", {"amount": 7}, key=early),
        await new.order("deposits", {"amount": 11}, key=late),
    ]
    assert [(reply.status, reply.replayed, reply.body) for reply in again] == [
        (201, True, first.body),
        (201, True, between.body),
    ]
    key = str(uuid.uuid4())
    plain = await new.order("deposits", {"amount": 13}, key=key)
    back = await old.order("deposits", {"amount": 13}, key=key)
    assert (plain.status, back.status, back.replayed, back.body) == (201, 201, True, plain.body)
    named = await new.order("deposits", {"amount": 17, "reference": "rent"})
    assert (named.status, named.body["reference"]) == (201, "rent")
    for portal in deploy.platform.portals[1:]:
        await deploy.replace(portal)
    done.set()
    replies = await load

    assert [(number, reply) for number, reply in enumerate(replies) if reply.status != 201] == []
    assert {reply.headers["X-Served-By"].partition("@")[2] for reply in replies} == {"v1", "v2"}
    after = (await deploy.saver.balance())["balance"]
    assert after == before + len(replies) + 7 + 11 + 13 + 17
    assert await deploy.owner.fetchval("select seal()") > 0
    assert await deploy.owner.fetch("select * from check_chain(1)") == []


async def test_a_reference_is_kept_sealed_and_part_of_the_order(platform: Platform, customer: Customer) -> None:
    """With a reference and then, by the same key, another or none: refused; whoever alters a sealed one is found."""
    key = str(uuid.uuid4())
    told = "Miete März, Wohnung 4 🏠"
    first = await customer.order("deposits", {"amount": 5, "reference": told}, key=key)
    assert (first.status, first.body["reference"]) == (201, told)
    again = await customer.order("deposits", {"reference": told, "amount": 5}, key=key)
    assert (again.replayed, again.body) == (True, first.body)
    for body in ({"amount": 5, "reference": "another"}, {"amount": 5}, {"amount": 5, "reference": None}):
        reply = await customer.order("deposits", body, key=key)
        assert (reply.status, reply.body["field"]) == (422, "Idempotency-Key")
    plain = await customer.order("deposits", {"amount": 5})
    assert "reference" not in plain.body
    owner = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"])
    try:
        stored = "select reference from transfer where seq = $1"
        assert await owner.fetchval(stored, first.body["id"]) == told
        assert await owner.fetchval(stored, plain.body["id"]) is None
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute("select seal(100000)")
        await owner.execute("alter table transfer disable trigger user")
        await owner.execute("update transfer set reference = 'forged' where seq = $1", first.body["id"])
        found = await owner.fetch("select place, key from check_chain(1)")
        await transaction.rollback()
    finally:
        await owner.close(timeout=5)
    assert [(row["place"], row["key"]) for row in found] == [("transfer", str(first.body["id"]))]


async def test_a_step_that_never_gets_its_lock_says_so_and_changes_nothing(platform: Platform) -> None:
    """A step on a table that somebody reads all the time, tried twice: it is named, and the database is as before."""
    steps = read_steps()
    new = Step(version=len(steps) + 1, name="9999_never.sql", sql="alter table transfer add column never text")
    dsn = platform.postgres.outputs()["admin_dsn"]
    reader, migrator = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with reader.transaction():
            await reader.execute("select from transfer limit 1")
            with pytest.raises(
                PlatformError, match=r"9999_never\.sql: a table that it changes was in use at each of 2"
            ):
                await migrate(migrator, (*steps, new), tries=2)
        assert await reader.fetchval("select count(*) from schema_step") == len(steps)
    finally:
        await reader.close(timeout=5)
        await migrator.close(timeout=5)


async def _until(done: asyncio.Event, saver: Customer) -> list[Reply]:
    """Deposits of 1 on schedule, each with a key of its own, until `done`."""
    replies: list[Reply] = []
    while not done.is_set():
        replies += await at_rate(_RATE, 0.5, lambda _: saver.order("deposits", {"amount": 1}))
    return replies
