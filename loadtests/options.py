"""Command-line options of the load processes: one clear line and exit 64 for what cannot be used."""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml
from pydantic import TypeAdapter, ValidationError

from loadtests.protocol import EXIT_UNUSABLE
from metrics.arrivals import Arrivals, ArrivalsError, Written, resolve

WRITER_MAX: Final = 65_535
_PATH: Final = re.compile(r"/[\x21-\x7e]*")
_WRITTEN: Final[TypeAdapter[Any]] = TypeAdapter(Written)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class OptionParser(argparse.ArgumentParser):
    """argparse whose usage errors are one line and exit 64, as everywhere in Holdfast."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with `message` on standard error."""
        self.exit(EXIT_UNUSABLE, f"{self.prog}: {message}; see --help\n")


def positive(text: str) -> float:
    """A finite number above 0.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads whole numbers from `low` to `high`, both included."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return read


def arrivals(text: str) -> Arrivals:
    """The schedule in `300/s`, in a mapping such as `{rate: 50/s, surge: {...}}`, or as plan.json has it.

    Files are looked up from the current folder.

    Raises:
        argparse.ArgumentTypeError: with everything that is wrong with it, in one line.
    """
    try:
        data = yaml.safe_load(text) if text.lstrip().startswith("{") else text
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"no mapping as YAML has them: {text!r}") from error
    try:
        if isinstance(data, dict) and "points" in data:
            return Arrivals.from_json(data)
        return resolve(_WRITTEN.validate_python(data), folder=Path.cwd())
    except ValidationError as error:
        problems = (_problem(found) for found in error.errors(include_url=False))
        raise argparse.ArgumentTypeError("; ".join(problems)) from error
    except ArrivalsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _problem(found: Any) -> str:
    where = ".".join(str(part) for part in found["loc"][1:])
    text = found["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def url_path(text: str) -> str:
    """A path on the target, with its query if any.

    Raises:
        argparse.ArgumentTypeError: it does not begin with `/`, or has characters that do not belong on the wire.
    """
    if not _PATH.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a path such as /v1/status, got {text!r}")
    return text


def file_stem(text: str) -> str:
    """A name that a file can carry.

    Raises:
        argparse.ArgumentTypeError: empty, too long, or with other characters than letters, digits, `_`, `.` and `-`.
    """
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, _, . or -, at most 64, got {text!r}")
    return text
