"""`make bench`: what the project costs, measured in one go on this machine; a table and `bench.json`.

    python -m tests.benchmarks [--large] [NAME ...]

Figures that depend on the machine stand beside something measured in the same run, as a ratio. What the platform is
meant to reach on two cores stands beside what it reached; whatever else the machine was busy with counts against it,
so its load average before the start is part of the result.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.accrual import measure_accrual
from tests.benchmarks.intake import measure_intake
from tests.benchmarks.measure import Figure
from tests.benchmarks.platform import measure_a_run
from tests.benchmarks.proxy import measure_proxy
from tests.benchmarks.recording import measure_recording
from tests.benchmarks.settlement import measure_settlement
from tests.benchmarks.verification import measure_verification
from tests.benchmarks.window import measure_window

_NAMES: Final = ("recording", "intake", "settlement", "verification", "accrual", "window", "proxy", "run")
_WIDTH: Final = 170
"""Where the output goes into a file: nothing is cut off."""
_MARK: Final = {None: "", True: "yes", False: "NO"}


def main() -> int:
    """Measures everything, or what is named, prints the table and writes `bench.json` into the current folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure what the project costs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of {', '.join(_NAMES)}")
    parser.add_argument("--large", action="store_true", help="a million redemptions and accounts, too: some minutes")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(_NAMES)):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(_NAMES)}")
    figures = list(_figures(options.names or _NAMES, large=options.large))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(_table(figures))
    Path("bench.json").write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    return 0


def _figures(names: list[str] | tuple[str, ...], *, large: bool) -> Iterator[Figure]:
    measurements: dict[str, Callable[[], Iterator[Figure]]] = {
        "recording": measure_recording,
        "intake": measure_intake,
        "settlement": partial(measure_settlement, large=large),
        "verification": measure_verification,
        "accrual": partial(measure_accrual, large=large),
        "window": measure_window,
        "proxy": measure_proxy,
        "run": measure_a_run,
    }
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    yield Figure(
        name="load average before the start", value=load, unit="tasks", compared_to=f"{cores} cores", ratio=load / cores
    )
    for name in _NAMES:
        if name in names:
            yield from measurements[name]()


def _table(figures: list[Figure]) -> Table:
    table = Table("figure", "value", "unit", "compared to", "ratio", "target", "met")
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        compared_to = figure.compared_to or ""
        table.add_row(
            figure.name, f"{figure.value:.4g}", figure.unit, compared_to, ratio, figure.target, _MARK[figure.met]
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
