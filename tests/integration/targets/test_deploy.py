"""A deploy on real processes: what is proven of it and of its rollback is what the kernel says of each process."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from chaos.engine import play
from chaos.engine.play import Stage
from chaos.errors import TargetError
from chaos.faults.deploy import Deploy
from chaos.faults.fault import Scene
from chaos.planner import Occurrence
from chaos.processes import settings_of
from chaos.targets.local import LocalTarget
from chaos.undo import UndoLog, pending
from metrics.events import EventLog
from tests.integration.targets.workshop import Workshop

BOTH = ("web-1", "web-2")


@pytest.fixture
async def target(workshop: Workshop) -> AsyncIterator[LocalTarget]:
    """Two instances that report no version, and have nothing called GIVEN in their environment."""
    path = workshop.topology({"web": {"count": 2, "ready": {"http": "/readyz"}, "env": {"OTHER": "1"}}})
    async with workshop.opened(path) as opened:
        await opened.target.start()
        yield opened.target


def deploy(**changes: Any) -> Deploy:
    """A deploy that sets GIVEN and OTHER."""
    return Deploy(role="web", changes={"env.GIVEN": "new", "env.OTHER": "2"}, **changes)


def settings(target: LocalTarget) -> list[dict[str, str | None]]:
    """What each instance runs with now."""
    identities = [target.identity(name) for name in BOTH]
    return [settings_of(it, ("GIVEN", "OTHER")) for it in identities if it is not None]


async def test_what_was_not_set_before_is_not_set_after_the_rollback(target: LocalTarget) -> None:
    """A service may tell an empty variable from none; nothing but the environment tells the two versions apart."""
    fault = deploy()
    scene = Scene.open(fault_id="deploy-1", target=target, instances=BOTH)
    await fault.inject(scene)
    assert settings(target) == [{"GIVEN": "new", "OTHER": "2"}] * 2
    assert (await fault.effect(scene)).proven is True
    assert (await fault.heal_proof(scene)).proven is False
    await fault.heal(scene)

    assert settings(target) == [{"GIVEN": None, "OTHER": "1"}] * 2
    assert (await fault.heal_proof(scene)).proven is True
    assert (await fault.effect(scene)).proven is False


async def test_new_processes_with_the_old_settings_are_no_deploy(target: LocalTarget) -> None:
    """Every instance is another process than before, ready, and the role reports no version."""
    scene = Scene.open(fault_id="deploy-1", target=target, instances=BOTH)
    for name in BOTH:
        await target.stop_instance(name)
        await target.start_instance(name)

    assert (await deploy().effect(scene)).proven is False


@dataclass(frozen=True)
class Stuck:
    """A real target that refuses to stop an instance the second time: deployed, but not to be rolled back."""

    target: LocalTarget
    stopped: list[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    async def stop_instance(self, instance: str) -> None:
        """Stops it, once."""
        if instance in self.stopped:
            raise TargetError(f"{instance} cannot be stopped")
        self.stopped.append(instance)
        await self.target.stop_instance(instance)


async def test_a_rollback_that_failed_is_not_proven_because_everyone_is_ready(
    workshop: Workshop, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new version never shows, and the rollback fails: all are ready and alike, but with the new settings."""
    monkeypatch.setattr(play, "EFFECT_LIMIT_S", 0.0)
    run_dir = workshop.run_dir("stage")
    events, undo = EventLog(run_dir), UndoLog(run_dir)
    stuck: Any = Stuck(target, [])
    stage = Stage(target=stuck, events=events, undo=undo, log=structlog.get_logger())
    fault = deploy(version="never")
    await stage.play(Occurrence(fault_id="deploy-1", name="deploy", fault=fault, at_s=0.0, instances=BOTH, params={}))
    events.close()
    undo.close()

    assert [event.data["step"] for event in workshop.events("fault.failed", run="stage")] == ["heal", "heal"]
    assert workshop.events("fault.heal_proven", run="stage")[0].data["proven"] is False
    assert list(stage.left) == ["deploy-1"]
    assert [record.fault_id for record in pending(run_dir)] == ["deploy-1"]


async def test_what_is_asked_to_run_with_other_settings_is_replaced(target: LocalTarget) -> None:
    """What another process asks for after a runner has died; asked again, nothing happens."""
    before = {name: target.identity(name) for name in BOTH}
    await target.ensure_started("web-1", env={"GIVEN": "old", "OTHER": None})
    after = target.identity("web-1")
    await target.ensure_started("web-1", env={"GIVEN": "old", "OTHER": None})
    await target.ensure_started("web-2", env={"GIVEN": None})

    assert settings(target) == [{"GIVEN": "old", "OTHER": None}, {"GIVEN": None, "OTHER": "1"}]
    assert after == target.identity("web-1") != before["web-1"]
    assert target.identity("web-2") == before["web-2"]


async def test_all_at_once_leaves_nobody_in_between(workshop: Workshop, target: LocalTarget) -> None:
    """Both have ended before either is ready again."""
    fault = deploy(strategy="all_at_once")
    scene = Scene.open(fault_id="deploy-1", target=target, instances=BOTH)
    await fault.inject(scene)
    assert (await fault.effect(scene)).proven
    assert settings(target) == [{"GIVEN": "new", "OTHER": "2"}] * 2
    ended, ready = workshop.events("instance.exited"), workshop.events("instance.ready")
    assert max(event.t_ns for event in ended) < min(event.t_ns for event in ready[2:])
    await fault.heal(scene)
    assert (await fault.heal_proof(scene)).proven


async def test_half_a_deploy_has_two_versions_side_by_side_and_is_finished(target: LocalTarget) -> None:
    """Looked at while it stands still; the same is in its evidence, and without it the effect would not be proven."""
    fault = deploy(strategy="half", hold_s=0.5)
    scene = Scene.open(fault_id="deploy-1", target=target, instances=BOTH)
    injecting = asyncio.create_task(fault.inject(scene))
    async with asyncio.timeout(20):
        while renewed(target, scene) != {"web-1"}:  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.01)
    assert settings(target) == [{"GIVEN": "new", "OTHER": "2"}, {"GIVEN": None, "OTHER": "1"}]
    await injecting
    proof = await fault.effect(scene)

    assert proof.proven
    assert proof.evidence["while_held"]["settings"] == {
        "web-1": {"GIVEN": "new", "OTHER": "2"},
        "web-2": {"GIVEN": None, "OTHER": "1"},
    }
    assert settings(target) == [{"GIVEN": "new", "OTHER": "2"}] * 2


def renewed(target: LocalTarget, scene: Scene) -> set[str]:
    """Which instances are other processes than before."""
    return {name for name in BOTH if (now := target.identity(name)) is not None and now != scene.before[name]}


@pytest.mark.parametrize("how", [{"strategy": "half", "then": "roll_back"}, {"strategy": "rolled_back"}], ids=str)
async def test_a_deploy_that_goes_back_ends_as_it_began(target: LocalTarget, how: dict[str, Any]) -> None:
    """What was replaced is replaced once more; whoever was never touched stays the same process."""
    fault = deploy(hold_s=0.0, **how)
    scene = Scene.open(fault_id="deploy-1", target=target, instances=BOTH)
    assert (await fault.effect(scene)).proven is False
    await fault.inject(scene)
    proof = await fault.effect(scene)

    assert proof.proven
    assert proof.evidence["while_held"]["settings"]["web-1"] == {"GIVEN": "new", "OTHER": "2"}
    assert settings(target) == [{"GIVEN": None, "OTHER": "1"}] * 2
    assert proof.evidence["renewed"] == (["web-1"] if how["strategy"] == "half" else list(BOTH))


async def test_a_half_finished_deploy_that_is_cut_off_is_rolled_back(target: LocalTarget) -> None:
    """Cancelled while two versions stand side by side."""
    fault = deploy(strategy="half", hold_s=60.0)
    scene = Scene.open(fault_id="deploy-1", target=target, instances=BOTH)
    injecting = asyncio.create_task(fault.inject(scene))
    async with asyncio.timeout(20):
        while renewed(target, scene) != {"web-1"} or not await target.is_ready("web-1"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    injecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await injecting
    await fault.heal(scene)

    assert settings(target) == [{"GIVEN": None, "OTHER": "1"}] * 2
    assert (await fault.heal_proof(scene)).proven
