"""What the original does not have, below `/holdfast`: a proxy made together with its toxics, live connections, effects.

Nothing here changes an answer of the original's interface.
"""

import time
from typing import Final

from aiohttp import web

from chaos.toxiproxy.answers import proxy_answer, toxic_answer
from chaos.toxiproxy.collection import Collection
from chaos.toxiproxy.connection import Connection
from chaos.toxiproxy.gojson import Shown
from chaos.toxiproxy.installed import InstalledToxic
from chaos.toxiproxy.link import Link
from chaos.toxiproxy.routes import Route, answer


async def _create(collection: Collection, body: bytes) -> web.Response:
    return answer(proxy_answer(await collection.create(body, with_toxics=True)), status=201)


async def _connections(collection: Collection, _body: bytes, proxy: str) -> web.Response:
    now_s = time.monotonic()
    found = collection.get(proxy).connections.values()
    return answer([_connection_answer(one, now_s) for one in found])


async def _effects(collection: Collection, _body: bytes, proxy: str) -> web.Response:
    now_s = time.monotonic()
    return answer([_effect_answer(one, now_s) for one in collection.get(proxy).ordered_toxics()])


def _connection_answer(connection: Connection, now_s: float) -> Shown:
    return {
        "number": connection.number,
        "client": connection.client_address,
        "age_ms": int((now_s - connection.opened_s) * 1000),
        "upstream": _link_answer(connection.upstream),
        "downstream": _link_answer(connection.downstream),
    }


def _link_answer(link: Link) -> Shown:
    return {"received_bytes": link.received_bytes, "sent_bytes": link.sent_bytes, "ended": link.ended}


def _effect_answer(installed: InstalledToxic, now_s: float) -> Shown:
    left_ms = None if installed.expires_s is None else max(int((installed.expires_s - now_s) * 1000), 0)
    effect = installed.effect
    return {
        **toxic_answer(installed),
        "ttl_ms": left_ms,
        "effect": {"connections": effect.connections, "bytes": effect.bytes},
    }


EXTRA_ROUTES: Final = (
    Route.of("/holdfast/proxies", "POST", _create),
    Route.of("/holdfast/proxies/{}/connections", "GET", _connections),
    Route.of("/holdfast/proxies/{}/toxics", "GET", _effects),
)
