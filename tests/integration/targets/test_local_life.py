"""A running target: instances die and come back, are read, acted on and stopped; nothing of them stays."""

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.errors import TargetError
from chaos.processes import alive, send, state
from tests.integration.targets.workshop import Workshop, until

READY = {"ready": {"http": "/readyz", "within": "10s"}, "metrics": "/metrics"}
WRITE = (
    "import json, sys; [print(json.dumps({'row': n}), file=open(sys.argv[1], 'a')) for n in range(int(sys.argv[2]))]"
)


async def test_a_killed_instance_comes_back_on_its_port_with_its_environment(workshop: Workshop) -> None:
    """SIGKILL, expected; restarted with another version, which a second restart keeps. Its old grandchild is gone."""
    path = workshop.topology(
        {"web": {"count": 2, **READY, "version": {"http": "/healthz", "field": "version"}, "env": {"OFFSPRING": 1}}}
    )
    async with workshop.opened(path) as opened:
        target = opened.target
        await target.start()
        before, port = target.identity("web-2"), target.instances("web")[1].port
        processes = len(workshop.left())
        assert before is not None
        assert send(before, signal.SIGKILL)
        assert await target.expect_exit("web-2", within_s=5)
        assert target.identity("web-2") is None
        assert not await target.is_ready("web-2")
        after = await target.start_instance("web-2", env={"VERSION": "v2"})
        assert after == target.identity("web-2") != before
        assert target.instances("web")[1].port == port
        assert await target.version("web-2") == "v2"
        assert len(workshop.left()) == processes
        await target.stop_instance("web-2")
        assert not alive(after)
        await target.start_instance("web-2")
        assert await target.version("web-2") == "v2"
        assert await target.version("web-1") == "v0"
        with pytest.raises(TargetError, match="web-2 runs already; stop it first"):
            await target.start_instance("web-2")
        with pytest.raises(TargetError, match="has no instance 'web-3'; known: web-1, web-2"):
            await target.start_instance("web-3")
    ends = [(event.data["returncode"], event.data["expected"]) for event in workshop.events("instance.exited")]
    assert ends[:2] == [(-9, True), (0, True)]


async def test_an_end_that_nobody_meant_is_written_down(workshop: Workshop) -> None:
    """The service ends itself with status 7."""
    async with workshop.opened(workshop.topology({"web": READY})) as opened:
        target = opened.target
        await target.start()
        with pytest.raises(TargetError, match="GET "):
            await target.system.ask(f"{target.url}/die")
        await until(lambda: workshop.events("instance.exited") != [])
        (event,) = workshop.events("instance.exited")
        assert (event.instance, event.data) == ("web-1", {"returncode": 7, "expected": False})
        assert target.identity("web-1") is None


async def test_an_instance_that_does_not_end_in_time_says_so(workshop: Workshop) -> None:
    """Nothing was sent: the wait for its end comes back with False."""
    async with workshop.opened(workshop.topology({"web": READY})) as opened:
        await opened.target.start()
        assert not await opened.target.expect_exit("web-1", within_s=0.05)


async def test_stopped_and_stubborn_processes_are_gone_after_the_stop(workshop: Workshop) -> None:
    """One is frozen by SIGSTOP, one ignores SIGTERM, and each has a grandchild in a session of its own."""
    path = workshop.topology(
        {
            "frozen": {**READY, "env": {"OFFSPRING": 1}, "stop": {"grace": "5s"}},
            "stubborn": {**READY, "env": {"OFFSPRING": 1, "MODE": "stubborn"}, "stop": {"grace": "100ms"}},
        }
    )
    async with workshop.opened(path) as opened:
        await opened.target.start()
        frozen = opened.target.identity("frozen-1")
        assert frozen is not None
        send(frozen, signal.SIGSTOP)
        await until(lambda: state(frozen) == "T")
        assert await opened.target.stop() == ()
        assert workshop.left() == [opened.watchdog.process.pid]
    ends = {event.instance: event.data["returncode"] for event in workshop.events("instance.exited")}
    # The frozen one went on to end in order; the stubborn one had to be killed.
    assert ends == {"frozen-1": 0, "stubborn-1": -9}


async def test_readings_come_from_metrics_and_answers(workshop: Workshop) -> None:
    """Two instances report 1 and 2 queued jobs and 10 done ones each; a subset of the labels is enough to match."""
    path = workshop.topology(
        {"web": {"count": 2, **READY}},
        observe={
            "sum": {"metric": 'jobs{state="queued"}', "role": "web"},
            "max": {"metric": 'jobs{state="queued"}', "role": "web", "combine": "max"},
            "mean": {"metric": "jobs", "role": "web", "combine": "mean"},
            "one": {"metric": 'jobs{state="queued",node="web-2"}', "role": "web"},
            "rare": {"metric": "rare_total", "role": "web"},
            "wrong": {"metric": "jbs", "role": "web"},
            "stage": {"http": "/status", "field": "now.stage", "url": "web.url"},
            "posts": {"http": "/status", "field": "now.posts", "role": "web"},
            "lost": {"http": "/status", "field": "now.lost", "role": "web"},
        },
    )
    async with workshop.opened(path) as opened:
        target = opened.target
        await target.start()
        values = {name: await target.observe(name) for name in ("sum", "max", "mean", "one", "rare", "stage", "posts")}
        assert values == {"sum": 3, "max": 2, "mean": 5.75, "one": 2, "rare": 0, "stage": "open", "posts": 0}
        with pytest.raises(TargetError, match="reading wrong: web has no metric 'jbs'; did you mean 'jobs'"):
            await target.observe("wrong")
        with pytest.raises(TargetError, match=r"the answer has no field 'now\.lost': "):
            await target.observe("lost")
        with pytest.raises(TargetError, match="has no reading 'sun'; did you mean 'sum'"):
            await target.observe("sun")
        await target.stop_instance("web-1")
        assert await target.observe("sum") == 2
        await target.stop_instance("web-2")
        with pytest.raises(TargetError, match="reading sum: no instance of web runs"):
            await target.observe("sum")


async def test_actions_are_proven_by_their_effect_and_have_an_undo(workshop: Workshop) -> None:
    """A request changes what is observed; one that is refused, and one without effect, are errors."""
    close = {"url": "web.url", "path": "/stage", "json": {"stage": "closed"}}
    path = workshop.topology(
        {"web": READY},
        observe={
            "stage": {"http": "/status", "field": "now.stage", "role": "web"},
            "posts": {"http": "/status", "field": "now.posts", "role": "web"},
        },
        actions={
            "close": {
                "http": close,
                "effect": {"observe": "stage", "is": "closed", "within": "5s"},
                "undo": {"http": {**close, "json": {"stage": "open"}}},
            },
            "idle": {"http": {**close, "json": {}}, "effect": {"observe": "stage", "is": "gone", "within": "100ms"}},
            "refused": {"http": {**close, "json": {"accept": False}}},
            "note": {
                "command": ["${python}", "-c", "open('noted', 'w').write('x')"],
                "undo": {"command": ["rm", "noted"]},
            },
            "broken": {"command": ["${python}", "-c", "raise SystemExit('no way')"]},
        },
        quiet_when={"observe": "stage", "is": "closed", "and": {"observe": "posts", "max": 1}},
    )
    async with workshop.opened(path) as opened:
        target = opened.target
        await target.start()
        assert not await target.wait_quiet(within_s=0.1)
        await target.act("close")
        assert await target.observe("stage") == "closed"
        assert await target.wait_quiet(within_s=0.1)
        (step,) = target.undo_of("close")
        assert step["url"] == f"{target.url}/stage"
        assert step["json"] == {"stage": "open"}
        with pytest.raises(
            TargetError, match=r"action idle: stage did not become 'gone' within 0\.1 s, last seen: 'clos"
        ):
            await target.act("idle")
        assert not await target.wait_quiet(within_s=0.1)
        with pytest.raises(TargetError, match=r"action refused: POST .*/stage: status 409: "):
            await target.act("refused")
        await target.act("note")
        assert (workshop.folder / "noted").read_text() == "x"
        assert target.undo_of("note") == ({"do": "command", "command": ["rm", "noted"], "cwd": str(workshop.folder)},)
        with pytest.raises(TargetError, match=r"(?s)action-broken ended with exit status 1; .*no way"):
            await target.act("broken")


async def test_prepare_and_final_commands_run_to_their_end(workshop: Workshop) -> None:
    """Rows are counted; a dump that fails, hangs or writes no JSON is said so, and the others are still written."""
    hang = ["${python}", "-c", "import subprocess; subprocess.run(['sleep', '60'])", "${out}"]

    def final(name: str, command: list[str], **more: Any) -> dict[str, Any]:
        return {"name": name, "schema": "effects/1", "command": command, **more}

    path = workshop.topology(
        {"web": READY},
        prepare=[{"command": ["${python}", "-c", WRITE, "${run_dir}/seed", "2"]}],
        final=[
            final("good", ["${python}", "-c", WRITE, "${out}", "3"]),
            final("failing", ["${python}", "-c", "raise SystemExit('locked')", "${out}"]),
            final("hanging", hang, within="300ms"),
            final("nothing", ["true", "${out}"]),
            final("garbage", ["${python}", "-c", "import sys; open(sys.argv[1], 'w').write('{}\\nrows')", "${out}"]),
        ],
    )
    async with workshop.opened(path) as opened:
        await opened.target.start()
        await opened.target.prepare()
        run_dir = opened.target.system.run_dir
        assert (run_dir / "seed").read_text() == '{"row": 0}\n{"row": 1}\n'
        result = await opened.target.dump(run_dir)
        assert result["good"] == 3
        said = {name: str(text).replace(str(run_dir), "") for name, text in result.items() if name != "good"}
        assert said["failing"] == (
            "final-failing ended with exit status 1; the end of its log /logs/final-failing.log:\n    locked"
        )
        assert said["hanging"].startswith("final-hanging did not finish within 0.3 s; it printed nothing")
        assert said["nothing"] == "/final/nothing.ndjson was not written: No such file or directory"
        assert said["garbage"].startswith("/final/garbage.ndjson:2: no JSON: ")
        assert [json.loads(line) for line in (run_dir / "final" / "good.ndjson").read_text().splitlines()] == [
            {"row": 0}, {"row": 1}, {"row": 2},
        ]  # fmt: skip


def existing(folders: list[Path]) -> list[Path]:
    """Those of them that are there."""
    return [folder for folder in folders if folder.is_dir()]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A throw-away folder directly in the system's temporary one, as a launcher makes it."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


another = elsewhere


async def test_data_elsewhere_is_removed_only_when_it_is_surely_ours(
    workshop: Workshop, elsewhere: Path, another: Path
) -> None:
    """A listed folder needs both the mark of this run and its place in a temporary folder.

    Every folder in the list is made for this test: should the rules break, nothing else can be lost.
    """
    mark = f".holdfast-{workshop.token}-run-1"
    deeper = workshop.folder / "deeper"
    deeper.mkdir()
    (elsewhere / mark).touch()
    (deeper / mark).touch()
    (another / "precious").touch()
    listed = [elsewhere, another, deeper, workshop.folder / "gone", elsewhere / ".." / deeper.name]
    code = (
        "import os, pathlib, signal\n"
        "listing = pathlib.Path(os.environ['HOLDFAST_DATA_DIR'], 'outside.txt')\n"
        f"listing.write_text({chr(10).join(map(str, listed))!r})\n"
        "signal.pause()"
    )
    path = workshop.topology({"base": {"command": ["${python}", "-c", code]}})
    async with workshop.opened(path) as opened:
        await opened.target.start()
        assert existing(listed) == [elsewhere, another, deeper]
        assert await opened.target.stop() == ()
    assert existing(listed) == [another, deeper]
