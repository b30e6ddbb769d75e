"""The experiments that come with Holdfast, by name."""

import difflib
from pathlib import Path

from chaos.errors import ExperimentError

FOLDER = Path(__file__).resolve().parent.parent / "experiments"


def shipped() -> dict[str, Path]:
    """Name -> file, in alphabetical order."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_experiment(text: str) -> Path:
    """The file that `text` means: a path, or the name of a shipped experiment.

    Raises:
        ExperimentError: neither, with the nearest name.
    """
    known = shipped()
    if text in known:
        return known[text]
    path = Path(text)
    if path.exists() or path.suffix in {".yaml", ".yml"} or "/" in text:
        return path
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ExperimentError([f"{text}: no such file, and no shipped experiment; {hint}Known: {', '.join(known)}"])
