"""What the page "Write a fault" shows can be used as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chaos.undo import carry_out
from tests.integration.engine.bench import LIMIT_S, Bench, Ran

PAGE = Path(__file__).resolve().parents[3] / "docs" / "write-a-fault.md"
WITH_PIN = "import pin; from chaos.cli import main; main()"


def shown(language: str, beginning: str) -> str:
    """The block of the page that begins so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return next(str(block) for block in blocks if block.startswith(beginning))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="pinning needs two processors, as the page says")
def test_the_faults_that_the_page_shows_bite_and_heal_and_can_be_undone_by_another_process(bench: Bench) -> None:
    """All three in one run, each in force and healed; the undo step of the last is carried out here again."""
    for name in ("outage.py", "pin.py"):
        (bench.folder / name).write_text(shown("python", f"# {name}"))
    path = bench.write(faults=yaml.safe_load(shown("yaml", "faults:"))["faults"])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(bench.folder), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", WITH_PIN, "run", str(path)],
        cwd=bench.folder, env=env, capture_output=True, text=True, timeout=2 * LIMIT_S, check=False,
    )  # fmt: skip
    ran = Ran(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr, run_dir=bench.latest)

    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert {one["fault_id"]: (one["effect"], one["healed"]) for one in ran.verdict["faults"]} == dict.fromkeys(
        ("command-1", "python-1", "pin-1"), (True, True)
    )
    assert json.loads((ran.run_dir / "plan.json").read_text())["requires"] == {"capabilities": ["two processors"]}
    lines = map(json.loads, (ran.run_dir / "undo.ndjson").read_text().splitlines())
    steps = next(line["steps"] for line in lines if line["fault_id"] == "pin-1" and "steps" in line)
    assert [carry_out({**step, "within_s": LIMIT_S}).startswith("ran ") for step in steps] == [True], (
        "harmless when its process is gone"
    )
