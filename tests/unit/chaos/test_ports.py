"""Ports of a run: in blocks, held by whoever lives, never given twice."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from chaos.errors import TargetError
from chaos.ports import BLOCK_SIZE, FIRST_PORT, LAST_PORT, hold_ports, is_free

FIRST = 26_000 + 500 * (os.getpid() % 11)
LAST = FIRST + 499
"""Five blocks at the far end of the range, which real runs reach last; most likely others in a suite beside this."""


def test_the_range_lies_below_the_ports_of_outgoing_connections() -> None:
    """Otherwise a restart would find its port taken."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:  # noqa: PTH123  # no folder of ours
        ephemeral_first = int(file.read().split()[0])
    assert ephemeral_first > LAST_PORT
    assert (LAST_PORT + 1 - FIRST_PORT) % BLOCK_SIZE == 0


def test_two_holders_never_share_a_port() -> None:
    """Two runs side by side get different blocks; a released block is given again."""
    with hold_ports(3, first=FIRST, last=LAST) as one, hold_ports(3, first=FIRST, last=LAST) as two:
        ports = {one.take(), one.take(), one.take()}
        assert not ports & {two.take(), two.take(), two.take()}
    with hold_ports(1, first=FIRST, last=LAST) as again:
        assert again.take() in ports


def test_more_ports_than_a_block_has_take_several() -> None:
    """150 ports come from two blocks, all different."""
    with hold_ports(150, first=FIRST, last=LAST) as ports:
        assert len(ports.lock_fds) == 2
        assert len({ports.take() for _ in range(150)}) == 150


def test_a_block_with_a_port_in_use_is_passed_over() -> None:
    """Something listens in the middle of the first block."""
    with hold_ports(1, first=FIRST, last=LAST) as ports:
        first = ports.take()
    with socket.create_server(("127.0.0.1", first + 50)):
        assert not is_free(first + 50)
        with hold_ports(1, first=FIRST, last=LAST) as ports:
            assert ports.take() >= first + BLOCK_SIZE
    assert is_free(first + 50)


def test_when_none_is_free_it_says_what_to_look_at() -> None:
    """All five blocks are held, so the sixth fails, and nothing of the attempt stays held."""
    with (
        hold_ports(500, first=FIRST, last=LAST),
        pytest.raises(TargetError, match=rf"no block of 100 free ports in {FIRST}\.\.{LAST} .*holdfast status"),
    ):
        hold_ports(1, first=FIRST, last=LAST)
    with pytest.raises(TargetError, match="wanted 501 ports"):
        hold_ports(501, first=FIRST, last=LAST)
    with hold_ports(500, first=FIRST, last=LAST):
        pass


def test_a_block_is_held_until_the_last_who_has_it_is_dead() -> None:
    """A child inherits the lock; ours is let go; the child is killed."""
    ports = hold_ports(1, first=FIRST, last=LAST)
    port = ports.take()
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal; print(flush=True); signal.alarm(60); signal.pause()"],
        pass_fds=ports.lock_fds,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        ports.release()
        with hold_ports(1, first=FIRST, last=LAST) as others:
            assert others.take() >= port + BLOCK_SIZE
        os.kill(child.pid, signal.SIGKILL)
    with hold_ports(1, first=FIRST, last=LAST) as others:
        assert others.take() == port
