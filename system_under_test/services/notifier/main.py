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

from system_under_test.domain import p256
from system_under_test.domain.push import PushHosts
from system_under_test.domain.web_push import encode64
from system_under_test.services.notifier.channel import Channel
from system_under_test.services.notifier.email import Email
from system_under_test.services.notifier.metrics import NotifierMetrics
from system_under_test.services.notifier.outbox import Outbox
from system_under_test.services.notifier.push import Push
from system_under_test.services.notifier.sending import Sender
from system_under_test.services.service import Service, ServiceSettings, run_service
from system_under_test.settings import Arguments, ExistingFolder, FileToBe, read_settings
from system_under_test.storage.key_file import P256, open_key
from system_under_test.storage.push import PushSubscriptions

KEY_FILE: Final = "vapid.key"
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
    # For each answer of the provider; a mail takes three times as long at most, connecting twice.
    timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(default=10.0, alias="SMTP_TIMEOUT_SECONDS")
    # How long the notices of a notifier that died are left alone.
    claim_s: Annotated[float, Field(gt=0, le=3600)] = Field(default=120.0, alias="NOTICE_CLAIM_SECONDS")

    data_dir: ExistingFolder = Field(alias="HOLDFAST_DATA_DIR")
    # Whom customers subscribe to: the same for all notifiers of a platform.
    key_file: FileToBe | None = Field(default=None, alias="VAPID_KEY_FILE")
    push_hosts: PushHosts = Field(default=(), alias="PUSH_HOSTS")
    push_connections: Annotated[int, Field(ge=1, le=32)] = Field(default=2, alias="PUSH_CONNECTIONS")
    push_timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(default=10.0, alias="PUSH_TIMEOUT_SECONDS")

    @model_validator(mode="after")
    def _a_claim_outlasts_a_try(self) -> Self:
        # A notice is begun in the first half of its claim, and takes five answers' time at most, a new connection for
        # it included (`email.OPEN_ANSWERS` and `MAIL_ANSWERS`; `push.MESSAGE_ANSWERS`): but for the name service.
        for name, timeout_s in (("SMTP", self.timeout_s), ("PUSH", self.push_timeout_s)):
            if self.claim_s < _ANSWERS_IN_A_CLAIM * timeout_s:
                raise ValueError(
                    f"NOTICE_CLAIM_SECONDS has to be at least {_ANSWERS_IN_A_CLAIM} times {name}_TIMEOUT_SECONDS"
                )
        return self

    def email(self) -> Email:
        """The way to customers' mail boxes."""
        return Email(host=self.smtp.host, port=self.smtp.port, sender=self.sender, timeout_s=self.timeout_s)

    def push(self, private_key: bytes) -> Push:
        """The way to customers' devices."""
        return Push(
            private_key=private_key,
            subject=f"mailto:{self.sender}",
            hosts=self.push_hosts,
            timeout_s=self.push_timeout_s,
        )


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Sends until SIGTERM or SIGINT."""
    Arguments(
        "notifier",
        "Sends customers the notices of maintenance windows. Reads HOLDFAST_PORT, HOLDFAST_DATA_DIR, DATABASE_URL (the"
        " notifier's role), NOTICE_SENDER and NOTICE_CLAIM_SECONDS; for e-mail SMTP_URL (any SMTP server,"
        " smtp://host:port), SMTP_CONNECTIONS and SMTP_TIMEOUT_SECONDS; for web push VAPID_KEY_FILE (default"
        f" {KEY_FILE} in HOLDFAST_DATA_DIR; made at the first start, the same for all notifiers), PUSH_HOSTS (the push"
        " services that may be sent to: hosts with commas, as push.example.net or *.example.net; by default none,"
        " and nothing is pushed), PUSH_CONNECTIONS and PUSH_TIMEOUT_SECONDS.",
    ).parse_args(arguments)
    settings = read_settings(NotifierSettings, environment)
    private_key = open_key(settings.key_file or settings.data_dir / KEY_FILE, P256)

    async def work(service: Service) -> None:
        await _work(service, settings, private_key)

    # Each connection to a provider records by itself; one for each channel's looking and one for the metrics.
    run_service(settings, work, pool_size=settings.connections + settings.push_connections + 3)
    return 0


async def _work(service: Service, settings: NotifierSettings, private_key: bytes) -> None:
    metrics = NotifierMetrics(service.registry)

    def sender(channel: Channel, connections: int) -> Sender:
        outbox = Outbox(service.database, channel.name, claim_s=settings.claim_s)
        return Sender(service, channel, outbox, metrics, connections=connections)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_show_states(service, metrics))
        tasks.create_task(sender(settings.email(), settings.connections).run())
        if not settings.push_hosts:
            service.log.warning(
                "push.off",
                problem="PUSH_HOSTS is not set: this notifier sends by e-mail only, and leaves messages for devices to"
                " others",
            )
        elif await _has_the_key(service, metrics, encode64(p256.public_key(private_key))):
            tasks.create_task(sender(settings.push(private_key), settings.push_connections).run())


async def _has_the_key(service: Service, metrics: NotifierMetrics, public_key: str) -> bool:
    """Publishes our key; whether it is the one in force, which alone push services take messages of."""
    subscriptions = PushSubscriptions(service.database)
    while not service.stopping.is_set():
        in_force = await service.ask(
            lambda: subscriptions.publish(public_key), work="publishing the key for web push", otherwise=None
        )
        if in_force == public_key:
            return True
        if in_force is not None:
            metrics.foreign_key.set(1)
            service.log.error(
                "push.foreign_key",
                public_key=public_key,
                in_force=in_force,
                problem="customers have subscribed with another key: bring its file back as VAPID_KEY_FILE, and start"
                " this notifier again; until then it sends by e-mail only",
            )
            return False
        await service.rest(_STATES_EVERY_S)
    return False


async def _show_states(service: Service, metrics: NotifierMetrics) -> None:
    while not service.stopping.is_set():
        states = await service.ask(
            lambda: service.database.row("select * from notice_states()"), work="notice figures", otherwise=None
        )
        if states is not None:
            metrics.show(states)
        await service.rest(_STATES_EVERY_S)
