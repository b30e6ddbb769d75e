"""The database server: prepares, reports where it will be, drops root's rights, and becomes PostgreSQL.

The process id stays the same throughout. A data folder whose server was killed is taken up again, and recovered.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from pydantic import Field

from system_under_test.ready_file import write_ready_file
from system_under_test.settings import (
    Arguments,
    ExistingFolder,
    FileToBe,
    Name,
    PlatformError,
    Port,
    Settings,
    read_settings,
)
from system_under_test.storage.binaries import Binaries, provide_binaries
from system_under_test.storage.cluster import ENVIRONMENT, HERE, ROLES, open_cluster

_ORPHANS_WITHIN_S: Final = 10.0
_SHARED_MEMORY_TABLE: Final = Path("/proc/sysvipc/shm")

# Durability is what the platform promises: nothing here trades it away.
SERVER_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_logical_replication_workers": "0",
    "io_method": "sync",  # no worker processes: the ledger is small and stays in memory
    "dynamic_shared_memory_type": "mmap",  # in the data folder, so that a killed server leaves nothing elsewhere
    "jit": "off",
    "random_page_cost": "1.1",  # nor does it matter then where a page lies
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class PostgresSettings(Settings):
    """What the database server is told."""

    port: Port = Field(alias="HOLDFAST_PORT")
    data_dir: ExistingFolder = Field(alias="HOLDFAST_DATA_DIR")
    ready_file: FileToBe = Field(alias="HOLDFAST_READY_FILE")
    run_id: Name | None = Field(default=None, alias="HOLDFAST_RUN_ID")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Becomes the server; comes back only by an error."""
    parser = Arguments(
        "postgres", "The database server. Reads HOLDFAST_PORT, HOLDFAST_DATA_DIR and HOLDFAST_READY_FILE."
    )
    parser.parse_args(arguments)
    settings = read_settings(PostgresSettings, environment)
    binaries = provide_binaries(settings.data_dir, settings.run_id)
    cluster = open_cluster(settings.data_dir, binaries)
    _await_orphans(cluster.folder)
    write_ready_file(settings.ready_file, {name: cluster.address(role, settings.port) for name, role in ROLES.items()})
    _become_server(binaries, cluster.folder, settings.port)


def _await_orphans(folder: Path) -> None:
    """Returns when no process of a server that was killed is left on this data folder; at once where there is none.

    Raises:
        PlatformError: a server is running on it, or processes of a killed one do not end.
    """
    try:
        note = (folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        # Its first line is the server's pid, its seventh names the shared memory: key and identifier.
        pid, segment = int(note[0]), note[6].split()[1]
    except (FileNotFoundError, IndexError):
        return
    if _works_in(pid, folder):
        raise PlatformError(f"a server with pid {pid} is already running on {folder}")
    deadline = time.monotonic() + _ORPHANS_WITHIN_S
    while _attached(segment):
        if time.monotonic() > deadline:
            raise PlatformError(
                f"processes of the killed server {pid} still use {folder} after {_ORPHANS_WITHIN_S:.0f} s; end them"
            )
        time.sleep(0.01)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:  # no such process, a dead one, or one of somebody else: certainly not this folder's server
        return False


def _attached(segment: str) -> bool:
    header, *rows = (line.split() for line in _SHARED_MEMORY_TABLE.read_text(encoding="ascii").splitlines())
    identifier, attached = header.index("shmid"), header.index("nattch")
    return any(row[identifier] == segment and row[attached] != "0" for row in rows)


def _become_server(binaries: Binaries, folder: Path, port: int) -> NoReturn:
    command = [binaries.postgres, "-D", HERE, "-p", str(port)]
    for name, value in SERVER_SETTINGS.items():
        command += ["-c", f"{name}={value}"]
    os.chdir(folder)
    if binaries.user is not None:
        os.setgroups([])
        os.setresgid(binaries.user, binaries.user, binaries.user)
        os.setresuid(binaries.user, binaries.user, binaries.user)
    try:
        os.execve(binaries.postgres, command, ENVIRONMENT)  # noqa: S606 - becoming the server is the purpose
    except OSError as error:
        raise PlatformError(f"{binaries.postgres} cannot be run: {error}") from error
