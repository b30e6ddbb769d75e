"""A system with a real PostgreSQL, up for all tests of this folder."""

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.targets.opening import open_own
from metrics.events import EventLog
from tests.integration.faults.served import SYSTEM, Served, topology_with_stranger


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The contract's system with a database; every test leaves it as it was, and nothing of it may be left."""
    run_dir = tmp_path_factory.mktemp("run")
    events = EventLog(run_dir)
    topology = topology_with_stranger(SYSTEM)
    opened = await open_own(topology, run_dir=run_dir, run_id=f"served-{uuid.uuid4().hex}", events=events)
    try:
        await opened.target.start()
        yield Served(target=opened.target, topology=topology, run_dir=run_dir)
    finally:
        left = await opened.target.stop()
        await opened.close()
        events.close()
    assert left == ()
