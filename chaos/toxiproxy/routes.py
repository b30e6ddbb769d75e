"""A path and its methods, with what answers them."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from chaos.toxiproxy.gojson import Shown, render

Handler = Callable[..., Awaitable[web.Response]]
"""Called with the collection, the body, and the names in the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What answers a path; no methods: any."""

    pattern: re.Pattern[str]
    methods: frozenset[str]
    handler: Handler

    @classmethod
    def of(cls, path: str, methods: str, handler: Handler) -> Self:
        """A route for a path in which `{}` stands for a name, and methods with spaces between them."""
        pattern = re.compile(path.replace("{}", "([^/]+)"))
        return cls(pattern=pattern, methods=frozenset(methods.split()), handler=handler)


def answer(shown: Shown, *, status: int = 200) -> web.Response:
    """A JSON answer as the original gives it."""
    return web.Response(status=status, body=render(shown).encode(), headers={"Content-Type": "application/json"})
