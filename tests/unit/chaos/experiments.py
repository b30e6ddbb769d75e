"""Builds experiments for tests from a few lines of YAML."""

from pathlib import Path

from chaos.experiment import Experiment, read_experiment
from chaos.faults.fault import RoleShape

ROLES = {
    "portal": RoleShape(name="portal", zones={f"portal-{n}": "ab"[(n - 1) % 2] for n in range(1, 5)}),
    "db": RoleShape(name="db", zones={"db-1": None}),
    "legacy": RoleShape(name="legacy", zones={"legacy-1": None}, external=True),
}

HEAD = """\
title: a test
target: topology.yaml
phases: {warmup: 1s, baseline: 1s, faults: 30s, recovery: 1s}
expect:
  - failed: {max: 0}
"""


def write(folder: Path, text: str) -> Path:
    """The file `experiment.yaml` with this text."""
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def experiment(folder: Path, faults: str, head: str = HEAD) -> Experiment:
    """An experiment with these entries under `faults`."""
    return read_experiment(write(folder, f"{head}faults:\n{faults}"))
