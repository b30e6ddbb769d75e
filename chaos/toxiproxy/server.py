"""A running server: the HTTP interface and the proxies behind it."""

import asyncio
import contextlib
import resource
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from chaos.errors import TargetError
from chaos.toxiproxy.addresses import AddressError, address_text, listen, shown_address
from chaos.toxiproxy.api import build_app, runner
from chaos.toxiproxy.collection import Collection, RefusalError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server is started; `port` is a text as the original takes it (0: any free one)."""

    host: str = "localhost"
    port: str = "8474"
    seed: int = 0
    config: Path | None = None
    proxy_metrics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that runs."""

    url: str
    collection: Collection


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Serving]:
    """Runs a server, with the proxies of its configuration; on leaving, everything is closed.

    Raises:
        TargetError: the address of the HTTP interface cannot be had.
    """
    collection = Collection(seed=settings.seed)
    place = address_text((settings.host, 0)).removesuffix("0") + settings.port
    try:
        listener = await listen(place)
    except AddressError as error:
        raise TargetError(f"the HTTP interface cannot listen: {error}; choose others with --host and --port") from error
    running = runner(build_app(collection, with_metrics=settings.proxy_metrics))
    try:
        if settings.config is not None:
            await _populate(collection, settings.config)
        await running.setup()
        await web.SockSite(running, listener).start()
        yield Serving(url=f"http://{shown_address(listener)}", collection=collection)
    finally:
        collection.stop()
        await running.cleanup()
        listener.close()


def run(settings: Settings, *, started: Callable[[Serving], None]) -> None:
    """Runs a server until the process is asked to end (SIGINT, SIGTERM), on uvloop where it is installed.

    Raises:
        TargetError: the address of the HTTP interface cannot be had.
    """

    async def until_asked() -> None:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, asked.set)
        async with serving(settings) as server:
            started(server)
            await asked.wait()

    _allow_descriptors()
    with asyncio.Runner(loop_factory=_loop_factory()) as on:
        on.run(until_asked())


def _allow_descriptors() -> None:
    """Each connection takes two: as many as the machine allows this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _populate(collection: Collection, config: Path) -> None:
    """As the original does it: what is wrong with the file is told, and the server runs all the same."""
    try:
        body = await asyncio.to_thread(config.read_bytes)
        made = await collection.populate(body)
    except OSError as error:
        log.warning("config.unreadable", config=str(config), error=str(error))
    except RefusalError as error:
        log.warning("config.refused", config=str(config), error=error.message)
    else:
        log.info("config.populated", config=str(config), proxies=len(made))
