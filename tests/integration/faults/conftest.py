"""Systems with a real PostgreSQL or a real Envoy, each up for all tests of a module."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from chaos.targets.opening import open_own
from chaos.targets.topology import Topology
from metrics.events import EventLog
from tests.integration.faults.served import Served, with_balancer, with_database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The system with a database; every test leaves it as it was."""
    async with started(with_database(), tmp_path_factory.mktemp("run")) as system:
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def balanced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The system with a balancer; every test leaves it as it was."""
    async with started(with_balancer("/", "/v1/deposits"), tmp_path_factory.mktemp("run")) as system:
        yield system


@asynccontextmanager
async def started(topology: Topology, run_dir: Path) -> AsyncIterator[Served]:
    """A system, up; at the end nothing of it may be left."""
    events = EventLog(run_dir)
    opened = await open_own(topology, run_dir=run_dir, run_id=f"served-{uuid.uuid4().hex}", events=events)
    try:
        await opened.target.start()
        yield Served(target=opened.target, topology=topology, run_dir=run_dir)
    finally:
        left = await opened.target.stop()
        await opened.close()
        events.close()
    assert left == ()
