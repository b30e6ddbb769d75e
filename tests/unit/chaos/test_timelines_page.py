"""What the page on timelines shows is what the reader and the planner understand."""

import re
from pathlib import Path

from chaos.experiment import read_experiment
from chaos.faults.fault import RoleShape
from chaos.planner import plan
from tests.unit.chaos.experiments import ROLES, write

PAGE = Path(__file__).resolve().parents[3] / "docs" / "timelines.md"
HEAD = """\
title: a page
target: topology.yaml
phases: {faults: 2m}
load: {probe: {path: /}}
expect: [{failed: {max: 0}}]
"""


def test_the_files_that_the_page_shows_are_valid_and_can_be_planned(tmp_path: Path) -> None:
    """All entries of the page in one experiment, on a target that has the roles and names they use."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    text = HEAD + "".join(blocks)
    roles = {**ROLES, "settlement": RoleShape(name="settlement", zones={"settlement-1": None, "settlement-2": None})}
    read = read_experiment(write(tmp_path, text))

    assert read.written.problems() == []
    assert [unit.kind for unit in read.units].count("single") == 5
    assert len(read.guardrails) == 6
    # Not the blast radius and the crowd together: the page shows every form once, not one sensible experiment.
    alone = [read_experiment(write(tmp_path, f"{HEAD}{only}")) for only in _each_entry(blocks[0])]
    names = {"reading": ["queue_depth", "leader.settlement"], "action": ["maintenance.start"]}
    assert sum(len(plan(one, roles, 1, names=names).timeline) for one in alone) > 10


def _each_entry(block: str) -> list[str]:
    """One `faults` a time, with the named window before what comes after it."""
    head, *entries = re.split(r"^(?=  - )", block, flags=re.MULTILINE)
    window = next(entry for entry in entries if "as: window" in entry)
    faults = head[head.index("faults:") :]
    return [faults + (window if "after:" in entry else "") + entry for entry in entries]
