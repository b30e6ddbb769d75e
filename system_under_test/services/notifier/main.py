"""The notifier: sends customers the notices that wait in the outbox, on every channel at once.

Any number of these processes may run; they share the outbox by short claims. One that dies, or is frozen, loses its
claims to the others, and to itself when it is started again.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, model_validator

from system_under_test.services.notifier.channel import Channel
from system_under_test.services.notifier.email import Email
from system_under_test.services.notifier.metrics import NotifierMetrics
from system_under_test.services.notifier.outbox import Outbox
from system_under_test.services.notifier.sending import Sender
from system_under_test.services.service import Service, ServiceSettings, run_service
from system_under_test.settings import Arguments, read_settings

_STATES_EVERY_S: Final = 0.5
_ANSWERS_IN_A_CLAIM: Final = 10
_SMTP_URL: Final = re.compile(r"smtp://(?P<host>[0-9A-Za-z][0-9A-Za-z.-]{0,252}):(?P<port>[0-9]{1,5})/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpServer:
    """Where the provider listens."""

    host: str
    port: int


def _smtp_server(value: str) -> SmtpServer:
    match = _SMTP_URL.fullmatch(value)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError("expected an address such as smtp://127.0.0.1:2525")
    return SmtpServer(host=match["host"], port=int(match["port"]))


class NotifierSettings(ServiceSettings):
    """What the notifier is told."""

    smtp: Annotated[SmtpServer, BeforeValidator(_smtp_server)] = Field(alias="SMTP_URL")
    sender: Annotated[str, Field(pattern=r"^[0-9A-Za-z._+-]{1,64}@[0-9A-Za-z.-]{1,253}$")] = Field(
        default="notices@savings.example", alias="NOTICE_SENDER"
    )
    connections: Annotated[int, Field(ge=1, le=32)] = Field(default=4, alias="SMTP_CONNECTIONS")
    # For each answer of the provider.
    timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(default=10.0, alias="SMTP_TIMEOUT_SECONDS")
    # How long the notices of a notifier that died are left alone.
    claim_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=120.0, alias="NOTICE_CLAIM_SECONDS")

    @model_validator(mode="after")
    def _a_claim_outlasts_a_try(self) -> Self:
        # A mail is begun in the first half of its claim, and is five answers long at most.
        if self.claim_s < _ANSWERS_IN_A_CLAIM * self.timeout_s:
            raise ValueError(
                f"NOTICE_CLAIM_SECONDS has to be at least {_ANSWERS_IN_A_CLAIM} times SMTP_TIMEOUT_SECONDS"
            )
        return self

    def channels(self) -> tuple[Channel, ...]:
        """Every way to reach customers."""
        return (Email(host=self.smtp.host, port=self.smtp.port, sender=self.sender, timeout_s=self.timeout_s),)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Sends until SIGTERM or SIGINT."""
    Arguments(
        "notifier",
        "Sends customers the notices of maintenance windows. Reads HOLDFAST_PORT, DATABASE_URL (the notifier's role),"
        " SMTP_URL (any SMTP server, smtp://host:port), NOTICE_SENDER, SMTP_CONNECTIONS, SMTP_TIMEOUT_SECONDS and"
        " NOTICE_CLAIM_SECONDS.",
    ).parse_args(arguments)
    settings = read_settings(NotifierSettings, environment)

    async def work(service: Service) -> None:
        await _work(service, settings)

    # Each connection to a provider records by itself; one for the looking and one for the metrics.
    run_service(settings, work, pool_size=len(settings.channels()) * (settings.connections + 1) + 1)
    return 0


async def _work(service: Service, settings: NotifierSettings) -> None:
    metrics = NotifierMetrics(service.registry)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_show_states(service, metrics))
        for channel in settings.channels():
            outbox = Outbox(service.database, channel.name, claim_s=settings.claim_s)
            sender = Sender(service, channel, outbox, metrics, connections=settings.connections)
            tasks.create_task(sender.run())


async def _show_states(service: Service, metrics: NotifierMetrics) -> None:
    while not service.stopping.is_set():
        states = await service.ask(
            lambda: service.database.row("select * from notice_states()"), work="notice figures", otherwise=None
        )
        if states is not None:
            metrics.show(states)
        await service.rest(_STATES_EVERY_S)
