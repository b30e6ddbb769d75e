"""Which folders a run may remove: never one that is not surely its own. Nothing is removed here, only asked."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.roster import OUTSIDE_FILE, outside_folders

RUN_ID = "run-of-this-test"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A marked throw-away folder directly in the system's temporary one."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    (folder / f".holdfast-{RUN_ID}").touch()
    yield folder
    shutil.rmtree(folder)


def listed(run_dir: Path, *lines: str) -> tuple[Path, ...]:
    """What a listing with these lines makes removable."""
    data = run_dir / "data" / "base-1"
    data.mkdir(parents=True)
    (data / OUTSIDE_FILE).write_text("\n".join(lines))
    return outside_folders(run_dir, RUN_ID)


def test_a_marked_folder_in_a_temporary_one_is_ours(tmp_path: Path, temporary: Path) -> None:
    """Both conditions hold."""
    assert listed(tmp_path, f"{temporary}", "") == (temporary,)


def test_the_mark_of_another_run_is_not_ours(tmp_path: Path, temporary: Path) -> None:
    """It lies in the right place with the wrong mark."""
    (temporary / f".holdfast-{RUN_ID}").rename(temporary / ".holdfast-another")
    assert listed(tmp_path, str(temporary)) == ()


PLACES = ["/", "/tmp", "/etc", "/home", "/usr", ".", "", "/tmp/..", "/proc", "/var/tmp"]  # noqa: S108  # only asked


@pytest.mark.parametrize("place", PLACES)
def test_places_of_the_system_are_never_ours(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if every file there were a mark of ours, a place that is not below a temporary folder is refused."""
    monkeypatch.setattr(Path, "is_file", lambda _path: True)
    assert listed(tmp_path, place) == ()


def test_marked_folders_elsewhere_and_links_are_never_ours(tmp_path: Path, temporary: Path) -> None:
    """A marked folder deeper down, a link to one, and a path that climbs."""
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    (deeper / f".holdfast-{RUN_ID}").touch()
    link = Path(tempfile.gettempdir()) / f"{temporary.name}-link"
    link.symlink_to(deeper)
    try:
        assert listed(tmp_path, str(deeper), str(link), f"{temporary}/../{temporary.name}") == ()
    finally:
        link.unlink()
