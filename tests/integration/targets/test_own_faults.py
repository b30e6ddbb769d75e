"""Faults of one's own, as commands and in Python: run from the experiment's folder, proven, limited, and cleaned up."""

import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from chaos.errors import TargetError
from chaos.faults.command import Command
from chaos.faults.fault import Fault, Scene
from chaos.faults.python import Python
from chaos.parameters import SOURCE, written_as
from chaos.processes import alive, identify
from chaos.targets.local import LocalTarget
from chaos.undo import carry_out
from tests.integration.targets.workshop import Workshop, until

MARK = {"inject": ["touch", "mark"], "effect": ["test", "-e", "mark"], "heal": ["rm", "-f", "mark"]}
OWN = """
import pathlib
import words  # lies beside it

async def outage(step, *, mark):
    path = pathlib.Path(mark)
    match step:
        case "inject":
            path.write_text(words.GREETING)
        case "effect":
            return path.exists() and path.read_text()
        case "heal":
            path.unlink(missing_ok=True)

class Broken:
    def inject(self):
        raise RuntimeError("no such luck")
    def effect(self):
        raise RuntimeError("nor here")
    def heal(self):
        pass
"""


@pytest.fixture
async def target(workshop: Workshop) -> AsyncIterator[LocalTarget]:
    """A target whose processes do not matter."""
    async with workshop.opened(workshop.topology({"web": {"count": 1, "ready": {"http": "/readyz"}}})) as opened:
        yield opened.target


def read(cls: type, folder: Path, written: Mapping[str, Any]) -> Fault:
    """The fault as an experiment in that folder has it."""
    context = {SOURCE: folder / "experiment.yaml"}
    fault: Fault = TypeAdapter(written_as(cls)).validate_python(written, context=context)
    return fault


async def test_commands_run_beside_the_experiment_and_their_exit_status_counts(
    workshop: Workshop, target: LocalTarget
) -> None:
    """In force after `inject`, not before and not after `heal`; the undo step alone heals too."""
    fault = read(Command, workshop.folder, MARK)
    scene = Scene.open(fault_id="command-1", target=target, instances=())
    mark = workshop.folder / "mark"
    assert (await fault.effect(scene)).proven is False
    await fault.inject(scene)
    assert mark.exists()
    assert (await fault.effect(scene)).proven
    assert (await fault.heal_proof(scene)).proven is False
    await fault.heal(scene)
    assert not mark.exists()
    assert (await fault.heal_proof(scene)).proven

    await fault.inject(scene)
    for step in fault.undo_steps(scene):
        carry_out(step)
    assert not mark.exists()


async def test_what_cannot_look_has_seen_nothing_and_healed_nothing(workshop: Workshop, target: LocalTarget) -> None:
    """A shell that does not find its command ends with 127: neither in force, nor right again."""
    fault = read(Command, workshop.folder, MARK | {"effect": ["sh", "-c", "no-such-program-anywhere"]})
    scene = Scene.open(fault_id="command-1", target=target, instances=())
    for look in (fault.effect, fault.heal_proof):
        with pytest.raises(
            TargetError, match=r"effect ended with exit status 127; the end of its log .*(?s:.*)not found"
        ):
            await look(scene)


async def test_healed_says_more_than_that_the_effect_is_gone(workshop: Workshop, target: LocalTarget) -> None:
    """Where there is such a command, it alone is asked."""
    fault = read(Command, workshop.folder, MARK | {"healed": ["test", "-e", "well"]})
    scene = Scene.open(fault_id="command-1", target=target, instances=())
    assert (await fault.heal_proof(scene)).proven is False
    (workshop.folder / "well").touch()
    assert (await fault.heal_proof(scene)).proven


async def test_what_an_injection_leaves_in_the_background_ends_when_it_is_healed(
    workshop: Workshop, target: LocalTarget
) -> None:
    """It goes on while looks come and go."""
    background = ["sh", "-c", "sleep 300 & echo $! > pid"]
    fault = read(Command, workshop.folder, MARK | {"inject": background, "effect": ["test", "-s", "pid"]})
    scene = Scene.open(fault_id="command-1", target=target, instances=())
    await fault.inject(scene)
    identity = identify(int((workshop.folder / "pid").read_text()))
    assert identity is not None
    assert (await fault.effect(scene)).proven
    assert alive(identity)
    await fault.heal(scene)
    await until(lambda: not alive(identity))


async def test_a_command_that_takes_too_long_is_ended_with_all_it_started(
    workshop: Workshop, target: LocalTarget
) -> None:
    """By its limit of half a second."""
    hangs = ["sh", "-c", "sleep 300 & echo $! > pid; wait"]
    fault = read(Command, workshop.folder, MARK | {"inject": hangs, "within": "500ms"})
    scene = Scene.open(fault_id="command-1", target=target, instances=())
    with pytest.raises(TargetError, match=r"inject did not finish within 0.5 s"):
        await fault.inject(scene)
    identity = identify(int((workshop.folder / "pid").read_text()))
    assert identity is None or not alive(identity)


async def test_python_lies_beside_the_experiment_and_imports_what_lies_there(
    workshop: Workshop, target: LocalTarget
) -> None:
    """An async function, with parameters; what its effect returns is the evidence."""
    (workshop.folder / "own.py").write_text(OWN)
    (workshop.folder / "words.py").write_text("GREETING = 'hello'\n")
    fault = read(Python, workshop.folder, {"call": "own.py:outage", "with": {"mark": "mark"}})
    scene = Scene.open(fault_id="python-1", target=target, instances=())
    assert (await fault.effect(scene)).proven is False
    await fault.inject(scene)
    proof = await fault.effect(scene)
    assert proof.proven
    assert proof.evidence["said"] == "hello"
    for step in fault.undo_steps(scene):
        carry_out(step)
    assert (await fault.heal_proof(scene)).proven


async def test_an_exception_is_told_with_its_traceback_and_proves_nothing(
    workshop: Workshop, target: LocalTarget
) -> None:
    """Of the injection as of a look."""
    (workshop.folder / "own.py").write_text(OWN)
    (workshop.folder / "words.py").write_text("")
    fault = read(Python, workshop.folder, {"call": "own.py:Broken"})
    scene = Scene.open(fault_id="python-1", target=target, instances=())
    with pytest.raises(TargetError, match=r"inject ended with exit status 126(?s:.*)RuntimeError: no such luck"):
        await fault.inject(scene)
    with pytest.raises(TargetError, match="nor here"):
        await fault.effect(scene)
    with pytest.raises(TargetError, match="nor here"):
        await fault.heal_proof(scene)


@pytest.mark.parametrize(
    ("cls", "changes", "told"),
    [
        (Command, {"inject": ["no-such-program"]}, "inject: no-such-program cannot be run: it is not on the PATH"),
        (Command, {"heal": ["./heal.sh"]}, "heal: ./heal.sh cannot be run: there is no program .*heal.sh"),
        (Command, {"effect": []}, "at least 1"),
        (Command, {"folder": "nowhere"}, "no such folder: .*nowhere"),
        (Command, {"within": "3 parsecs"}, "expected a duration"),
        (Python, {"call": "outage"}, "expected file.py:Name or package.module:Name"),
        (Python, {"call": "gone.py:Outage"}, "no such file: .*gone.py"),
        (Python, {"call": "here.py:Outage"}, "here.py has no class or function 'Outage'; it has Half"),
        (Python, {"call": "here.py:Half"}, "here.py:1: class Half has no effect and no heal"),
        (Python, {"call": "bad.py:Outage"}, "bad.py:1: no Python"),
        (Python, {"call": "no.such.module:Outage"}, "no module 'no.such.module'"),
    ],
    ids=str,
)
def test_what_could_never_run_is_told_when_the_experiment_is_read(
    tmp_path: Path, cls: type, changes: dict[str, Any], told: str
) -> None:
    """Nothing is run for that: the code would leave a trace."""
    (tmp_path / "here.py").write_text("class Half:\n    def inject(self): ...\n\nopen('trace', 'w')\n")
    (tmp_path / "bad.py").write_text("class :\n")
    with pytest.raises(ValidationError, match=told):
        read(cls, tmp_path, (MARK if cls is Command else {}) | changes)
    assert not Path("trace").exists()
    assert "here" not in sys.modules
