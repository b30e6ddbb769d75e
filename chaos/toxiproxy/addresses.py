"""Addresses in the way and with the error texts of Go's net package, which clients of the original know.

`host:port`, `[IPv6]:port`, `:port` (all addresses, both families), port 0 (any free one).
"""

import asyncio
import errno
import os
import socket
from typing import Final

_BACKLOG: Final = 4096
_LAST_PORT: Final = 65_535
_KNOWN_PORTS: Final = {"http": 80, "https": 443}


class AddressError(Exception):
    """An address that cannot be used, in the original's words."""


async def listen(address: str) -> socket.socket:
    """A listening socket that does not block.

    Raises:
        AddressError: the address cannot be understood, found or bound.
    """
    try:
        family, place = await _resolve(address)
    except AddressError as error:
        raise AddressError(f"listen tcp: {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if place[0] != "::" else 0)
        listener.bind(place)
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 -- the standard library's signature
    except OSError as error:
        listener.close()
        shown = address_text(place) if place[0] != "::" else f":{place[1]}"
        raise AddressError(f"listen tcp {shown}: bind: {_reason(error)}") from error
    return listener


async def resolved(address: str) -> str:
    """The address with its host looked up, as a listening socket would show it.

    Raises:
        AddressError: it cannot be understood or found.
    """
    family, place = await _resolve(address)
    del family
    return address_text(place) if place[0] != "::" or split(address or ":0")[0] else f":{place[1]}"


def split(address: str) -> tuple[str, str]:
    """Host and port of an address.

    Raises:
        AddressError: there is no port, or too much.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        raise AddressError(f"address {address}: missing port in address")
    if address.startswith("["):
        inner, bracket, rest = address[1:].partition("]")
        if not bracket:
            raise AddressError(f"address {address}: missing ']' in address")
        if not rest.startswith(":"):
            raise AddressError(f"address {address}: missing port in address")
        if rest.count(":") > 1:
            raise AddressError(f"address {address}: too many colons in address")
        return inner, rest[1:]
    if ":" in host:
        raise AddressError(f"address {address}: too many colons in address")
    return host, port


def port_number(port: str) -> int:
    """The number of a port; an empty one is 0.

    Raises:
        AddressError: it is none.
    """
    if not port:
        return 0
    if port in _KNOWN_PORTS:
        return _KNOWN_PORTS[port]
    if port.isascii() and port.isdigit():
        if int(port) > _LAST_PORT:
            raise AddressError(f"address {port}: invalid port")
        return int(port)
    raise AddressError(f"lookup tcp/{port}: unknown port")


def address_text(place: tuple[str, int]) -> str:
    """`host:port`, with brackets where the host has colons."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown_address(listener: socket.socket) -> str:
    """Where a socket listens."""
    return address_text(listener.getsockname()[:2])


async def _resolve(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    host, port_text = split(address or ":0")
    port = port_number(port_text)
    if not host:
        return (socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET), (
            "::" if socket.has_dualstack_ipv6() else "0.0.0.0",  # noqa: S104 -- what an address without a host means
            port,
        )
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"lookup {host}: no such host") from error
    # IPv4 first, as the original has it.
    family, *_, place = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, (str(place[0]), int(place[1]))


def _reason(error: OSError) -> str:
    known = {errno.EADDRINUSE: "address already in use", errno.EADDRNOTAVAIL: "cannot assign requested address"}
    number = error.errno or 0
    return known.get(number, os.strerror(number).lower())
