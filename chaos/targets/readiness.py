"""Whether an instance is ready, asked once; why not, when it is not."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from chaos.errors import TargetError
from chaos.targets.database import fetch_value
from chaos.targets.system import System
from chaos.targets.target import Instance

ONE_TRY_LIMIT_S: Final = 1.0


async def check_ready(system: System, instance: Instance, ready_file: Path) -> str | None:
    """None when the instance is ready, otherwise what is still missing; reads its outputs on the way."""
    role = system.role(instance)
    wanted = system.topology.file.outputs.get(instance.role, ())
    wants_file = role.ready is not None and role.ready.file
    if (wanted or wants_file) and (problem := _take_outputs(system, instance, ready_file, list(wanted))):
        return problem
    if role.ready is None or wants_file:
        return None
    return await _try(system, instance)


def _take_outputs(system: System, instance: Instance, ready_file: Path, wanted: list[str]) -> str | None:
    """Reads what the launcher reported; None when all of it is there."""
    try:
        reported: Any = json.loads(ready_file.read_bytes())
    except FileNotFoundError:
        return "it has not written its ready file"
    except ValueError:
        return f"its ready file {ready_file} holds no JSON (yet)"
    if not isinstance(reported, dict):
        return f"its ready file {ready_file} holds no JSON object"
    missing = [name for name in wanted if name not in reported]
    if missing:
        return f"its ready file does not report {', '.join(missing)}"
    system.outputs[instance.role] = reported
    return None


async def _try(system: System, instance: Instance) -> str | None:
    ready = system.role(instance).ready
    if ready is None:
        return None
    try:
        if ready.http is not None:
            url = system.base_url(instance, ready.port) + ready.http
            status, body = await system.ask(url, within_s=ONE_TRY_LIMIT_S)
            shown = body[:200].decode(errors="replace").strip()
            return None if 200 <= status < 300 else f"GET {url}: status {status} {shown}"
        if ready.sql is not None and ready.dsn is not None:
            await fetch_value(system.dsn(ready.dsn), ready.sql, within_s=ONE_TRY_LIMIT_S)
            return None
        return await _connect(instance.port if ready.port is None else instance.ports[ready.port])
    except TargetError as error:
        return str(error)


async def _connect(port: int) -> str | None:
    try:
        _reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), ONE_TRY_LIMIT_S)
    except OSError as error:
        return f"port {port} takes no connections: {error.strerror or type(error).__name__}"
    writer.transport.abort()
    return None
