"""The hiccup meter."""

import os
import queue
import signal
import subprocess
import sys
import time

from loadtests.hiccup import FREEZE_NS, HiccupMeter

METER = """
import sys, threading
from loadtests.hiccup import HiccupMeter
HiccupMeter(lambda end_ns, stalled_ns: print(end_ns, stalled_ns, flush=True)).start()
print("watching", flush=True)
sys.stdin.read()
"""


def test_a_frozen_process_is_told_with_its_time_and_length() -> None:
    """A process that watches is stopped by signal for 200 ms: one freeze of at least that, ending when it went on."""
    with subprocess.Popen(
        [sys.executable, "-c", METER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        os.kill(process.pid, signal.SIGSTOP)
        stopped_ns = time.monotonic_ns()
        time.sleep(0.2)  # the length of the freeze is what is measured
        thawed_ns = time.monotonic_ns()
        os.kill(process.pid, signal.SIGCONT)
        freezes: list[tuple[int, ...]] = []
        while not freezes or freezes[-1][0] < thawed_ns:  # a busy machine may add freezes of its own before
            end_ns, stalled_ns = (int(part) for part in process.stdout.readline().split())
            freezes.append((end_ns, stalled_ns))
        process.stdin.close()
        end_ns, stalled_ns = freezes[-1]
        assert end_ns >= thawed_ns
        assert end_ns - stalled_ns <= stopped_ns + FREEZE_NS
        assert stalled_ns >= thawed_ns - stopped_ns


def test_after_stop_nothing_is_reported() -> None:
    """The thread has ended when stop returns."""
    freezes: queue.SimpleQueue[int] = queue.SimpleQueue()
    meter = HiccupMeter(lambda _end_ns, stalled_ns: freezes.put(stalled_ns))
    meter.start()
    meter.stop()
    assert not meter._thread.is_alive()
