"""The process of a portal node: starts, serves, and on SIGTERM leaves without losing a request.

SIGTERM -> /readyz is 503, everything is still served -> DRAIN_SECONDS (the balancer has seen it)
        -> stop listening -> finish what is in flight, at most FINISH_SECONDS -> exit 0
"""

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Final

import uvloop
from aiohttp import web
from pydantic import Field

from system_under_test.domain.push import PushHosts
from system_under_test.logs import configure_logs
from system_under_test.services.http_server import SERVER_OPTIONS
from system_under_test.services.portal.admission import Admission
from system_under_test.services.portal.handlers import Handlers
from system_under_test.services.portal.health import Health
from system_under_test.services.portal.metrics import PortalMetrics
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.public_copy import PublicCopy
from system_under_test.services.portal.reception import Reception
from system_under_test.services.portal.routes import ROUTES
from system_under_test.services.portal.serving import build_application
from system_under_test.settings import (
    Arguments,
    DatabaseUrl,
    Name,
    PlatformError,
    Port,
    Settings,
    read_settings,
)
from system_under_test.storage.database import Database, DatabaseLimits
from system_under_test.storage.ledger import Ledger

# Longer than the balancer keeps an idle connection: the one that may write must be the one that closes.
_KEEP_ALIVE_S: Final = 630.0
_BACKLOG: Final = 1024


class PortalSettings(Settings):
    """What a portal node is told."""

    port: Port = Field(alias="HOLDFAST_PORT")
    instance: Name = Field(default="portal", alias="HOLDFAST_INSTANCE")
    version: Name = Field(default="v1", alias="VERSION")
    database_url: DatabaseUrl = Field(alias="DATABASE_URL")
    pool_size: Annotated[int, Field(ge=1, le=100)] = Field(default=10, alias="DATABASE_POOL_SIZE")
    in_flight_max: Annotated[int, Field(ge=1, le=100_000)] = Field(default=256, alias="MAX_IN_FLIGHT")
    # Requests whose body is waited for; a proper client's is here with its head, so that few of these are customers'.
    being_read_max: Annotated[int, Field(ge=1, le=100_000)] = Field(default=512, alias="MAX_BEING_READ")
    # The longest that a request may have to wait within the node: less than the balancer's 0.4 s for one try.
    wait_s: Annotated[float, Field(gt=0, le=10)] = Field(default=0.25, alias="MAX_WAIT_SECONDS")
    # More than two health checks of the balancer, 0.25 s each.
    drain_s: Annotated[float, Field(ge=0, le=60)] = Field(default=0.8, alias="DRAIN_SECONDS")
    finish_s: Annotated[float, Field(gt=0, le=60)] = Field(default=5.0, alias="FINISH_SECONDS")
    statement_s: Annotated[float, Field(gt=0, le=60)] = Field(default=2.0, alias="STATEMENT_SECONDS")
    acquire_s: Annotated[float, Field(gt=0, le=60)] = Field(default=1.0, alias="ACQUIRE_SECONDS")
    push_hosts: PushHosts = Field(default=(), alias="PUSH_HOSTS")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Serves until SIGTERM or SIGINT."""
    parser = Arguments(
        "portal",
        "A portal node. Reads HOLDFAST_PORT, HOLDFAST_INSTANCE, DATABASE_URL, VERSION, DATABASE_POOL_SIZE,"
        " MAX_IN_FLIGHT, MAX_BEING_READ, MAX_WAIT_SECONDS, DRAIN_SECONDS, FINISH_SECONDS, STATEMENT_SECONDS,"
        " ACQUIRE_SECONDS and PUSH_HOSTS (the push services that customers may subscribe at: hosts with commas, as"
        " push.example.net or *.example.net; by default none).",
    )
    parser.parse_args(arguments)
    settings = read_settings(PortalSettings, environment)
    uvloop.run(_serve(settings))
    return 0


async def _serve(settings: PortalSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log = configure_logs(settings.instance)
    limits = DatabaseLimits(
        pool_size=settings.pool_size,
        acquire_within_s=settings.acquire_s,
        statement_within_s=settings.statement_s,
    )
    database = Database(
        settings.database_url,
        limits,
        application=settings.instance,
        on_change=lambda ready, problem: log.info("database", ready=ready, problem=problem),
    )
    health = Health(
        database=database,
        admission=Admission(in_flight_max=settings.in_flight_max, wait_s=settings.wait_s, now_s=time.monotonic()),
        log=log,
    )
    node = Node(
        instance=settings.instance,
        version=settings.version,
        ledger=Ledger(database),
        public=PublicCopy(database, log),
        reception=Reception(at_most=settings.being_read_max),
        health=health,
        metrics=PortalMetrics(version=settings.version, routes=ROUTES),
        log=log,
        push_hosts=settings.push_hosts,
    )
    health.show(node.metrics.registry)
    handlers = Handlers(node)
    runner = web.AppRunner(
        build_application(node, handlers),
        **SERVER_OPTIONS,
        keepalive_timeout=_KEEP_ALIVE_S,
        shutdown_timeout=settings.finish_s,
    )
    await runner.setup()
    tasks = (database.keep_connected(), node.public.keep_fresh(), health.keep_measuring())
    watching = [asyncio.create_task(task) for task in tasks]
    try:
        await _listen(runner, settings.port)
        log.info("node.started", port=settings.port, version=settings.version)
        await stop.wait()
        node.draining = True
        node.metrics.draining.set(1)
        handlers.drain()
        log.info("node.draining", seconds=settings.drain_s, in_flight=health.in_flight)
        await asyncio.sleep(settings.drain_s)
    finally:
        await runner.cleanup()
        for task in watching:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await database.close()
        handlers.close()
        log.info("node.stopped", in_flight=health.in_flight)


async def _listen(runner: web.AppRunner, port: int) -> None:
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=_BACKLOG, reuse_address=True).start()
    except OSError as error:
        raise PlatformError(f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}") from error
