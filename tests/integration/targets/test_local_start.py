"""Starting a target: in order, with outputs handed on; a start that fails says why and leaves nothing."""

import asyncio
import json
import socket
from typing import Any

import pytest

from chaos.errors import TargetError
from chaos.ports import hold_ports
from chaos.processes import alive
from tests.integration.targets.workshop import PYTHON_SERVICE, Workshop, until

ECHO = ["${python}", "-c", "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + chr(10))", "${run_dir}/order"]


async def healthz(opened: Any, instance: str) -> dict[str, Any]:
    """What an instance says of itself."""
    system = opened.target.system
    _status, body = await system.ask(system.base_url(system.instance(instance)) + "/healthz")
    answer: dict[str, Any] = json.loads(body)
    return answer


async def test_roles_start_after_what_they_need_and_get_its_outputs(workshop: Workshop) -> None:
    """A base with outputs, a task that needs it, two workers that need the task, and one that needs nothing."""
    path = workshop.topology(
        {
            "base": {},
            "task": {"command": [*ECHO, "${base.token}"], "task": True},
            "worker": {
                "count": 2,
                "zones": ["a", "b"],
                "needs": ["task"],
                "ready": {"http": "/readyz"},
                "version": {"http": "/healthz", "field": "version"},
                "ports": ["admin"],
                "env": {
                    "GIVEN": "${base.token} ${worker.addresses} ${port} ${port.admin} ${zone}",
                    "OWN": "${base.token_[index]}",
                    "VERSION": "v1",
                },
            },
            "side": {"ready": {"tcp": True}},
        },
        outputs={"base": ["token", "token_1", "token_2"]},
    )
    async with workshop.opened(path) as opened:
        target = opened.target
        await target.start()
        base = target.identity("base-1")
        assert base is not None
        assert target.output("base.token") == f"token-of-base-1-{base.pid}"
        assert (target.system.run_dir / "order").read_text() == f"token-of-base-1-{base.pid}\n"
        one, two = target.instances("worker")
        assert (one.zone, two.zone) == ("a", "b")
        addresses = f"127.0.0.1:{one.port}@a,127.0.0.1:{two.port}@b"
        env = (await healthz(opened, "worker-2"))["env"]
        assert env["GIVEN"] == f"{target.output('base.token')} {addresses} {two.port} {two.ports['admin']} b"
        assert env["OWN"] == f"{target.output('base.token')}-for-2"
        assert env["HOLDFAST_INSTANCE"] == "worker-2"
        assert env["HOLDFAST_PORT"] == str(two.port)
        assert env["HOLDFAST_PORT_ADMIN"] == str(two.ports["admin"])
        assert env["HOLDFAST_ZONE"] == "b"
        assert env["HOLDFAST_DATA_DIR"] == str(target.system.run_dir / "data" / "worker-2")
        assert await target.version("worker-1") == "v1"
        assert await target.version("base-1") is None
        assert await target.is_ready("worker-2")
        assert target.url == f"http://127.0.0.1:{target.instances('base')[0].port}"
    order = [event.instance for event in workshop.events("instance.started")]
    ready = [event.instance for event in workshop.events("instance.ready")]
    assert order.index("task-1") < order.index("worker-1")
    assert ready.index("base-1") < ready.index("worker-1")
    assert set(ready) == {"base-1", "worker-1", "worker-2", "side-1"}
    assert all(event.data["expected"] for event in workshop.events("instance.exited"))
    assert not (workshop.runs_dir / "run-1" / "data").exists()
    assert "ends in order" in (workshop.runs_dir / "run-1" / "logs" / "worker-1.log").read_text()


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "a missing program": (
        {"command": ["/no/such/program"]},
        r"broken-1 cannot be started: /no/such/program: No such file or directory; command: /no/such/program",
    ),
    "an early end": (
        {"env": {"MODE": "exit"}, "ready": {"http": "/readyz"}},
        (
            r"broken-1 ended with exit status 3 before it was ready; the end of its log .*/logs/broken-1\.log:\n"
            r"    broken-1 begins in mode exit\n    no database to be found$"
        ),
    ),
    "an end by a signal": (
        {"command": ["${python}", "-c", "import os; os.abort()"], "ready": {"http": "/readyz"}},
        r"broken-1 was ended by SIGABRT before it was ready; it printed nothing; log: ",
    ),
    "an end with status 0": (
        {"command": ["true"], "ready": {"http": "/readyz"}},
        r"broken-1 ended with exit status 0 before it was ready; it printed nothing; log: ",
    ),
    "never ready": (
        {"env": {"MODE": "never-ready"}, "ready": {"http": "/readyz", "within": "4s"}},
        r"broken-1 was not ready within 4 s: GET http://127\.0\.0\.1:\d+/readyz: status 503 .*the end of its log",
    ),
    "no such server": (
        {"ready": {"sql": "select 1", "dsn": "postgresql://x@127.0.0.1:1/x", "within": "300ms"}},
        r"broken-1 was not ready within 0\.3 s: postgresql://x@127\.0\.0\.1:1/x: ",
    ),
    "a task that fails": (
        {"command": ["${python}", "-c", "import sys; print('bad column'); sys.exit(1)"], "task": True},
        r"broken-1 ended with exit status 1; the end of its log .*broken-1\.log:\n    bad column$",
    ),
    "a task that hangs": (
        {"command": ["sh", "-c", "sleep 60"], "task": True, "within": "300ms"},
        r"broken-1 did not finish within 0\.3 s; it printed nothing",
    ),
}


@pytest.mark.parametrize("kind", list(FAILURES))
async def test_a_start_that_fails_says_why_and_leaves_nothing(workshop: Workshop, kind: str) -> None:
    """A good instance with a grandchild runs already; another is about to start. None of them is left."""
    role, message = FAILURES[kind]
    path = workshop.topology(
        {"good": {"env": {"OFFSPRING": 1}, "ready": {"http": "/readyz"}}, "broken": {**role, "needs": ["good"]}}
    )
    async with workshop.opened(path) as opened:
        with pytest.raises(TargetError, match=f"(?s){message}"):
            await opened.target.start()
        watchdog = opened.watchdog.process.pid
        assert workshop.left() == [watchdog]
        assert not (workshop.runs_dir / "run-1" / "data").exists()


async def test_outputs_that_are_not_reported_are_named(workshop: Workshop) -> None:
    """The launcher writes its file, without one of the two outputs."""
    path = workshop.topology(
        {"base": {"ready": {"file": True, "within": "500ms"}}}, outputs={"base": ["token", "admin_dsn"]}
    )
    async with workshop.opened(path) as opened:
        with pytest.raises(TargetError, match=r"not ready within 0\.5 s: its ready file does not report admin_dsn"):
            await opened.target.start()


async def test_a_port_that_was_taken_meanwhile_is_seen_in_the_log(workshop: Workshop) -> None:
    """The block was free when it was allotted; somebody else listens when the instance starts."""
    path = workshop.topology({"web": {"ready": {"http": "/readyz"}}})
    async with workshop.opened(path) as opened:
        port = opened.target.instances("web")[0].port
        with (
            socket.create_server(("127.0.0.1", port)),
            pytest.raises(TargetError, match=r"(?s)web-1 ended with exit status 1 .*Address already in use"),
        ):
            await opened.target.start()


async def test_a_start_that_is_cancelled_leaves_nothing(workshop: Workshop) -> None:
    """One instance is up with its grandchild, the other never gets ready; then the start is cancelled."""
    path = workshop.topology(
        {
            "good": {"env": {"OFFSPRING": 1}, "ready": {"http": "/readyz"}},
            "slow": {"env": {"MODE": "never-ready"}, "ready": {"http": "/readyz"}, "needs": ["good"]},
        }
    )
    async with workshop.opened(path) as opened:
        starting = asyncio.create_task(opened.target.start())
        log = workshop.runs_dir / "run-1" / "logs" / "slow-1.log"
        await until(lambda: log.exists() and "GET /readyz" in log.read_text())
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert workshop.left() == [opened.watchdog.process.pid]


async def test_two_targets_side_by_side_do_not_touch_each_other(workshop: Workshop) -> None:
    """The same topology twice: different ports, and stopping one leaves the other as it was."""
    path = workshop.topology({"web": {"count": 2, "ready": {"http": "/readyz"}, "env": {"OFFSPRING": 1}}})
    async with workshop.opened(path, run="one") as one:
        await one.target.start()
        async with workshop.opened(path, run="two") as two:
            await two.target.start()
            ports = [{it.port for it in opened.target.instances()} for opened in (one, two)]
            assert not ports[0] & ports[1]
        identity = one.target.identity("web-1")
        assert identity is not None
        assert alive(identity)
        assert await one.target.is_ready("web-2")
        # Both processes of both instances, and the watchdog.
        assert len(workshop.left()) == 5


async def test_an_external_system_is_used_but_never_touched(workshop: Workshop) -> None:
    """A server of the test's own: it is waited for, asked, and lives on."""
    with hold_ports(1) as ports, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", ports.take()))
        port = listening.getsockname()[1]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{"stage": 1}')
            await writer.drain()
            writer.close()

        path = workshop.topology(
            {"legacy": {"external": True, "url": f"http://127.0.0.1:{port}", "ready": {"http": "/", "within": "5s"}}},
            observe={"stage": {"http": "/", "field": "stage", "role": "legacy"}},
        )
        server = await asyncio.start_server(answer, sock=listening)
        async with server, workshop.opened(path) as opened:
            await opened.target.start()
            assert opened.target.url == f"http://127.0.0.1:{port}"
            assert opened.target.instances()[0].port == port
            assert opened.target.identity("legacy-1") is None
            assert await opened.target.is_ready("legacy-1")
            assert await opened.target.observe("stage") == 1.0


async def test_an_external_system_that_is_not_there_is_named(workshop: Workshop) -> None:
    """Nobody listens on port 1."""
    path = workshop.topology(
        {"legacy": {"external": True, "url": "http://127.0.0.1:1", "ready": {"http": "/", "within": "200ms"}}}
    )
    async with workshop.opened(path) as opened:
        with pytest.raises(TargetError, match=r"legacy-1, which others run, was not ready within 0\.2 s: GET .*:1/: "):
            await opened.target.start()


async def test_overrides_reach_the_processes(workshop: Workshop) -> None:
    """The count and the environment of a role are changed from outside."""
    path = workshop.topology(
        {"web": {"command": PYTHON_SERVICE, "ready": {"http": "/readyz"}, "env": {"VERSION": "v1"}}}
    )
    async with workshop.opened(path, overrides={"web.count": 2, "web.env.VERSION": "v9"}) as opened:
        await opened.target.start()
        assert (await healthz(opened, "web-2"))["version"] == "v9"
