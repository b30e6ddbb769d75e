"""A measured figure, and how memory is read."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table; `ratio` is `value` over the value of what it is compared to, measured in the same run.

    `at_least` and `at_most` are what the platform is meant to reach on two cores, in the figure's unit; None: nothing.
    """

    name: str
    value: float
    unit: str
    compared_to: str | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """What it is meant to reach, in words; empty where nothing is."""
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return ", ".join(f"{words} {bound:,.4g}" for words, bound in bounds if bound is not None)

    @property
    def met(self) -> bool | None:
        """Whether it reaches that; None where nothing is meant."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def as_json(self) -> dict[str, Any]:
        """The figure as it stands in `bench.json`."""
        return asdict(self) | {"met": self.met}


def proportional_set_size_bytes(pids: Iterable[int]) -> int:
    """Memory of the processes together, each shared page counted once among its users (PSS); ended ones have none."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def descendants(pid: int) -> list[int]:
    """The process and everything below it, as /proc shows it now."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found.extend(map(int, (task / "children").read_text().split()))
    return found
