"""The providers' stand-in: a small real SMTP server and push service that keep what they get, and misbehave when told.

The notifier sends to any SMTP server by its address, and to any push service that customers subscribe at; this one is
for demonstrations and tests, where somebody has to count what has arrived.
"""

import asyncio
import signal
from collections.abc import Mapping, Sequence

import uvloop
from aiohttp import web
from pydantic import Field

from system_under_test.logs import configure_logs
from system_under_test.ready_file import write_ready_file
from system_under_test.services.mailbox.metrics import MailboxMetrics
from system_under_test.services.mailbox.push import PushService
from system_under_test.services.mailbox.smtp import MailServer
from system_under_test.services.mailbox.store import PUSHES_FILE, MailStore
from system_under_test.services.mailbox.subscriptions import Subscriptions
from system_under_test.services.mailbox.web import add_push, application
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


class MailboxSettings(Settings):
    """What the mailbox is told."""

    port: Port = Field(alias="HOLDFAST_PORT")
    smtp_port: Port = Field(alias="HOLDFAST_PORT_SMTP")
    data_dir: ExistingFolder = Field(alias="HOLDFAST_DATA_DIR")
    # Where to report the address that mail is to be sent to, as `smtp_url`, and that of the push service.
    ready_file: FileToBe | None = Field(default=None, alias="HOLDFAST_READY_FILE")
    instance: Name = Field(default="mailbox", alias="HOLDFAST_INSTANCE")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Takes mail until SIGTERM or SIGINT."""
    Arguments(
        "mailbox",
        "A stand-in for the e-mail provider and for a push service: receives by SMTP on HOLDFAST_PORT_SMTP and by POST"
        " /push/ID on HOLDFAST_PORT, keeps mails.ndjson and pushes.ndjson in HOLDFAST_DATA_DIR, answers GET /mails and"
        " /pushes, GET and POST /behaviour and /push-behaviour, POST /subscriptions and /metrics on HOLDFAST_PORT, and"
        " reports smtp_url, push_url and push_host in HOLDFAST_READY_FILE.",
    ).parse_args(arguments)
    settings = read_settings(MailboxSettings, environment)
    uvloop.run(_run(settings))
    return 0


async def _run(settings: MailboxSettings) -> None:
    log = configure_logs(settings.instance)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    metrics = MailboxMetrics()
    folder, push_host = settings.data_dir, f"127.0.0.1:{settings.port}"
    with MailStore(folder) as store, MailStore(folder, PUSHES_FILE) as pushes, Subscriptions(folder) as subscriptions:
        server = MailServer(store, metrics, log)
        service = PushService(subscriptions, pushes, metrics, origin=f"http://{push_host}", log=log)
        parts = add_push(application(store, server, metrics), service, subscriptions, pushes)
        site = web.AppRunner(parts, access_log=None, shutdown_timeout=1.0, auto_decompress=False)
        await site.setup()
        try:
            listening = await _listen(server, site, settings)
            if settings.ready_file is not None:
                smtp_url = f"smtp://127.0.0.1:{settings.smtp_port}"
                outputs = {"smtp_url": smtp_url, "push_url": f"http://{push_host}", "push_host": push_host}
                write_ready_file(settings.ready_file, outputs)
            log.info("mailbox.started", port=settings.port, smtp_port=settings.smtp_port, mails=store.received)
            await stopping.wait()
            listening.close()
        finally:
            await server.close()
            await site.cleanup()
    log.info("mailbox.stopped")


async def _listen(server: MailServer, site: web.AppRunner, settings: MailboxSettings) -> asyncio.Server:
    # HTTP last: who sees it ready can send mail.
    port = settings.smtp_port
    try:
        listening = await server.listen(port)
        port = settings.port
        await web.TCPSite(site, "127.0.0.1", port, reuse_address=True).start()
    except OSError as error:
        raise PlatformError(f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}") from error
    return listening
