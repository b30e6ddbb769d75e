"""The only module that spawns or signals processes; a process is known by pid and start time, never by pid alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process for sure: pids are used again, a pid with its start time (clock ticks since boot) is not."""

    pid: int
    start_ticks: int
