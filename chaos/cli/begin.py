"""`holdfast init` and `up`: a first experiment for a service of the user's own, and a target that stays up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chaos.cli.options import parse_overrides, runs_dir_option, say, set_option
from chaos.cli.shipped import find_experiment
from chaos.errors import ExperimentError

if TYPE_CHECKING:
    from chaos.requirement import Requirement

EXIT_DIRTY = 5


@click.command(epilog="Example: holdfast init chaos-tests")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path(), metavar="[DIR]")
def init(folder: Path) -> None:
    """Write a target, an experiment and clients for a service of your own; existing files are never touched."""
    from chaos.scaffold import write_scaffold

    for path in write_scaffold(folder):
        say(f"wrote {path}")
    say("change the lines marked CHANGE in topology.yaml and locustfile.py, then run:")
    say(f"  holdfast run {folder / 'experiment.yaml'}")


@click.command(epilog="Example: holdfast up topology.yaml --set portal.count=2")
@click.argument("target", type=click.Path(path_type=Path), metavar="TARGET")
@set_option
@click.option(
    "--for", "experiments", multiple=True, metavar="EXPERIMENT", help="Start it with what the faults of this need."
)
@runs_dir_option
def up(target: Path, *, overrides: tuple[str, ...], experiments: tuple[str, ...], runs_dir: Path) -> int:
    """Start a target and hold it until Ctrl-C; runs with the same topology and overrides use it meanwhile."""
    import asyncio

    from chaos.targets.up import up as hold_up
    from chaos.targets.upstate import UpState

    if not target.exists():
        raise ExperimentError([f"{target}: no such file; `holdfast init` writes one"])

    def tell(state: UpState) -> None:
        say(f"{state.name} is up at {state.url}; Ctrl-C stops it")

    changes = parse_overrides(overrides)
    requirement = _required(experiments, target, changes)
    left = asyncio.run(hold_up(target, changes, runs_dir, requirement=requirement, on_up=tell))
    for text in left:
        say(f"left: {text}", err=True)
    return EXIT_DIRTY if left else 0


def _required(experiments: Sequence[str], target: Path, overrides: Mapping[str, Any]) -> "Requirement":
    """What the faults of these experiments need together of the target and the machine."""
    from chaos.preparing import prepare, refuse_lacking
    from chaos.requirement import merge

    needed = []
    for name in experiments:
        ready = prepare(find_experiment(name), target=target, overrides=overrides)
        refuse_lacking(ready)
        needed.append(ready.plan.requires)
    try:
        return merge(needed)
    except ValueError as error:
        raise ExperimentError([f"--for: one of the experiments {error}"]) from error
