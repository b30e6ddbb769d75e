"""How a launcher hands on what others need to reach it: one JSON object in a file that appears whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_ready_file(path: Path, outputs: Mapping[str, str]) -> None:
    """Writes `outputs` to `path`, readable by its owner only because addresses hold passwords."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(dict(outputs), file)
    partial.replace(path)
