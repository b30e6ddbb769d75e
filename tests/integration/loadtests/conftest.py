"""A fresh run folder with the means to load a server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.loadtests.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh run folder; whatever a test starts is ended after it."""
    with contextlib.ExitStack() as stack:
        yield Bench(run_dir=tmp_path, stack=stack)


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    """`accounts.csv` with five accounts."""
    path = tmp_path / "accounts.csv"
    rows = [f"saver-{n}@example.org,secret,{n},1000000" for n in range(5)]
    path.write_text("\n".join(["email,password,account,opening_balance", *rows]) + "\n")
    return path
