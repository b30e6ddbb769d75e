"""What cannot be asked of a fault is told with its line when the experiment is planned, and nothing is touched."""

from pathlib import Path

import pytest

from chaos.errors import ExperimentError
from chaos.planner import plan
from tests.unit.chaos.experiments import HEAD, ROLES, experiment

LINE = HEAD.count("\n") + 2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("crash_loop: {role: portal, for: 10}", "crash_loop.for: expected a duration"),
        ("crash_loop: {role: portal, times: 1}", "crash_loop.times: expected at least 2"),
        ("crash_loop: {role: nobody}", "the target has no role 'nobody'"),
        ("crash_loop: {role: portal, count: 9}", "has 4 instances, not 9"),
        ("restart_storm: {role: portal, all: true, how: fire}", "restart_storm.how: unknown value 'fire'"),
        ("restart_storm: {role: portal, zone: z}", "has nobody in zone 'z'"),
        ("restart_storm: {role: portal, count: 4}", "write `all: true` if it is meant"),
        ("slow_start: {role: portal, by: 2 weeks}", "slow_start.by: expected a duration"),
        ("slow_start: {role: portal, by: 2h}", "slow_start.by: expected at most 600"),
        ("deploy: {role: portal, set: {env.V: v2}, strategy: big_bang}", "deploy.strategy: unknown value 'big_bang'"),
        ("deploy: {role: portal, set: {env.V: v2}, hold: 1s}", "hold: a deploy that is rolling never stands still"),
        ("deploy: {role: portal, set: {env.V: v2}, then: finish}", "then: only `strategy: half` has two ways to go on"),
        ("deploy: {role: portal, set: {env.V: v2}, strategy: half, hold: 1h}", "deploy.hold: expected at most 300"),
        ("cpu_hog: {share: 20}", "cpu_hog.share: expected a share"),
        ("cpu_hog: {cores: 2000}", "cpu_hog.cores: expected at most 1024"),
        ("cpu_hog: {role: portal}", "cpu_hog.role: unknown key"),
        ("memory_hog: {size: 512}", "memory_hog.size: expected a size such as 64KiB, 256MiB or 1GB, got 512"),
        ("memory_hog: {size: 100TiB}", "memory_hog.size: expected at most"),
        ("memory_hog: {for: 1s}", "memory_hog.size: required, but missing"),
        ("fd_exhaustion: {role: portal, leave: -1}", "fd_exhaustion.leave: expected at least 0"),
        ("fd_exhaustion: {role: legacy}", "role 'legacy' is external: its processes are not ours to signal"),
        ("disk_full: {role: portal, size: 4MB/s}", "disk_full.size: expected a size"),
        ("disk_full: {role: portal, size: 1TiB}", "disk_full.size: expected at most"),
        ("disk_full: {role: legacy, size: 4MiB}", "role 'legacy' is external"),
        ("command: {inject: [ls], effect: [ls]}", "command.heal: required, but missing"),
        ("command: {inject: ls, effect: [ls], heal: [ls]}", "command.inject: expected a list"),
        ("command: {inject: [ls], effect: [ls], heal: [no-such-thing]}", "no-such-thing cannot be run"),
        ('python: {call: "gone.py:Outage"}', "python.call: no such file: "),
    ],
    ids=str,
)
def test_a_fault_that_cannot_be_is_told_with_its_line(tmp_path: Path, fault: str, told: str) -> None:
    """Each alone, on four portals in two zones beside somebody else's role."""
    with pytest.raises(ExperimentError) as caught:
        plan(experiment(tmp_path, f"  - {fault}\n"), ROLES, 1, probe_path="/")
    problems = str(caught.value).splitlines()

    assert len(problems) == 1, problems
    assert f":{LINE}: faults.0." in problems[0]
    assert told in problems[0]


def test_paths_in_an_experiment_lie_beside_it(tmp_path: Path) -> None:
    """Whatever the working folder is: the file and the folder of commands are absolute in the plan's fault."""
    (tmp_path / "outage.py").write_text("def outage(step): ...\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "break").write_text("#!/bin/sh\n")
    (tmp_path / "tools" / "break").chmod(0o755)
    text = '  - python: {call: "outage.py:outage"}\n'
    text += "  - command: {inject: [./break], effect: [ls], heal: [ls], folder: tools}\n"
    python, command = (one.fault for one in plan(experiment(tmp_path, text), ROLES, 1, probe_path="/").timeline)

    assert str(python.call) == f"{tmp_path.resolve() / 'outage.py'}:outage"  # type: ignore[attr-defined]
    assert command.folder == (tmp_path / "tools").resolve()  # type: ignore[attr-defined]
