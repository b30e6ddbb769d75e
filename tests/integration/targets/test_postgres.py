"""A target with a real PostgreSQL, which hides: its environment is overwritten and its backends leave the session."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from chaos.errors import TargetError
from chaos.processes import alive, identify, send
from chaos.undo import carry_out
from tests.integration.targets.workshop import Workshop

ROLE = {
    "command": ["sh", "-c", "exec ${python} -m system_under_test postgres"],
    "ready": {"sql": "select 1", "dsn": "postgres.admin_dsn", "within": "30s"},
    "stop": {"signal": "INT", "grace": "10s"},
}


def pids(workshop: Workshop) -> list[int]:
    """The processes of the database, as registered at its starts."""
    roster = (workshop.runs_dir / "run-1" / "processes.ndjson").read_text().splitlines()
    entries = [json.loads(line) for line in roster]
    return [entry["pid"] for entry in entries if entry["name"].startswith("postgres-1")]


def segments_of(creators: list[int]) -> list[str]:
    """The shared memory that these processes have made."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return [line for line in lines if int(line.split()[4]) in creators]


async def test_a_database_is_killed_restarted_read_and_gone(workshop: Workshop) -> None:
    """SIGKILL of its first process leaves backends and shared memory; the restart on the same data must come up."""
    path = workshop.topology(
        {"postgres": dict(ROLE)},
        outputs={"postgres": ["admin_dsn"]},
        observe={
            "number": {"sql": "select 42", "dsn": "postgres.admin_dsn"},
            "text": {"sql": "select 'leader'", "dsn": "postgres.admin_dsn"},
        },
    )
    async with workshop.opened(path) as opened:
        target = opened.target
        await target.start()
        assert await target.observe("number") == 42
        assert await target.observe("text") == "leader"
        assert len(segments_of(pids(workshop))) == 1
        first = target.identity("postgres-1")
        assert first is not None
        known = [identity for pid in pids(workshop) if (identity := identify(pid))]
        assert len(known) > 1
        assert send(first, signal.SIGKILL)
        assert await target.expect_exit("postgres-1", within_s=5)
        await target.start_instance("postgres-1")
        assert not any(alive(identity) for identity in known)
        assert await target.observe("number") == 42
        known = [identity for pid in pids(workshop) if (identity := identify(pid))]
    assert not any(alive(identity) for identity in known)
    assert not workshop.has_data("run-1")
    assert segments_of(pids(workshop)) == []


async def test_an_action_can_be_a_statement_and_so_can_its_undo(workshop: Workshop) -> None:
    """Two statements are carried out as one; of two with a mistake in the second nothing stays; undone twice."""
    mark = {"sql": "create table mark (n int); insert into mark values (7)", "dsn": "postgres.admin_dsn"}
    path = workshop.topology(
        {"postgres": dict(ROLE)},
        outputs={"postgres": ["admin_dsn"]},
        observe={
            "marked": {"sql": "select (to_regclass('mark') is not null)::int", "dsn": "postgres.admin_dsn"},
            "half": {"sql": "select (to_regclass('half') is not null)::int", "dsn": "postgres.admin_dsn"},
        },
        actions={
            "mark": {
                **mark,
                "effect": {"observe": "marked", "is": 1},
                "undo": {"sql": "drop table if exists mark", "dsn": "postgres.admin_dsn"},
            },
            "half": {"sql": "create table half (n int); insert into half values ('x')", "dsn": "postgres.admin_dsn"},
        },
    )
    async with workshop.opened(path) as opened:
        target = opened.target
        await target.start()
        assert (await target.in_effect("mark"))[0] is False
        await target.act("mark")
        assert await target.in_effect("mark") == (True, {"marked": 1.0})
        (step,) = target.undo_of("mark")
        for _ in range(2):
            await asyncio.to_thread(carry_out, step)
            assert (await target.in_effect("mark"))[0] is False
        with pytest.raises(TargetError, match="invalid input syntax"):
            await target.act("half")
        assert await target.observe("half") == 0
