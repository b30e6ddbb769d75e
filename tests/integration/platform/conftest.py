"""One platform for all tests of this folder: starting it takes seconds."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.integration.platform.books import Books, open_books
from tests.integration.platform.customers import Customer, honest_session, log_in
from tests.integration.platform.operations import Company, open_company
from tests.integration.platform.queues import QueueDatabase, start_queue_database
from tests.integration.platform.stage import Platform, Stage, start_platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform with four portals, shared: tests leave it as they find it."""
    yield from start_platform(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="session")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """A small platform with its maintenance process, shared: tests leave no window behind."""
    with open_company(tmp_path_factory.mktemp("company")) as company:
        yield company


@pytest.fixture(scope="session")
def shared_books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """A ledger with some history; whoever damages it puts it back first."""
    stage = Stage(folder=tmp_path_factory.mktemp("books"))
    try:
        yield open_books(stage)
    finally:
        stage.close()


@pytest.fixture(scope="session")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueDatabase]:
    """A database without settlers, shared: tests settle themselves, and leave nothing waiting."""
    yield from start_queue_database(Stage(folder=tmp_path_factory.mktemp("queue")))


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An empty stage of the test's own; all that it starts there is ended."""
    own = Stage(folder=tmp_path_factory.mktemp("stage"))
    try:
        yield own
    finally:
        own.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that hides nothing."""
    async with honest_session() as session:
        yield session


@pytest.fixture
async def customer(platform: Platform, session: aiohttp.ClientSession) -> Customer:
    """The first customer, logged in."""
    return await log_in(session, platform, 0)
