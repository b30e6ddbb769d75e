"""A PostgreSQL data folder with the platform's roles and its empty database, made once and whole.

The server's user may not be able to pass through the folders above the data folder (a run below a folder of root's).
Whoever starts a program here therefore enters the data folder first, while still allowed to, and names it
`/proc/self/cwd`, which leads there without passing through anything.
"""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from system_under_test.settings import PlatformError
from system_under_test.storage.binaries import Binaries

HERE: Final = "/proc/self/cwd"
DATABASE: Final = "savings"
OWNER: Final = "savings_owner"
SIGNERS: Final = 3
ROLES: Final = {
    "dsn": "savings_portal",
    "admin_dsn": OWNER,
    "auditor_dsn": "savings_auditor",
    "accrual_dsn": "savings_accrual",
    "settlement_dsn": "savings_settlement",
    "maintenance_dsn": "savings_maintenance",
    "notifier_dsn": "savings_notifier",
    **{f"signer_{number}_dsn": f"savings_signer_{number}" for number in range(1, SIGNERS + 1)},
}
"""The database role behind each address that the launcher reports: no two duties share one."""
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""All that the programs are given: what happens to be set around us must not change what they do."""

_PARTIAL: Final = "pgdata.partial-"
_PASSWORDS_FILE: Final = "passwords.json"
_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A data folder ready to be served, and its roles' passwords."""

    folder: Path
    passwords: Mapping[str, str]

    def address(self, role: str, port: int) -> str:
        """The database's address for `role`."""
        return f"postgresql://{role}:{self.passwords[role]}@127.0.0.1:{port}/{DATABASE}"


def open_cluster(data_dir: Path, binaries: Binaries) -> Cluster:
    """The cluster below `data_dir`, made now where there is none.

    Passwords are drawn when the cluster is made and kept beside it, readable by its owner only: clients must be able to
    come back after the server was restarted.

    Raises:
        PlatformError: a program failed; carries what it said.
    """
    folder = data_dir / "pgdata"
    kept = data_dir / _PASSWORDS_FILE
    if not folder.exists():
        passwords = {role: secrets.token_urlsafe(24) for role in ROLES.values()}
        kept.unlink(missing_ok=True)
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(passwords, file)
        _make(data_dir, binaries, passwords).rename(folder)
    try:
        passwords = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlatformError(f"{kept} is lost or damaged: {error}; remove {data_dir} to begin anew") from error
    return Cluster(folder=folder, passwords=passwords)


def _make(data_dir: Path, binaries: Binaries, passwords: Mapping[str, str]) -> Path:
    # A start that was killed leaves a folder, and perhaps a program that still writes to it for a moment: so this one
    # gets a name of its own, and what cannot be removed of the other one yet is no obstacle.
    for left in data_dir.glob(f"{_PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=data_dir))
    if binaries.user is not None:
        os.chown(folder, binaries.user, binaries.user)
    initdb = (
        *(binaries.initdb, "-D", HERE, "--username=postgres", "--auth=reject", "--no-sync", "--no-instructions"),
        *("--set", "dynamic_shared_memory_type=mmap"),  # or a kill would leave a file in /dev/shm
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    _run(initdb, folder, binaries)
    # The superuser has no password and no way in over the network; nobody needs it afterwards.
    single = (binaries.postgres, "--single", "-D", HERE, "-F", "-c", "exit_on_error=on", "postgres")
    _run(single, folder, binaries, stdin="".join(f"{statement};\n" for statement in _roles(passwords)))
    access = folder / "pg_hba.conf"
    access.write_text("host all all 127.0.0.1/32 scram-sha-256\n", encoding="utf-8")
    return folder


def _roles(passwords: Mapping[str, str]) -> tuple[str, ...]:
    return (
        *(f"create role {role} login password '{password}'" for role, password in passwords.items()),
        # A portal that hangs between two statements must not keep its locks longer than the balancer waits.
        f"alter role {ROLES['dsn']} set idle_in_transaction_session_timeout = '300ms'",
        # Nothing can be sealed past a transaction that has written. What only reads for long says so (`snapshot`).
        f"alter role {ROLES['maintenance_dsn']} set idle_in_transaction_session_timeout = '3s'",
        # Who owns everything operates it too: sees what other roles do, and ends it where it must.
        f"grant pg_read_all_stats, pg_signal_backend to {OWNER}",
        f"alter role {ROLES['auditor_dsn']} set default_transaction_read_only = on",
        f"create database {DATABASE} owner {OWNER}",
        f"revoke all on database {DATABASE} from public",
        f"grant connect on database {DATABASE} to {', '.join(ROLES.values())}",
        "revoke connect on database postgres from public",
        "revoke connect on database template1 from public",
    )


def _run(command: tuple[str, ...], folder: Path, binaries: Binaries, *, stdin: str = "") -> None:
    user = binaries.user
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env=ENVIRONMENT,
            input=stdin,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlatformError(f"{command[0]} could not be run: {error}") from error
    if result.returncode != 0:
        raise PlatformError(f"{command[0]} failed with {result.returncode}:\n{result.stdout}{result.stderr}".rstrip())
