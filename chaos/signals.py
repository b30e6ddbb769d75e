"""Signals by the names that files use: `TERM`, `INT`, `CONT`."""

import signal


def named(name: str) -> signal.Signals:
    """The signal called `name`, with or without SIG; files are checked when they are read."""
    return signal.Signals[f"SIG{name.removeprefix('SIG')}"]
