"""Evidence made from rows in memory, where a test runs too often to write files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metrics.dumps import LEDGER, Dump
from metrics.evidence import Ending, Evidence
from metrics.history import Row
from metrics.operations import Columns, pair


def evidence_of(
    rows: Sequence[Row], *, dump: Sequence[dict[str, Any]] | None = None, **phases: tuple[float, float]
) -> Evidence:
    """A run that was completed, with these phases in seconds and a dump called `ledger`."""
    spans = {name: (round(start * 1e9), round(end * 1e9)) for name, (start, end) in phases.items()}
    operations, nonsense = pair(Columns.of_rows(rows), spans)
    assert not nonsense
    dumps = {} if dump is None else {"ledger": Dump(name="ledger", schema=LEDGER, rows=dump)}
    return Evidence(
        run_dir=Path(),
        run={},
        plan={},
        events=(),
        phases=spans,
        operations=operations,
        faults=(),
        dumps=dumps,
        readings={},
        hiccups=(),
        loads={},
        ending=Ending(outcome="completed", signal=None, left=()),
        problems={},
    )
