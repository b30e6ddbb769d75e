"""What the page on faults inside a database and a balancer shows can be written in an experiment."""

import re
from pathlib import Path

import yaml

from chaos.preparing import prepare

PROJECT = Path(__file__).parents[3]
PAGE = PROJECT / "docs" / "faults-inside.md"


def test_every_fault_on_the_page_plays_on_the_reference_platform(tmp_path: Path) -> None:
    """All of them, one after the other, planned on its topology."""
    shown = [yaml.safe_load(block)["faults"] for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]
    entries = [fault for block in shown for fault in block]
    faults = [{**fault, "at": f"{number * 6}s"} for number, fault in enumerate(entries)]
    assert len(faults) > 5
    written = {
        "title": "the page",
        "target": str(PROJECT / "system_under_test" / "topology.yaml"),
        "load": {"probe": {"path": "/v1/status"}},
        "phases": {"faults": "90s"},
        "faults": faults,
        "expect": [{"failed": {"max": 0}}],
    }
    path = tmp_path / "page.yaml"
    path.write_text(yaml.safe_dump(written))
    assert len(prepare(path, seed=1).plan.timeline) == len(faults)
