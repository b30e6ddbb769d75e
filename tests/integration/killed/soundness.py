"""Whether a target that stays up is as it was before any fault: asked of the kernel, its servers and its database.

Nothing of the framework is asked but where the target is: `up.json`.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import asyncpg

from tests.integration.killed.traces import family, letter

_ASK_LIMIT_S = 1.0
_STOPPED = frozenset("Tt")
_WEB = build_opener(ProxyHandler({}))
_SESSIONS = """
    select application_name from pg_stat_activity where starts_with(application_name, 'holdfast ')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What is not allowed to differ afterwards."""

    limits: dict[str, str]
    """instance -> how many files it may have open"""
    runtime: dict[str, str]
    """What is in force of the balancer's runtime settings."""

    @classmethod
    def of(cls, state_file: Path) -> "Sound":
        """As it is now."""
        state = json.loads(state_file.read_text())
        return cls(
            limits={name: _limit_of(known["pid"]) for name, known in state["instances"].items()},
            runtime=_runtime(state),
        )


def unsound(state_file: Path, before: Sound) -> list[str]:
    """What is not as it was, in words; empty when everything is."""
    state = json.loads(state_file.read_text())
    left = list(_instances(state, before))
    for what, ask in (("balancer", _balancer), ("stage", _stage), ("database", _database)):
        try:
            left += ask(state, before)
        except (URLError, OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            left.append(f"{what}: {type(error).__name__}: {error}")
    return left


def _instances(state: dict[str, Any], before: Sound) -> Iterator[str]:
    for name, known in state["instances"].items():
        pid = known["pid"]
        if pid is None or letter(pid) is None:
            yield f"{name} does not run"
            continue
        if held := [one for one in family(pid) if letter(one) in _STOPPED]:
            yield f"{name}: stopped: {held}"
        if _limit_of(pid) != before.limits[name]:
            yield f"{name} may open {_limit_of(pid)} files, before it was {before.limits[name]}"
        if list(Path(f"/proc/{pid}/root", *Path(state["run_dir"], "data", name).parts[1:]).glob(".holdfast-ballast")):
            yield f"{name}: its disk holds ballast"
        if not name.startswith("postgres"):
            yield from _serves(name, known["port"])


def _serves(name: str, port: int) -> Iterator[str]:
    try:
        # Of the balancer only what customers may ask leads to a node.
        answer = _ask(f"http://127.0.0.1:{port}{'/v1/status' if name.startswith('balancer') else '/healthz'}")
    except OSError as error:
        yield f"{name} does not serve: {error}"
        return
    if name.startswith(("portal", "database")) and answer["version"] != "v1":
        yield f"{name} runs as {answer['version']}"


def _balancer(state: dict[str, Any], before: Sound) -> Iterator[str]:
    now = _runtime(state)
    if now != before.runtime:
        yield f"balancer: runtime {dict(now.items() - before.runtime.items())} is in force"
    clusters = _ask(state["outputs"]["balancer"]["admin_url"] + "/clusters?format=json")["cluster_statuses"]
    for host in (host for cluster in clusters for host in cluster.get("host_statuses", ())):
        if host.get("health_status", {}).get("failed_active_health_check"):
            yield f"balancer: {host['address']} is out"


def _stage(state: dict[str, Any], _before: Sound) -> Iterator[str]:
    stage = _ask(f"{state['url']}/stage")["stage"]
    if stage != "open":
        yield f"stage: {stage}"


def _database(state: dict[str, Any], _before: Sound) -> Iterator[str]:
    """No connection of ours, no lock held by anybody for long, and room for a new one."""
    for name in asyncio.run(_sessions(state["outputs"]["postgres"]["dsn"])):
        yield f"database: a connection of {name!r}"


async def _sessions(dsn: str) -> list[str]:
    # As an ordinary user: the places kept for administrators do not count. And it writes, so no lock is in its way.
    async with asyncio.timeout(_ASK_LIMIT_S):
        connection: Any = await asyncpg.connect(dsn)
        try:
            await connection.execute("update account set balance = balance + 0")
            rows = await connection.fetch(_SESSIONS)
        finally:
            connection.terminate()
    return [str(row["application_name"]) for row in rows]


def _runtime(state: dict[str, Any]) -> dict[str, str]:
    entries = _ask(state["outputs"]["balancer"]["admin_url"] + "/runtime?format=json").get("entries", {})
    return {key: entry["final_value"] for key, entry in entries.items() if entry.get("final_value")}


def _ask(url: str) -> Any:
    with _WEB.open(url, timeout=_ASK_LIMIT_S) as answer:
        return json.loads(answer.read() or b"null")


def _limit_of(pid: int) -> str:
    try:
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return "ended"
    return next(line.split()[3] for line in limits if line.startswith("Max open files"))
