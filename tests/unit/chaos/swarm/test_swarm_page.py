"""The swarm that docs/swarm.md shows can be used as it stands, on the reference platform."""

import re
from pathlib import Path

from chaos.swarm.file import read_swarm

ROOT = Path(__file__).resolve().parents[4]


def test_the_file_of_the_page_is_valid(tmp_path: Path) -> None:
    """Read with the platform's topology in the place of the one it names, beside an empty locustfile."""
    (written,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "swarm.md").read_text(), flags=re.DOTALL)
    (tmp_path / "swarm.yaml").write_text(written)
    (tmp_path / "users.py").touch()

    swarm = read_swarm(tmp_path / "swarm.yaml", target=ROOT / "system_under_test" / "topology.yaml")

    assert [kind.label for kind in swarm.kinds] == ["kill", "pause portal"]
    assert swarm.experiment(1)[0].plan.timeline
