"""What the platform's background processes share: settings, health, metrics, signals, the database, an orderly end.

settings -> listen -> connect -> work until SIGTERM or SIGINT -> let the work end -> close -> exit 0
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeVar

import asyncpg
import structlog
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pydantic import Field

from system_under_test.logs import Troubles, configure_logs
from system_under_test.refusals import Refusals
from system_under_test.services.http_server import SERVER_OPTIONS
from system_under_test.settings import DatabaseUrl, Name, PlatformError, Port, Settings
from system_under_test.storage.database import Database, DatabaseLimits, NotDoneError, OutcomeUnknownError

BODY_BYTES_MAX: Final = 16 * 1024
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
AnswerT = TypeVar("AnswerT")


class ServiceSettings(Settings):
    """What every background process is told."""

    port: Port = Field(alias="HOLDFAST_PORT")
    instance: Name = Field(default="service", alias="HOLDFAST_INSTANCE")
    version: Name = Field(default="v1", alias="VERSION")
    database_url: DatabaseUrl = Field(alias="DATABASE_URL")
    statement_s: Annotated[float, Field(gt=0, le=600)] = Field(default=10.0, alias="STATEMENT_SECONDS")


@dataclass(slots=True, kw_only=True)
class Service:
    """One background process: what its work needs, and `stopping`, which asks the work to end."""

    instance: str
    log: structlog.stdlib.BoundLogger
    database: Database
    registry: CollectorRegistry
    data_dir: Path | None = None
    """The instance's own folder, for those that keep a key."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    troubles: Troubles = field(init=False)
    refusals: Refusals = field(init=False)

    def __post_init__(self) -> None:
        self.troubles = Troubles(self.log)
        self.refusals = Refusals(self.log, self.registry)

    async def rest(self, seconds: float, *, unless: asyncio.Event | None = None) -> None:
        """Waits `seconds`, or until the process is to stop or `unless` is set."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.stopping, unless) if event is not None]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def ask(self, question: Callable[[], Awaitable[AnswerT]], *, work: str, otherwise: AnswerT) -> AnswerT:
        """What `question` gives; `otherwise`, logged, when the database did not do it or did not answer.

        For `work` that looks at the database anew each time round, so that an unknown outcome is found out by itself.
        What the database refuses is told as `refusals` has it, and `otherwise` comes after a pause.
        """
        try:
            answer = await question()
        except (NotDoneError, OutcomeUnknownError) as error:
            self.failed(error)
            return otherwise
        except asyncpg.PostgresError as error:
            await self.rest(self.refusals.refused(work, error))
            return otherwise
        self.refusals.answered(work)
        return answer

    def failed(self, error: NotDoneError | OutcomeUnknownError) -> None:
        """Logs what the database did not do or did not answer, unless it is what was logged just before."""
        self.troubles.warn("database.failed", problem=str(error), unknown=isinstance(error, OutcomeUnknownError))


Work = Callable[[Service], Coroutine[None, None, None]]
Parts = Mapping[str, Callable[[Service], web.Application]]
"""What a process answers below a prefix of its port, besides health and metrics."""
_NO_PARTS: Final[Parts] = {}


def run_service(
    settings: ServiceSettings,
    work: Work,
    *,
    pool_size: int = 3,
    parts: Parts = _NO_PARTS,
    data_dir: Path | None = None,
) -> None:
    """Runs `work` until the process is told to stop; it has to end soon after `stopping` is set.

    Raises:
        PlatformError: the port cannot be listened on.
    """
    uvloop.run(_run(settings, work, pool_size, parts, data_dir))


async def _run(settings: ServiceSettings, work: Work, pool_size: int, parts: Parts, data_dir: Path | None) -> None:
    log = configure_logs(settings.instance)
    registry = CollectorRegistry()
    database = Database(
        settings.database_url,
        DatabaseLimits(pool_size=pool_size, acquire_within_s=1.0, statement_within_s=settings.statement_s),
        application=settings.instance,
        on_change=lambda ready, problem: log.info("database", ready=ready, problem=problem),
    )
    service = Service(instance=settings.instance, log=log, database=database, registry=registry, data_dir=data_dir)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stopping.set)
    application = _application(service, settings.version)
    for prefix, part in parts.items():
        application.add_subapp(prefix, part(service))
    runner = web.AppRunner(application, **SERVER_OPTIONS, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", settings.port, reuse_address=True).start()
    except OSError as error:
        await runner.cleanup()
        raise PlatformError(f"cannot listen on 127.0.0.1:{settings.port}: {error.strerror or error}") from error
    connecting = asyncio.create_task(database.keep_connected())
    log.info("service.started", port=settings.port, version=settings.version)
    try:
        await work(service)
    finally:
        connecting.cancel()
        with suppress(asyncio.CancelledError):
            await connecting
        await database.close()
        await runner.cleanup()
        log.info("service.stopped")


def _application(service: Service, version: str) -> web.Application:
    ready = Gauge(
        "savings_service_ready", "1 while the database answers and refuses no work.", registry=service.registry
    )
    build = Gauge("savings_build_info", "1 for the running version.", ("version",), registry=service.registry)
    build.labels(version).set(1)

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "instance": service.instance, "version": version})

    async def readiness(_request: web.Request) -> web.Response:
        if not service.database.ready:
            return web.json_response({"status": "not-ready"}, status=503)
        if service.refusals.stuck:
            return web.json_response({"status": "stuck", "work": service.refusals.stuck}, status=503)
        return web.json_response({"status": "ready"})

    async def metrics(_request: web.Request) -> web.Response:
        ready.set(service.database.ready and not service.refusals.stuck)
        return web.Response(body=generate_latest(service.registry), headers={"Content-Type": METRICS_TYPE})

    application = web.Application(client_max_size=BODY_BYTES_MAX)
    application.router.add_get("/healthz", health)
    application.router.add_get("/readyz", readiness)
    application.router.add_get("/metrics", metrics)
    return application
