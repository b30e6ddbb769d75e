"""The list of nodes as text: `127.0.0.1:20011@a,127.0.0.1:20012@b`, each a port of this machine and its zone."""

import re
from dataclasses import dataclass

_NODE = re.compile(r"127\.0\.0\.1:(?P<port>\d{1,5})(?:@(?P<zone>[A-Za-z0-9_-]{1,32}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A node; `zone` is "default" where the text names none."""

    port: int
    zone: str

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"expected a port from 1 to 65535, got {self.port}")


def parse_upstreams(text: str) -> tuple[Upstream, ...]:
    """The nodes in `text`, in its order.

    Raises:
        ValueError: no node, one that is not on the loopback interface, or a port that is there twice.
    """
    upstreams = []
    for part in text.split(","):
        match = _NODE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"expected nodes such as 127.0.0.1:20011@a,127.0.0.1:20012@b, got {part.strip()!r}")
        upstreams.append(Upstream(port=int(match["port"]), zone=match["zone"] or "default"))
    if len({upstream.port for upstream in upstreams}) < len(upstreams):
        raise ValueError("expected each node once")
    return tuple(upstreams)
