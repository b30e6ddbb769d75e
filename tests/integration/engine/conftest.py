"""A folder to run experiments in, and the proof that nothing of any run is left alive."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.roster import read_guarded
from tests.integration.engine.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A folder to run experiments in; afterwards nothing of any run may be left alive."""
    yield Bench(folder=tmp_path)
    guarded = [found for guard in tmp_path.glob("runs/*/guard.json") if (found := read_guarded(guard.parent))]
    survivors = [identity for one in guarded for identity in one.members()]
    for identity in survivors:
        os.kill(identity.pid, signal.SIGKILL)
    assert not survivors, f"left alive: {survivors}"
