"""All proxies of a server, and every change to them; refusals are those of the original, with their statuses."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from chaos.toxiproxy.addresses import AddressError
from chaos.toxiproxy.gojson import JsonError, Object, Value, kind, parse
from chaos.toxiproxy.installed import InstalledToxic, Stream
from chaos.toxiproxy.proxy import Proxy
from chaos.toxiproxy.shapes import PROXY, TOXIC, Kind, member, take, take_attributes
from chaos.toxiproxy.toxics import TOXICS
from chaos.toxiproxy.toxics.noop import Noop

log = structlog.get_logger()

_POPULATED: Final = '[]struct { toxiproxy.Proxy; Enabled *bool "json:\\"enabled\\"" }'
_EXTRA: Final = {"ttl_ms": Kind.INT64}
_LONGEST_S: Final = 86_400.0 * 24
"""Event loops refuse to wait longer."""

Result = TypeVar("Result")


class RefusalError(Exception):
    """A request that is not carried out: an HTTP status and the original's words."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


class PopulateError(RefusalError):
    """A list of proxies that could not all be made; `made` are those before the one that failed."""

    def __init__(self, status: int, message: str, made: Sequence[Proxy] = ()) -> None:
        super().__init__(status, message)
        self.made = tuple(made)


class Collection:
    """The proxies by name; `seed` decides every chance of every toxic."""

    def __init__(self, *, seed: int) -> None:
        self.proxies: dict[str, Proxy] = {}
        self._seed_text = str(seed)
        # Changes that look addresses up must not overtake each other.
        self._changing = asyncio.Lock()
        self._ends: dict[InstalledToxic, asyncio.TimerHandle] = {}

    def get(self, name: str) -> Proxy:
        """The proxy of that name.

        Raises:
            RefusalError: there is none.
        """
        if name not in self.proxies:
            raise RefusalError(404, "proxy not found")
        return self.proxies[name]

    def get_toxic(self, proxy: str, name: str) -> InstalledToxic:
        """The toxic of that name on a proxy.

        Raises:
            RefusalError: there is no such proxy, or no such toxic on it.
        """
        toxic = self.get(proxy).find(name)
        if toxic is None:
            raise RefusalError(404, "toxic not found")
        return toxic

    async def create(self, body: bytes, *, with_toxics: bool = False) -> Proxy:
        """Makes a proxy and starts it unless it is disabled; `with_toxics`: with the toxics of the body, or not at all.

        Raises:
            RefusalError: the body cannot be used, the name is taken, or the address cannot be had.
        """
        value = _parse(body)
        wanted = {"enabled": True} | _take(value, PROXY, whole="toxiproxy.Proxy", struct="Proxy")
        _require(wanted)
        async with self._changing:
            if wanted["name"] in self.proxies:
                raise RefusalError(409, "proxy already exists")
            proxy = self._proxy(wanted)
            for one in _members_list(value) if with_toxics else ():
                self._install(proxy, one)
            if wanted["enabled"]:
                await _refused_as_500(proxy.start)
            self.proxies[proxy.name] = proxy
        return proxy

    async def populate(self, body: bytes) -> list[Proxy]:
        """Makes the proxies of a list; one that is there with the same addresses stays, with others it is replaced.

        Raises:
            PopulateError: the body cannot be used (nothing was made), or one could not be started (those before stay).
        """
        try:
            listed = _listed(_parse(body))
        except RefusalError as error:
            raise PopulateError(error.status, error.message) from error
        made: list[Proxy] = []
        async with self._changing:
            for wanted in listed:
                try:
                    made.append(await self._add_or_replace(wanted))
                except RefusalError as error:
                    raise PopulateError(error.status, error.message, made) from error
        return made

    async def update(self, name: str, body: bytes) -> Proxy:
        """Changes what the body names of a proxy; other addresses drop its connections.

        Raises:
            RefusalError: there is none, or the body or an address in it cannot be used.
        """
        proxy = self.get(name)
        wanted = _take(_parse(body), PROXY, whole="toxiproxy.Proxy", struct="Proxy")
        async with self._changing:
            if self.proxies.get(name) is not proxy:
                # Deleted or replaced meanwhile: it must not be started again.
                raise RefusalError(404, "proxy not found")
            change = partial(
                proxy.update,
                listen=wanted.get("listen", proxy.listen),
                upstream=wanted.get("upstream", proxy.upstream),
                enabled=wanted.get("enabled", proxy.enabled),
            )
            await _refused_as_500(change)
        return proxy

    async def delete(self, name: str) -> None:
        """Stops a proxy, drops its connections, and forgets it.

        Raises:
            RefusalError: there is none.
        """
        async with self._changing:
            self.get(name).stop()
            del self.proxies[name]

    async def reset(self) -> None:
        """Starts every proxy and takes every toxic off.

        Raises:
            RefusalError: one could not be started; those after it are as they were.
        """
        async with self._changing:
            for proxy in self.proxies.values():
                await _refused_as_500(proxy.start)
                proxy.remove_all()

    def stop(self) -> None:
        """Stops every proxy, for the end of the server."""
        for proxy in self.proxies.values():
            proxy.stop()

    def add_toxic(self, proxy_name: str, body: bytes) -> InstalledToxic:
        """Adds a toxic at the end of its stream, on live connections, too.

        Raises:
            RefusalError: there is no such proxy, the toxic is there, or the body cannot be used.
        """
        proxy = self.get(proxy_name)
        return self._install(proxy, _parse(body))

    def update_toxic(self, proxy_name: str, name: str, body: bytes) -> InstalledToxic:
        """Changes attributes and toxicity that the body names, on live connections, too.

        Raises:
            RefusalError: there is no such proxy or toxic, or the body cannot be used.
        """
        installed = self.get_toxic(proxy_name, name)
        value = _parse(body)
        attributes = _bad_request(lambda: take_attributes(value, type(installed.toxic)))
        wanted = _take(value, {"toxicity": Kind.FLOAT32} | _EXTRA, whole="struct")
        installed.toxic = dataclasses.replace(installed.toxic, **attributes)
        installed.toxicity = wanted.get("toxicity", installed.toxicity)
        proxy = self.get(proxy_name)
        if "ttl_ms" in wanted:
            self._end_after(proxy, installed, wanted["ttl_ms"])
        proxy.changed(installed)
        return installed

    def remove_toxic(self, proxy_name: str, name: str) -> None:
        """Takes a toxic off; what it held back goes on at once.

        Raises:
            RefusalError: there is no such proxy or toxic.
        """
        self.get(proxy_name).remove(self.get_toxic(proxy_name, name))

    def _proxy(self, wanted: dict[str, Any]) -> Proxy:
        return Proxy(
            wanted["name"], listen=wanted.get("listen", ""), upstream=wanted["upstream"], seed_text=self._seed_text
        )

    async def _add_or_replace(self, wanted: dict[str, Any]) -> Proxy:
        proxy = self._proxy(wanted)
        existing = self.proxies.get(proxy.name)
        if existing is not None:
            differs = await _refused_as_500(lambda: existing.differs(listen=proxy.listen, upstream=proxy.upstream))
            if not differs:
                return existing
            existing.stop()
        if wanted["enabled"]:
            await _refused_as_500(proxy.start)
        self.proxies[proxy.name] = proxy
        return proxy

    def _install(self, proxy: Proxy, value: Value) -> InstalledToxic:
        taken = _take(value, TOXIC | _EXTRA, whole="toxics.ToxicWrapper", struct="ToxicWrapper")
        shown = member(value, "attributes")
        if shown is not None:
            _bad_request(lambda: _check_attributes(shown))
        stream_text = taken.get("stream", "downstream")
        stream = next((one for one in Stream if one.value == stream_text.casefold()), None)
        if stream is None:
            raise RefusalError(400, "stream was invalid, can be either upstream or downstream")
        name = taken.get("name") or f"{taken.get('type', '')}_{stream_text}"
        toxic = TOXICS.get(taken.get("type", ""))
        if toxic is None:
            raise RefusalError(400, "invalid toxic type")
        if proxy.find(name) is not None:
            raise RefusalError(409, "toxic already exists")
        installed = InstalledToxic(
            name=name,
            stream=stream,
            stream_text=stream_text,
            toxicity=taken.get("toxicity", 1.0),
            toxic=toxic(**_bad_request(lambda: take_attributes(value, toxic))),
        )
        self._end_after(proxy, installed, taken.get("ttl_ms", 0))
        proxy.add(installed)
        return installed

    def _end_after(self, proxy: Proxy, installed: InstalledToxic, ttl_ms: int) -> None:
        """Sets when a toxic is taken off by itself; 0 or below: never."""
        before = self._ends.pop(installed, None)
        if before is not None:
            before.cancel()
        installed.expires_s = None
        if ttl_ms > 0:
            installed.expires_s = time.monotonic() + ttl_ms / 1000
            self._ends[installed] = asyncio.get_running_loop().call_later(
                min(ttl_ms / 1000, _LONGEST_S), self._expire, proxy, installed
            )

    def _expire(self, proxy: Proxy, installed: InstalledToxic) -> None:
        self._ends.pop(installed, None)
        log.info("toxic.expired", proxy=proxy.name, toxic=installed.name)
        proxy.remove(installed)


async def _refused_as_500(change: Callable[[], Awaitable[Result]]) -> Result:
    try:
        return await change()
    except AddressError as error:
        raise RefusalError(500, str(error)) from error


def _bad_request(read: Callable[[], Result]) -> Result:
    try:
        return read()
    except JsonError as error:
        raise RefusalError(400, f"bad request body: {error}") from error


def _parse(body: bytes) -> Value:
    return _bad_request(lambda: parse(body))


def _take(value: Value, fields: dict[str, Kind], *, whole: str, struct: str = "") -> dict[str, Any]:
    return _bad_request(lambda: take(value, fields, whole=whole, struct=struct))


def _require(wanted: dict[str, Any], where: str = "") -> None:
    for name in ("name", "upstream"):
        if not wanted.get(name):
            raise RefusalError(400, f"missing required field: {name}{where}")


def _listed(value: Value) -> list[dict[str, Any]]:
    """The proxies of a list, all of them checked."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise RefusalError(
            400, f"bad request body: json: cannot unmarshal {kind(value)} into Go value of type {_POPULATED}"
        )
    listed = [{"enabled": True} | _take(one, PROXY, whole=_POPULATED.removeprefix("[]")) for one in value]
    for number, wanted in enumerate(listed, 1):
        _require(wanted, f" at proxy {number}")
    return listed


def _members_list(value: Value) -> list[Value]:
    toxics = member(value, "toxics")
    if toxics is None:
        return []
    if not isinstance(toxics, list):
        raise RefusalError(400, f"bad request body: toxics is a list, not {kind(toxics)}")
    return toxics


def _check_attributes(value: Value) -> None:
    """What the first look at a toxic, before its type is known, tells of its attributes."""
    if not isinstance(value, Object):
        raise JsonError(
            f"json: cannot unmarshal {kind(value)} into Go struct field ToxicWrapper.attributes of type "
            f"toxics.{Noop.__name__}Toxic"
        )
