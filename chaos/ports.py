"""Ports for a run, from a fixed range below the ephemeral one, held by a lock that dies with its holder.

Ports of the ephemeral range would be taken by outgoing connections while an instance is down, and its restart would
fail. A block is held by binding an abstract Unix socket of its name: free of races, the same for all users, gone
with the last process that has it open. The watchdog is handed a copy, so that a block outlives a killed runner until
its processes are gone.
"""

import errno
import os
import socket
from typing import Final, Self

from chaos.errors import TargetError

FIRST_PORT: Final = 21_000
LAST_PORT: Final = 31_999
BLOCK_SIZE: Final = 100


class Ports:
    """Held blocks of ports; each call of `take` gives the next free one."""

    def __init__(self, locks: list[socket.socket], ports: list[int]) -> None:
        self._locks = locks
        self._free = list(ports)

    @property
    def lock_fds(self) -> tuple[int, ...]:
        """Descriptors that hold the blocks; a process that inherits them holds the blocks as well."""
        return tuple(lock.fileno() for lock in self._locks)

    def take(self) -> int:
        """The next port of the held blocks, in ascending order; never more than were asked for."""
        return self._free.pop(0)

    def release(self) -> None:
        """Lets go of the blocks; ports already taken are no longer ours."""
        for lock in self._locks:
            lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold_ports(count: int, *, first: int = FIRST_PORT, last: int = LAST_PORT) -> Ports:
    """Holds as many whole blocks as `count` ports need; blocks with any port in use are passed over.

    Raises:
        TargetError: not enough blocks are free.
    """
    locks: list[socket.socket] = []
    ports: list[int] = []
    for start in range(first, last + 1, BLOCK_SIZE):
        if len(ports) >= count:
            break
        lock = _lock(start)
        if lock is None:
            continue
        block = range(start, min(start + BLOCK_SIZE, last + 1))
        if all(is_free(port) for port in block):
            locks.append(lock)
            ports.extend(block)
        else:
            lock.close()
    if len(ports) < count:
        for lock in locks:
            lock.close()
        raise TargetError(
            f"no block of {BLOCK_SIZE} free ports in {first}..{last} (wanted {count} ports): other runs hold them or "
            f"something listens there; `holdfast status` lists runs, `ss -ltnp` shows who listens"
        )
    return Ports(locks, ports)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port, on any address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that merely linger after their end do not count, listeners do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise TargetError(f"port {port} cannot be tried: {os.strerror(error.errno or 0)}") from error
    return True


def _lock(start: int) -> socket.socket | None:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0holdfast-ports-{start}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise TargetError(f"the lock of ports {start}.. cannot be taken: {error}") from error
    return lock
