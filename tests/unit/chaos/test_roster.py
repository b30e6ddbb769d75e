"""What the folder of a run tells whoever clears up: all its processes, and which folders are surely its own."""

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.processes import myself
from chaos.roster import OUTSIDE_FILE, ROSTER_FILE, Roster, outside_folders, read_guarded

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


def test_a_line_that_did_not_fit_leaves_nothing_behind_that_spoils_the_next_one(tmp_path: Path) -> None:
    """The limit on the size of files lets half a line through, as a disk does that runs full; then there is room."""
    roster = Roster(tmp_path, run_id=RUN_ID)
    roster.add("web-1", myself())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size_bytes = (tmp_path / ROSTER_FILE).stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 10, hard))
        with pytest.raises(OSError, match="only part of a line could be written"):
            roster.add("web-2", myself())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / ROSTER_FILE).stat().st_size == size_bytes
    roster.add("web-3", myself())
    roster.close()

    found = read_guarded(tmp_path)
    assert found is not None
    assert [it.name for it in found.started] == ["web-1", "web-3"]
