"""A measured figure, and how memory is read."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table; `ratio` is `value` over the value of what it is compared to, measured in the same run."""

    name: str
    value: float
    unit: str
    compared_to: str | None = None
    ratio: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The figure as it stands in `bench.json`."""
        return asdict(self)


def proportional_set_size_bytes(pids: Iterable[int]) -> int:
    """Memory of the processes together, each shared page counted once among its users (PSS)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def descendants(pid: int) -> list[int]:
    """The process and everything below it, as /proc shows it now."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found.extend(map(int, (task / "children").read_text().split()))
    return found
