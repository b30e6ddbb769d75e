"""What a run of the reference platform costs: start-up, memory, CPU, and what faults do to latency."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from metrics.evidence import load
from tests.benchmarks.measure import Figure, descendants, proportional_set_size_bytes

_PROJECT = Path(__file__).resolve().parents[2]
_HOLDFAST = Path(sys.executable).with_name("holdfast")
_FRAMEWORK = ("watchdog", "prober", "load")
_LARGEST: Final = 4
_EXPERIMENT: Mapping[str, Any] = {
    "title": "what a run costs",
    "target": str(_PROJECT / "system_under_test" / "topology.yaml"),
    "seed": 1,
    "load": {"locustfile": str(_PROJECT / "loadtests" / "savers.py"), "arrivals": "300/s"},
    "phases": {"warmup": "5s", "baseline": "10s", "faults": "10s", "recovery": "2s", "quiet": "20s"},
    "faults": [{"kill": {"role": "portal", "count": 1, "restart_after": "2s"}, "every": "5s"}],
    "expect": [{"failed": {"max": 0}}],
}


def measure_a_run() -> Iterator[Figure]:
    """One run at 300 requests a second, with its processes weighed at rest and under load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = folder / "experiment.yaml"
        experiment.write_text(yaml.safe_dump(dict(_EXPERIMENT)))
        runner = subprocess.Popen(
            [_HOLDFAST, "run", experiment, "--out", folder / "runs"], stdout=subprocess.DEVNULL, cwd=folder
        )
        try:
            run_dir = _run_dir(folder / "runs", runner)
            _await_event(run_dir, runner, kind="load.started")
            processes = _processes(run_dir)
            yield from _platform_at_rest({name: pid for name, pid in processes.items() if name not in _FRAMEWORK})
            _await_event(run_dir, runner, kind="phase.started", phase="faults")
            framework = [runner.pid, *(_processes(run_dir)[one] for one in _FRAMEWORK)]
            weighed = {pid: proportional_set_size_bytes([pid]) for pid in framework}
            yield Figure(name="framework under load, PSS", value=sum(weighed.values()) / 1e6, unit="MB")
            for pid, what in zip(framework, ("runner", *_FRAMEWORK), strict=True):
                yield Figure(name=f"  of it {what}", value=weighed[pid] / 1e6, unit="MB")
            yield from _cpu_per_request(run_dir, runner, _processes(run_dir)["load"])
            runner.wait(timeout=120)
        finally:
            if runner.poll() is None:
                runner.terminate()
                runner.wait(timeout=30)
        yield from _from_history(run_dir)


def _platform_at_rest(pids: Mapping[str, int]) -> Iterator[Figure]:
    """All its processes, those of PostgreSQL and Envoy among them, and of it each role that takes much."""
    by_role: Counter[str] = Counter()
    for name, pid in pids.items():
        by_role[name.rstrip("-0123456789")] += proportional_set_size_bytes(descendants(pid))
    yield Figure(name="platform at rest, PSS", value=by_role.total() / 1e6, unit="MB", at_most=900)
    for role, size_bytes in by_role.most_common(_LARGEST):
        yield Figure(name=f"  of it {role}", value=size_bytes / 1e6, unit="MB")


def _cpu_per_request(run_dir: Path, runner: "subprocess.Popen[bytes]", load: int) -> Iterator[Figure]:
    used_before, done_before = _cpu_s(load), _completed(run_dir)
    _await_event(run_dir, runner, kind="phase.started", phase="recovery")
    used, done = _cpu_s(load) - used_before, _completed(run_dir) - done_before
    yield Figure(name="load generator, CPU per request at 300/s", value=used / done * 1e6, unit="us")


def _from_history(run_dir: Path) -> Iterator[Figure]:
    started = time.perf_counter()
    evidence = load(run_dir)
    loaded_s = time.perf_counter() - started
    begun_ns = next(event["t_ns"] for event in _events(run_dir) if event["kind"] == "run.started")
    operations = evidence.operations
    answered_ns = operations.end_ns[operations.ok].min()
    yield Figure(name="from nothing to the first answered request", value=(answered_ns - begun_ns) / 1e9, unit="s")
    p99_ms = {}
    for phase in ("baseline", "faults"):
        chosen = operations.clients & operations.in_phases([phase])
        p99_ms[phase] = float(np.quantile(operations.latency_s[chosen], 0.99)) * 1e3
    yield Figure(name="p99 from intended start, baseline", value=p99_ms["baseline"], unit="ms")
    yield Figure(
        name="p99 from intended start, nodes killed",
        value=p99_ms["faults"],
        unit="ms",
        compared_to="baseline",
        ratio=p99_ms["faults"] / p99_ms["baseline"],
    )
    yield Figure(name="read the evidence of that run", value=loaded_s, unit="s")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _completed(run_dir: Path) -> int:
    counts = [
        event["data"]["completed"]
        for event in _events(run_dir)
        if event["kind"] == "load.status" and event["data"]["name"] == "load"
    ]
    return int(counts[-1])


def _events(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "events.ndjson").read_text().splitlines()]


def _processes(run_dir: Path) -> dict[str, int]:
    lines = (run_dir / "processes.ndjson").read_text().splitlines()
    return {entry["name"]: entry["pid"] for entry in map(json.loads, lines)}


def _run_dir(runs: Path, runner: "subprocess.Popen[bytes]") -> Path:
    while runner.poll() is None:
        for events in runs.glob("*/events.ndjson"):
            return events.parent.resolve()
        time.sleep(0.02)
    raise RuntimeError(f"the run ended with {runner.returncode} before it began")


def _await_event(run_dir: Path, runner: "subprocess.Popen[bytes]", *, kind: str, **data: object) -> None:
    while runner.poll() is None:
        for event in _events(run_dir):
            if event["kind"] == kind and data.items() <= event["data"].items():
                return
        time.sleep(0.05)
    raise RuntimeError(f"the run ended with {runner.returncode} before {kind}")
