"""A fault in Python to begin with: copy it beside an experiment and write `python: {call: "outage.py:Outage"}`."""

import os
from pathlib import Path


class Outage:
    """Each method runs in a process of its own: what one has to know from another it reads back from the system."""

    def __init__(self, *, mark: str = "outage") -> None:
        self._mark = Path(os.environ["HOLDFAST_RUN_DIR"], mark)

    def inject(self) -> None:
        """Does the harm."""
        self._mark.touch()

    def effect(self) -> bool:
        """Looks whether the harm is in force."""
        return self._mark.exists()

    def heal(self) -> None:
        """Puts things right; harmless when they are."""
        self._mark.unlink(missing_ok=True)
