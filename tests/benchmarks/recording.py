"""What recording and judging a history costs."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from metrics.history import OK, Recorder, seal
from tests.benchmarks.measure import Figure

_OPERATIONS = 200_000


def measure_recording() -> Iterator[Figure]:
    """Time for one operation (two rows): recorded, and sealed; beside writing the same as JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        recorded_s = _record(run_dir)
        json_s = _write_json_lines(run_dir / "plain.ndjson")
        started = time.perf_counter()
        seal(run_dir, {"faults": (0, 1 << 62)})
        sealed_s = time.perf_counter() - started
    yield Figure(
        name="record one operation",
        value=recorded_s / _OPERATIONS * 1e6,
        unit="us",
        compared_to="two JSON lines, unchecked",
        ratio=recorded_s / json_s,
    )
    yield Figure(name="seal a history of 200,000 operations", value=sealed_s, unit="s")


def _record(run_dir: Path) -> float:
    recorder = Recorder(run_dir, name="bench", writer=1)
    started = time.perf_counter()
    for number in range(_OPERATIONS):
        operation = recorder.invoke(
            "deposit", process=1, intended_ns=number, key=f"key-{number}", value={"amount": number}
        )
        recorder.complete(operation, OK, value={"balance": number}, node="portal-1@v1", attempt=1)
    recorder.close()
    return time.perf_counter() - started


def _write_json_lines(path: Path) -> float:
    started = time.perf_counter()
    with path.open("w") as file:
        for number in range(_OPERATIONS):
            for kind in ("invoke", "ok"):
                row = [number, time.monotonic_ns(), number, 1, kind, "deposit", f"key-{number}", {"amount": number}]
                file.write(json.dumps(row) + "\n")
    return time.perf_counter() - started
