"""The HTTP interface of Toxiproxy 2.12.0: the same paths, methods, statuses, headers and bodies.

    request -> path and method -> a change of the collection -> answer

Paths are matched here and not by aiohttp, whose own answers to what is unknown differ from the original's.
"""

import secrets
from typing import Final

from aiohttp import web

from chaos.toxiproxy.answers import proxy_answer, toxic_answer
from chaos.toxiproxy.collection import Collection, PopulateError, RefusalError
from chaos.toxiproxy.exposition import exposition
from chaos.toxiproxy.extras import EXTRA_ROUTES
from chaos.toxiproxy.gojson import Shown, render
from chaos.toxiproxy.routes import Route, answer

VERSION: Final = "2.12.0"
"""The version of the original that is spoken."""
_BODY_LIMIT_BYTES: Final = 8 * 1024 * 1024
_HEADER_LIMIT_BYTES: Final = 1024 * 1024
_SHUTDOWN_S: Final = 5.0
"""So long an answer that is under way may take when the server ends."""
_PLAIN: Final = "text/plain; charset=utf-8"


def build_app(collection: Collection, *, with_metrics: bool) -> web.Application:
    """The application that serves a collection."""
    routes = [*_ROUTES, *EXTRA_ROUTES, *([_METRICS] if with_metrics else [])]

    async def dispatch(request: web.Request) -> web.StreamResponse:
        return await _dispatch(request, routes, collection)

    app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
    app.router.add_route("*", "/{path:.*}", dispatch)
    app.on_response_prepare.append(_like_the_original)
    return app


def runner(app: web.Application) -> web.AppRunner:
    """What runs the application; header fields may be as long as the original allows."""
    return web.AppRunner(
        app,
        access_log=None,
        max_line_size=_HEADER_LIMIT_BYTES,
        max_field_size=_HEADER_LIMIT_BYTES,
        shutdown_timeout=_SHUTDOWN_S,
        handle_signals=False,
    )


async def _dispatch(request: web.Request, routes: list[Route], collection: Collection) -> web.StreamResponse:
    path = request.path
    matching = [(route, found) for route in routes if (found := route.pattern.fullmatch(path))]
    if not matching:
        return _plain_error(404, "404 page not found")
    chosen = next(((route, found) for route, found in matching if request.method in route.methods), None)
    if chosen is None and not any(not route.methods for route, _ in matching):
        return web.Response(status=405)
    route, found = chosen or matching[0]
    if request.headers.get("User-Agent", "").startswith("Mozilla/"):
        response: web.StreamResponse = _plain_error(403, "User agent not allowed")
    else:
        try:
            response = await route.handler(collection, await request.read(), *found.groups())
        except PopulateError as error:
            response = _populate_error(error)
        except RefusalError as error:
            response = _plain_error(error.status, render({"error": error.message, "status": error.status}))
    response.headers["X-Toxiproxy-Request-Id"] = secrets.token_hex(10)
    return response


async def _like_the_original(_request: web.Request, response: web.StreamResponse) -> None:
    """The original does not name its server, and gives no type to an empty body."""
    response.headers.popall("Server", None)
    if response.status in {204, 405}:
        response.headers.popall("Content-Type", None)


def _plain_error(status: int, text: str) -> web.Response:
    return web.Response(
        status=status,
        body=f"{text}\n".encode(),
        headers={"Content-Type": _PLAIN, "X-Content-Type-Options": "nosniff"},
    )


def _populate_error(error: PopulateError) -> web.Response:
    made: Shown = [proxy_answer(proxy) for proxy in error.made] or None
    return answer({"error": error.message, "status": error.status, "proxies": made}, status=error.status)


async def _index(collection: Collection, _body: bytes) -> web.Response:
    return answer({name: proxy_answer(proxy) for name, proxy in sorted(collection.proxies.items())})


async def _create(collection: Collection, body: bytes) -> web.Response:
    return answer(proxy_answer(await collection.create(body)), status=201)


async def _populate(collection: Collection, body: bytes) -> web.Response:
    made = await collection.populate(body)
    return answer({"proxies": [proxy_answer(proxy) for proxy in made] or None}, status=201)


async def _show(collection: Collection, _body: bytes, proxy: str) -> web.Response:
    return answer(proxy_answer(collection.get(proxy)))


async def _update(collection: Collection, body: bytes, proxy: str) -> web.Response:
    return answer(proxy_answer(await collection.update(proxy, body)))


async def _delete(collection: Collection, _body: bytes, proxy: str) -> web.Response:
    await collection.delete(proxy)
    return web.Response(status=204)


async def _toxics(collection: Collection, _body: bytes, proxy: str) -> web.Response:
    return answer([toxic_answer(toxic) for toxic in collection.get(proxy).ordered_toxics()])


async def _add_toxic(collection: Collection, body: bytes, proxy: str) -> web.Response:
    return answer(toxic_answer(collection.add_toxic(proxy, body)))


async def _show_toxic(collection: Collection, _body: bytes, proxy: str, toxic: str) -> web.Response:
    return answer(toxic_answer(collection.get_toxic(proxy, toxic)))


async def _update_toxic(collection: Collection, body: bytes, proxy: str, toxic: str) -> web.Response:
    return answer(toxic_answer(collection.update_toxic(proxy, toxic, body)))


async def _remove_toxic(collection: Collection, _body: bytes, proxy: str, toxic: str) -> web.Response:
    collection.remove_toxic(proxy, toxic)
    return web.Response(status=204)


async def _reset(collection: Collection, _body: bytes) -> web.Response:
    await collection.reset()
    return web.Response(status=204)


async def _version(_collection: Collection, _body: bytes) -> web.Response:
    body = f'{{"version": "{VERSION}"}}\n'.encode()
    return web.Response(body=body, headers={"Content-Type": "application/json;charset=utf-8"})


async def _metrics(collection: Collection, _body: bytes) -> web.Response:
    text = exposition(collection.proxies.values())
    return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


_ROUTES: Final = (
    Route.of("/reset", "POST", _reset),
    Route.of("/proxies", "GET", _index),
    Route.of("/proxies", "POST", _create),
    Route.of("/populate", "POST", _populate),
    Route.of("/proxies/{}", "GET", _show),
    Route.of("/proxies/{}", "POST PATCH", _update),
    Route.of("/proxies/{}", "DELETE", _delete),
    Route.of("/proxies/{}/toxics", "GET", _toxics),
    Route.of("/proxies/{}/toxics", "POST", _add_toxic),
    Route.of("/proxies/{}/toxics/{}", "GET", _show_toxic),
    Route.of("/proxies/{}/toxics/{}", "POST PATCH", _update_toxic),
    Route.of("/proxies/{}/toxics/{}", "DELETE", _remove_toxic),
    Route.of("/version", "GET", _version),
)
_METRICS: Final = Route.of("/metrics", "", _metrics)
