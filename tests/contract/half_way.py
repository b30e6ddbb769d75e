"""A runner that dies half-way: injects one fault into a target that is up, says so, and waits to be killed."""

import asyncio
import random
import sys
import uuid
from pathlib import Path

from chaos.faults.fault import Scene
from chaos.outline import shapes
from chaos.targets.opening import open_target
from chaos.undo import UndoLog
from metrics.events import EventLog
from tests.contract.stages import as_example, stage_of


async def main(name: str, runs_dir: Path) -> None:
    """Attaches, writes the undo record, injects, and says `injected`."""
    run_dir = runs_dir / f"half-way-{name}"
    run_dir.mkdir(parents=True)
    topology = stage_of(name)
    opened = await open_target(
        topology,
        run_dir=run_dir,
        run_id=f"half-way-{uuid.uuid4().hex}",
        events=EventLog(run_dir),
        runs_dir=runs_dir,
        attach="always",
    )
    await opened.target.start()
    fault = as_example(name)
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


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
