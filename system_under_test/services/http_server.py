"""How the platform's processes take HTTP, where the library's own way would not do."""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

# All of what the balancer lets through as a request's line and headers.
_HEAD_BYTES_MAX: Final = 64 * 1024
# For how long what a client still sends is read after it was refused, so that it gets to see why.
_LINGERS_S: Final = 1.0
SERVER_OPTIONS: Final[Mapping[str, Any]] = {
    "access_log": None,
    "max_line_size": _HEAD_BYTES_MAX,
    "max_field_size": _HEAD_BYTES_MAX,
    # A compressed body is refused; unpacked, a small one could be as large as it likes.
    "auto_decompress": False,
    "lingering_time": _LINGERS_S,
}


async def go_on(request: web.Request) -> None:
    """Lets a client send its body, whatever else it expects.

    Other expectations may be passed over by the standard; the library's own refusal comes before who asks is known, and
    is no problem document.
    """
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Or an error would find that the answer has begun.
        request.writer.output_size = 0
