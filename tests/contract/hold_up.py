"""Holds up the system that a fault plays on, started with what all faults on it need, until it is told to end."""

import asyncio
import sys
from pathlib import Path

from chaos.targets.up import up
from chaos.targets.upstate import UpState
from tests.contract.stages import stage_of


def tell(state: UpState) -> None:
    """Says that it is up."""
    sys.stdout.write(f"{state.name} is up at {state.url}\n")
    sys.stdout.flush()


topology = stage_of(sys.argv[1])
asyncio.run(up(topology.path, {}, Path(sys.argv[2]), requirement=topology.requirement, on_up=tell))
