"""Shared memory that a killed process left is removed, and nobody else's."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from chaos.processes import Identity, identify
from chaos.shared_memory import Segment, orphaned_by, remove_orphaned, segments

CREATE = """
import ctypes, signal
signal.alarm(60)  # should the test itself be killed
libc = ctypes.CDLL(None)
print(libc.shmget(0, 4096, 0o1600), flush=True)
signal.pause()
"""


@pytest.fixture
def creator() -> Iterator[tuple[Identity, int]]:
    """A process that made a segment and was killed; whatever a test does, the segment is gone afterwards."""
    process = subprocess.Popen([sys.executable, "-c", CREATE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    identity = identify(process.pid)
    assert identity is not None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    yield identity, number
    remove_orphaned([identity])


def _with(number: int) -> list[Segment]:
    return [segment for segment in segments() if segment.number == number]


def test_what_a_killed_process_left_is_removed(creator: tuple[Identity, int]) -> None:
    """A real segment of a real process that died by SIGKILL."""
    identity, number = creator

    assert [segment.number for segment in orphaned_by([identity])] == [number]
    assert remove_orphaned([identity]) == ()
    assert _with(number) == []


def test_another_process_that_had_the_pid_before_is_not_robbed(creator: tuple[Identity, int]) -> None:
    """Our process of that pid started an hour after the segment was made, so it cannot be ours."""
    identity, number = creator
    later = replace(identity, start_ticks=identity.start_ticks + 360_000)

    assert remove_orphaned([later]) == ()
    assert len(_with(number)) == 1


def test_what_other_processes_made_stays(creator: tuple[Identity, int]) -> None:
    """The run started other processes only."""
    identity, number = creator

    assert remove_orphaned([replace(identity, pid=1)]) == ()
    assert len(_with(number)) == 1
