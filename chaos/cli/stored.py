"""The folder of a run that the user names."""

from pathlib import Path

from chaos.errors import ExperimentError


def find_run(text: str, runs_dir: Path) -> Path:
    """The folder that `text` means: a run's folder, its name below the folder of the runs, or `latest`.

    Raises:
        ExperimentError: there is no run.
    """
    folder = Path(text) if Path(text).is_dir() else runs_dir / text
    if not (folder / "run.json").is_file() and not (folder / "events.ndjson").is_file():
        raise ExperimentError([f"{folder} is no folder of a run; `holdfast runs` lists them"])
    return folder
