"""What the tests of drivers share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.targets.workshop import Workshop, until


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    """A workshop of which nothing may be left."""
    shop = Workshop(tmp_path)
    yield shop
    await until(lambda: shop.left() == [])
