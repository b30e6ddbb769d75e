"""The maintenance process: it drives the windows and verifies the ledger, and answers operators.

Whatever it works on is in the database. Killed at any moment and started again, it goes on from there.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Annotated, Final

from pydantic import Field

from system_under_test.services.auditing import keep_sealed, keep_verified
from system_under_test.services.operator_api import PREFIX, operator_api
from system_under_test.services.service import Service, ServiceSettings, run_service
from system_under_test.services.synchroniser import keep_synchronised
from system_under_test.services.windows import WindowDriver
from system_under_test.settings import Arguments, ExistingFolder, PlatformError, read_settings
from system_under_test.storage.reconciliation import reconcile

_POOL_SIZE: Final = 8
_SIDE_BY_SIDE: Final = 2
"""Checks at once while a window verifies: nobody reads then, and everybody waits for it."""


class MaintenanceSettings(ServiceSettings):
    """What the maintenance process is told."""

    # Holds the key that signs verifications, and what was signed last.
    data_dir: ExistingFolder = Field(alias="HOLDFAST_DATA_DIR")
    # Visible ASCII, as a header takes it.
    operator_token: Annotated[str, Field(min_length=16, max_length=1024, pattern=r"^[!-~]+$")] = Field(
        alias="OPERATOR_TOKEN"
    )


async def drive_windows(service: Service) -> None:
    """Takes every window from stage to stage."""
    await WindowDriver(service, partial(reconcile, service, full=True, side_by_side=_SIDE_BY_SIDE)).run()


TASKS: Final[tuple[Callable[[Service], Coroutine[None, None, None]], ...]] = (
    drive_windows,
    keep_sealed,
    keep_verified,
    keep_synchronised,
)
"""What the process does side by side; each ends soon after `stopping` is set."""


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Works until SIGTERM or SIGINT."""
    Arguments(
        "maintenance",
        "Drives maintenance windows and verifies the ledger. Reads HOLDFAST_PORT, HOLDFAST_INSTANCE,"
        " HOLDFAST_DATA_DIR, DATABASE_URL (of the role for maintenance), OPERATOR_TOKEN (at least 16 characters),"
        " VERSION and STATEMENT_SECONDS.",
    ).parse_args(arguments)
    settings = read_settings(MaintenanceSettings, environment)
    run_service(
        settings,
        _work,
        pool_size=_POOL_SIZE,
        parts={PREFIX: operator_api(settings.operator_token)},
        data_dir=settings.data_dir,
    )
    return 0


async def _work(service: Service) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for task in TASKS:
                group.create_task(task(service), name=task.__name__)
    except* PlatformError as broken:
        # Each is something that an operator can mend; the first is enough to end with.
        raise broken.exceptions[0] from None
