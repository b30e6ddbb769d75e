"""What the README shows as files can be used as files."""

import re
from pathlib import Path

import pytest

from chaos.experiment import load_experiment
from chaos.outline import shapes
from chaos.planner import plan
from chaos.targets.topology import load_topology

README = Path(__file__).resolve().parents[3] / "README.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The two files of "Your own system", beside an empty locustfile."""
    topology, experiment = re.findall(r"```yaml\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (tmp_path / "topology.yaml").write_text(topology)
    (tmp_path / "experiment.yaml").write_text(experiment)
    (tmp_path / "locustfile.py").touch()
    return tmp_path


def test_the_files_that_the_readme_shows_are_valid_and_fit_together(folder: Path) -> None:
    """Both are read and planned; the kills hit instances that the topology has."""
    topology = load_topology(folder / "topology.yaml", {})
    experiment = load_experiment(folder / "experiment.yaml")
    assert topology.file.probe is not None
    planned = plan(experiment, shapes(topology), 1, probe_path=topology.file.probe.path)

    assert {name for one in planned.timeline for name in one.instances} == {"api-1", "api-2"}
    assert experiment.target == folder / "topology.yaml"
