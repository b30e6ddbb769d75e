"""No root is needed: the whole main job as a user without any rights."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import PROJECT, left_of, savings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NOBODY = 65534


@pytest.fixture
def their_folder() -> Iterator[Path]:
    """A folder of the ordinary user's own; pytest's are closed to everybody but root."""
    with tempfile.TemporaryDirectory(prefix="holdfast-nobody-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder


def _as_ordinary_user(argv: list[str | Path], *, folder: Path, within_s: float) -> subprocess.CompletedProcess[str]:
    ids: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    packages = sysconfig.get_path("purelib")
    return subprocess.run(
        argv,
        cwd=folder,
        # Whatever interpreter they can read finds the packages that are installed here.
        env={"PATH": os.defpath, "HOME": str(folder), "PYTHONPATH": f"{PROJECT}:{packages}", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        **ids,
    )


def _their_python(folder: Path) -> Path:
    """An interpreter of our version that an ordinary user may run: root's own may lie in root's folder."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [
        Path(sys.executable).resolve(),
        *(Path(found) for found in [shutil.which(version, path=os.defpath)] if found),
    ]
    for candidate in candidates:
        try:
            tried = _as_ordinary_user([candidate, "-c", "import chaos, pyarrow"], folder=folder, within_s=30)
        except PermissionError:
            continue
        if tried.returncode == 0:
            return candidate
    pytest.skip(f"no {version} with our packages that an ordinary user may read, among {candidates}")


def test_an_ordinary_user_kills_nodes_and_passes(their_folder: Path) -> None:
    """As root the test gives up all rights first; one kill, every promise of the short run kept, nothing left."""
    python = _their_python(their_folder)
    experiment = savings(
        faults=[{"kill": {"role": "portal", "count": 1, "restart_after": "1s"}}],
        expect=[{"failed": {"max": 0}}, {"exactly_once": {"dump": "intake", "operations": ["redeem"]}}],
        seconds=3,
        arrivals="100/s",
    )
    path = their_folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    program = "import sys; from chaos.cli import main; sys.exit(main())"

    run = _as_ordinary_user(
        [python, "-c", program, "run", path, "--out", their_folder / "runs"], folder=their_folder, within_s=90
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert left_of(their_folder / "runs") == []
