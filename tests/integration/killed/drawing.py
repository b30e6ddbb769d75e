"""Experiments of as many kinds of fault at a time as go together, drawn by a seed."""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from chaos.errors import ExperimentError
from chaos.faults.fault import FAULTS
from chaos.preparing import prepare

TARGET = Path(__file__).parent / "topology.yaml"
HELD = "60s"
"""Longer than any runner here lives."""
AT_A_TIME = 6
_PHASES = {"warmup": "100ms", "baseline": "300ms", "faults": "90s", "recovery": "100ms", "quiet": "5s"}


def entry(name: str, *, held: str = HELD, at_ms: int = 0) -> dict[str, Any]:
    """A fault of its own example, but held for another time, and only on some of those that its example takes."""
    example = {key: held if value == "3s" else value for key, value in FAULTS[name].example.items()}
    if example.get("all") and example.get("role") == "portal":
        example = {key: value for key, value in example.items() if key != "all"} | {"count": 1}
    return {name: example, "at": f"{at_ms}ms"}


def write(path: Path, faults: Sequence[dict[str, Any]], *, phases: dict[str, str] | None = None) -> Path:
    """An experiment with these faults; JSON is YAML."""
    content = {
        "title": "faults of many kinds",
        "target": str(TARGET),
        "seed": 1,
        "phases": {**_PHASES, **(phases or {})},
        "faults": list(faults),
        "expect": [{"longest_gap": {"max": "300s"}}],
    }
    path.write_text(json.dumps(content))
    return path


def fits(path: Path, faults: Sequence[dict[str, Any]]) -> bool:
    """Whether these faults can play side by side on the system, as the planner sees it."""
    try:
        prepare(write(path, faults))
    except ExperimentError:
        return False
    return True


def draw(path: Path, number: int) -> tuple[str, ...]:
    """Writes the experiment of that number; the kinds that play in it.

    Each kind leads in its turn, so that none is left to chance; who plays beside it is drawn.
    """
    rng = random.Random(number)  # noqa: S311
    kinds = list(FAULTS)
    beside = rng.sample(kinds, len(kinds))
    chosen: list[dict[str, Any]] = []
    for name in dict.fromkeys([kinds[number % len(kinds)], *beside]):
        more = [*chosen, entry(name, at_ms=rng.randrange(600))]
        if fits(path, more):
            chosen = more
        if len(chosen) == AT_A_TIME:
            break
    write(path, chosen)
    return tuple(_kinds_of(chosen))


def every_kind(path: Path) -> tuple[str, ...]:
    """Writes an experiment that names every kind which fits at all, one after the other; these kinds."""
    fitting = [name for name in FAULTS if fits(path, [entry(name, held="1s")])]
    turns = [entry(name, held="1s", at_ms=number * 60_000) for number, name in enumerate(fitting)]
    write(path, turns, phases={"faults": f"{len(turns) * 60 + 60}s"})
    return tuple(fitting)


def _kinds_of(faults: Iterable[dict[str, Any]]) -> list[str]:
    return [next(name for name in one if name != "at") for one in faults]
