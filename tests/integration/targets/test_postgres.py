"""A target with a real PostgreSQL, which hides: its environment is overwritten and its backends leave the session."""

import json
import signal
from pathlib import Path

from chaos.processes import alive, identify, send
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
