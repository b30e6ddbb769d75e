"""Options that several commands have, and how their texts become values."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

RUNS_DIR = Path("runs")
Function = TypeVar("Function", bound=Callable[..., Any])


def runs_dir_option(function: Function) -> Function:
    """`--out DIR`: the folder that holds the runs."""
    return click.option(
        "--out",
        "runs_dir",
        type=click.Path(readable=False, path_type=Path),
        callback=_folder,
        default=RUNS_DIR,
        show_default=True,
        metavar="DIR",
        help="The folder of the runs.",
    )(function)


def _folder(_context: click.Context, _option: click.Parameter, path: Path) -> Path:
    try:
        wrong = "is no folder" if path.exists() and not path.is_dir() else None
    except OSError as error:
        wrong = f"cannot be used: {error.strerror}"
    if wrong is not None:
        raise click.BadParameter(f"{path} {wrong}; choose another one", param_hint="--out")
    return path


def json_option(function: Function) -> Function:
    """`--json`: results for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")(function)


def set_option(function: Function) -> Function:
    """`--set K=V`, any number of times: changes to the target."""
    return click.option(
        "--set", "overrides", multiple=True, metavar="K=V", help="Change the target: --set portal.env.VERSION=v2"
    )(function)


def say(text: str, *, err: bool = False) -> None:
    """Prints a line. A reader that has had enough (`holdfast runs | head`) changes no exit code."""
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
        os.close(nowhere)


def print_json(value: Any) -> None:
    """Prints a value as indented JSON."""
    say(json.dumps(value, indent=2, default=str))


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """`K=V` texts as a mapping; what is JSON (`2`, `true`, `["a", "b"]`) is taken as that, anything else as text.

    Raises:
        click.BadParameter: a text without `=` or without a key.
    """
    overrides = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise click.BadParameter(f"expected K=V such as portal.env.VERSION=v2, got {text!r}", param_hint="--set")
        overrides[key.strip()] = _value(value)
    return overrides


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if value is None else value
