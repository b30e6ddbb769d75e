"""What the README shows as files can be used as files."""

import re
from pathlib import Path

import pytest

from chaos.preparing import prepare

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
    ready = prepare(folder / "experiment.yaml")

    assert {name for one in ready.plan.timeline for name in one.instances} == {"api-1", "api-2"}
    assert ready.topology.path == folder / "topology.yaml"
