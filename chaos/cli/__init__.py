"""The command line: `holdfast run`, `init`, `up`, `check`, ... Each command is a module of this folder.

Importing this stays light: a command's own imports happen when it runs, so that `--help` answers at once.
"""

import sys
from collections.abc import Sequence

import click

from chaos.cli.begin import init, up
from chaos.cli.look import heal, runs, status
from chaos.cli.repeat import replay, shrink
from chaos.cli.run import check, run
from chaos.cli.show import list_, schema, validate
from chaos.cli.swarm import swarm
from chaos.cli.toxiproxy import toxiproxy
from chaos.errors import ExperimentError, HealError, HoldfastError

EXIT_INCONCLUSIVE = 2
EXIT_DIRTY = 5
EXIT_USAGE = 64
EXIT_INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: holdfast run node-kill --seed 7",
)
@click.version_option(package_name="holdfast")
def holdfast() -> None:
    """Know whether a service keeps its promises while things break."""


_COMMANDS = (run, check, swarm, replay, shrink, init, up, runs, status, heal, list_, validate, schema, toxiproxy)
for _command in _COMMANDS:
    holdfast.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: runs a command and exits with its code."""
    sys.exit(execute(arguments))


def execute(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code. What a user can mend is told on standard error, without a traceback."""
    try:
        result = holdfast.main(args=arguments, prog_name="holdfast", standalone_mode=False)
    except click.Abort:
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except HoldfastError as error:
        click.echo(f"holdfast: {error}", err=True)
        return _exit_code(error)
    except OSError as error:
        click.echo(f"holdfast: {error}; is a disk full, or may a folder not be written?", err=True)
        return EXIT_INCONCLUSIVE
    return result if isinstance(result, int) else 0


def _exit_code(error: HoldfastError) -> int:
    match error:
        case ExperimentError():
            return EXIT_USAGE
        case HealError():
            return EXIT_DIRTY
    return EXIT_INCONCLUSIVE
