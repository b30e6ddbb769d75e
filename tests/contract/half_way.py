"""A runner that dies half-way: injects one fault into a target that is up, says so, and waits to be killed."""

import asyncio
import random
import sys
import uuid
from pathlib import Path

from pydantic import TypeAdapter

from chaos.faults.fault import FAULTS, Fault, Scene
from chaos.outline import shapes
from chaos.parameters import written_as
from chaos.targets.opening import open_target
from chaos.targets.topology import load_topology
from chaos.undo import UndoLog
from metrics.events import EventLog


async def main(name: str, topology_path: Path, runs_dir: Path) -> None:
    """Attaches, writes the undo record, injects, and says `injected`."""
    run_dir = runs_dir / "half-way"
    run_dir.mkdir(parents=True)
    topology = load_topology(topology_path)
    opened = await open_target(
        topology,
        run_dir=run_dir,
        run_id=f"half-way-{uuid.uuid4().hex}",
        events=EventLog(run_dir),
        runs_dir=runs_dir,
        attach="always",
    )
    await opened.target.start()
    fault: Fault = TypeAdapter(written_as(FAULTS[name])).validate_python(dict(FAULTS[name].example))
    victims = fault.choose(shapes(topology), frozenset(), random.Random(1))  # noqa: S311
    undo = UndoLog(run_dir)
    scene = Scene.open(
        fault_id=f"{name}-1",
        target=opened.target,
        instances=victims,
        record=lambda steps: undo.record(f"{name}-1", steps),
    )
    undo.record(scene.fault_id, fault.undo_steps(scene))
    await fault.inject(scene)
    sys.stdout.write("injected\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
