"""Everything works without root: start, freeze, a killed runner, and nothing left."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.processes import every_process
from tests.integration.targets.workshop import Workshop

NOBODY = 65_534
RUNNER = Path(__file__).parent / "runner.py"
REPOSITORY = RUNNER.parents[3]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the ordinary user, in a place that it can reach."""
    path = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir="/tmp"))  # pytest's own is closed to others
    try:
        yield path
    finally:
        shutil.rmtree(path)


def as_nobody(argv: list[str], path: list[str]) -> "subprocess.Popen[bytes]":
    """Starts a program as nobody where we are root, otherwise as ourselves."""
    user = NOBODY if os.getuid() == 0 else None
    extra: list[int] | None = [] if user is not None else None
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(argv, env=env, user=user, group=user, extra_groups=extra, stdout=subprocess.PIPE, cwd="/")


def usable_python(path: list[str]) -> str:
    """A Python of our version that the ordinary user can run with our libraries; skips where there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    reasons = []
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            with as_nobody([candidate, "-c", "import aiohttp, asyncpg, chaos.targets.opening"], path) as process:
                if process.wait() == 0:
                    return candidate
                reasons.append(f"{candidate} cannot import the project")
        except OSError as error:
            reasons.append(f"{candidate}: {error.strerror}")
    pytest.skip(f"no Python that an ordinary user can run here: {'; '.join(reasons)}")


def test_an_ordinary_user_can_run_and_be_killed(folder: Path) -> None:
    """The runner is started as nobody, freezes an instance, and is killed: within 5 s none of its processes lives."""
    # The same places as ours, without an editable install's own hooks.
    path = [str(REPOSITORY), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    python = usable_python(path)
    workshop = Workshop(folder)
    role = {"ready": {"http": "/readyz"}, "count": 2, "env": {"OFFSPRING": 1}}
    topology = workshop.topology({"web": role})
    if os.getuid() == 0:
        for entry in (folder, workshop.runs_dir):
            os.chown(entry, NOBODY, NOBODY)
    with as_nobody([python, str(RUNNER), str(topology), str(workshop.runs_dir), workshop.token], path) as runner:
        assert runner.stdout is not None
        said = json.loads(runner.stdout.readline())
        stats = every_process()
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in said.values()} == {runner_uid()}
        assert stats[said["frozen"]].state == "T"
        runner.kill()
    deadline = time.monotonic() + 5
    while workshop.left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workshop.left() == []


def runner_uid() -> int:
    """Who the runner is."""
    return NOBODY if os.getuid() == 0 else os.getuid()
