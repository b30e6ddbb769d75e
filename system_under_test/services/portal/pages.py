"""The dashboard's page and its files, from memory.

Each file carries a validator and is asked for anew each time (304 while it is unchanged): names with a content hash
would be missing at the nodes of the other version while a deploy rolls.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from system_under_test.services.portal.requests import Handler
from system_under_test.services.portal.route import Route

_FOLDER: Final = Path(__file__).parents[2] / "web"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES: Final = {
    "/": "index.html",
    **{f"/web/{name}": name for name in ("dashboard.css", "dashboard.js", "stream.js", "format.js", "icon.svg")},
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
    )
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

ROUTES: Final[tuple[Route, ...]] = tuple(
    Route(
        method="GET",
        path=path,
        operation=f"read_page_{name.replace('.', '_')}",
        summary=f"The dashboard: {name}",
        codes=(200, 304),
        media_type=_TYPES[Path(name).suffix].partition(";")[0],
        business=False,
    )
    for path, name in _FILES.items()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file as it is sent."""

    body: bytes
    content_type: str
    tag: str

    async def serve(self, request: web.Request) -> web.Response:
        """The file; 304 without it where the client has it."""
        headers = {**_HEADERS, "Content-Type": self.content_type, "ETag": f'"{self.tag}"'}
        known = request.if_none_match or ()
        if any(given.value in {self.tag, "*"} for given in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.body, headers=headers)


class PageHandlers:
    """Serves the files, which are read once."""

    def __init__(self) -> None:
        self._files = {route.operation: _read(_FILES[route.path]) for route in ROUTES}

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {operation: file.serve for operation, file in self._files.items()}


def _read(name: str) -> File:
    path = _FOLDER / name
    body = path.read_bytes()
    return File(body=body, content_type=_TYPES[path.suffix], tag=hashlib.sha256(body).hexdigest()[:32])
