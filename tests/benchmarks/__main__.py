"""`make bench`: what the project costs, measured in one go on this machine; a table and `bench.json`.

Figures that depend on the machine stand beside something measured in the same run, as a ratio.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.accrual import measure_accrual
from tests.benchmarks.intake import measure_intake
from tests.benchmarks.measure import Figure
from tests.benchmarks.platform import measure_a_run
from tests.benchmarks.recording import measure_recording
from tests.benchmarks.settlement import measure_settlement
from tests.benchmarks.verification import measure_verification

_MEASUREMENTS: tuple[Callable[[], Iterator[Figure]], ...] = (
    measure_recording,
    measure_intake,
    measure_settlement,
    measure_verification,
    measure_accrual,
    measure_a_run,
)


def main() -> int:
    """Measures everything, prints the table and writes `bench.json` into the current folder."""
    table = Table("figure", "value", "unit", "compared to", "ratio")
    figures: list[Figure] = []
    for measurement in _MEASUREMENTS:
        for figure in measurement():
            figures.append(figure)
            ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
            table.add_row(figure.name, f"{figure.value:.4g}", figure.unit, figure.compared_to or "", ratio)
    Console().print(table)
    Path("bench.json").write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
