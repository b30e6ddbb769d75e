"""`python -m system_under_test NAME`: every process and command of the savings platform.

Each is a module with `main(arguments, environment) -> exit code`, imported only when it is asked for.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from system_under_test.settings import EX_USAGE, PlatformError

COMMANDS: Final = {
    "postgres": ("system_under_test.storage.launcher", "the database server; becomes the PostgreSQL postmaster"),
    "migrate": ("system_under_test.storage.migrate", "bring the database's schema up to date, then end"),
    "portal": ("system_under_test.services.portal.server", "a portal node: sessions, deposits, redemptions, balances"),
    "settlement": ("system_under_test.services.settlement", "settles queued redemptions; one of several is active"),
    "accrual": ("system_under_test.services.accrual", "credits hourly interest; one of several is active"),
    "maintenance": ("system_under_test.services.maintenance", "drives maintenance windows, verifies the ledger"),
    "operator": ("system_under_test.services.operator_cli", "plan maintenance windows, set the business clock"),
    "balancer": ("system_under_test.balancer.launcher", "the load balancer; becomes Envoy"),
    "notifier": ("system_under_test.services.notifier.main", "sends customers the notices of maintenance windows"),
    "mailbox": ("system_under_test.services.mailbox.main", "a stand-in for the e-mail provider: receives and counts"),
    "signer": ("system_under_test.services.signer", "a custody signer: signs payout manifests with its own key"),
    "signers": ("system_under_test.storage.signers", "list, revoke or rotate custody's signers, then end"),
    "seed": ("system_under_test.storage.seed", "open customer accounts in bulk, then end"),
    "dump": ("system_under_test.storage.dump", "write rows of the ledger and all else as NDJSON, then end"),
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    return "\n".join(
        (
            "usage: python -m system_under_test NAME [--help]",
            "",
            "The reference savings platform. NAME is one of:",
            *lines,
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` names and gives its exit code; 64 for what a user has to correct."""
    name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if name in {"-h", "--help"}:
        sys.stdout.write(_usage() + "\n")
        return 0
    if name not in COMMANDS:
        said = f"no command called {name!r}" if name else "no command given"
        sys.stderr.write(f"{said}\n\n{_usage()}\n")
        return EX_USAGE
    try:
        return int(importlib.import_module(COMMANDS[name][0]).main(arguments, os.environ))
    except KeyboardInterrupt:
        return 130
    except (PlatformError, OSError) as error:  # of the operating system: a full disk, a missing right
        sys.stderr.write(f"{name}: {error}\n")
        return getattr(error, "exit_code", 1)
    except argparse.ArgumentError as error:
        sys.stderr.write(f"{name}: {error}\nSee: python -m system_under_test {name} --help\n")
        return EX_USAGE


if __name__ == "__main__":
    sys.exit(main())
