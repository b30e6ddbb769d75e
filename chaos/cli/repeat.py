"""`holdfast replay` and `holdfast shrink`: a stored run once more, and what of it is enough to make it fail."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chaos.cli.options import json_option, print_json, runs_dir_option, say
from chaos.cli.stored import find_run

if TYPE_CHECKING:
    from chaos.preparing import Prepared
    from chaos.swarm.shrinking import Failure, Search

EXIT_FAIL = 1
EXIT_INCONCLUSIVE = 2
EXIT_DIRTY = 5


@click.command(epilog="Example: holdfast replay latest")
@click.argument("run_dir", metavar="RUN")
@runs_dir_option
@json_option
def replay(run_dir: str, *, runs_dir: Path, as_json: bool) -> int:
    """Run a stored run again: the experiment, target, seed and overrides that it had.

    RUN is a run's folder, its name below the folder of the runs, or `latest`. What can only be decided at run time (who
    leads, when a reading reaches its limit) may go another way: it is said where. The exit code is that of the new run.
    """
    from chaos.cli.swarm import play
    from chaos.engine.run import Request
    from chaos.preparing import refuse_lacking
    from chaos.swarm.stored import differences, read_stored
    from metrics.console import render
    from metrics.events import read_events

    folder = find_run(run_dir, runs_dir)
    stored = read_stored(folder)
    ready = stored.prepare()
    refuse_lacking(ready)
    changes = stored.changes(ready)
    say(f"{ready.plan.title}   seed {stored.seed}   again: {folder}", err=True)
    for change in changes:
        say(f"note: {change}", err=True)
    finished = play(
        Request(experiment=ready.experiment, topology=ready.topology, plan=ready.plan, runs_dir=runs_dir, replay=None)
    )
    differing = differences(list(read_events(folder)), list(read_events(finished.run_dir)))
    then, now = stored.verdict.get("verdict"), finished.verdict.word
    if as_json:
        print_json(
            {
                "run": str(finished.run_dir),
                "of": str(folder),
                "then": then,
                "verdict": finished.verdict.as_data(),
                "changes": changes,
                "differences": differing,
            }
        )
    else:
        say(render(finished.verdict))
        say(f"the same outcome as then: {now}" if then == now else f"another outcome: {now}, then {then}")
        for line in differing or ["what was decided at run time went the same way"]:
            say(f"  {line}")
        say(f"run: {finished.run_dir}")
        if finished.problem is not None:
            say(f"holdfast: {finished.problem}", err=True)
    return _code([int(finished.verdict.exit_code)], finished.interrupted)


@click.command(epilog="Example: holdfast shrink latest --failing 2 --of 3 > smallest.yaml")
@click.argument("run_dir", metavar="RUN")
@click.option(
    "--of", "runs", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each part, at most."
)
@click.option(
    "--failing", type=click.IntRange(1, 100), default=2, show_default=True, help="How many of them have to fail."
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), metavar="M", help="Begin no further run after M.")
@runs_dir_option
@json_option
def shrink(run_dir: str, *, runs: int, failing: int, minutes: float | None, runs_dir: Path, as_json: bool) -> int:
    """Find a smallest set of faults of a failed run that still fails, and print it as an experiment file.

    A part counts as failing when enough of its runs fail in the way the stored one did. Stopped early, by Ctrl-C or
    --minutes, it prints the smallest one found until then. Exit codes: 1 found (it fails), 2 the run did not fail
    again or the time was up before, 130/143 interrupted.
    """
    from chaos.swarm.shrinking import Odds, Search, StoppedError
    from chaos.swarm.stored import read_stored
    from metrics.events import read_events

    if failing > runs:
        raise click.UsageError(f"--failing {failing} of --of {runs} can never be reached: give a smaller --failing")
    folder = find_run(run_dir, runs_dir)
    player = _Player(runs_dir=runs_dir, ends_s=math.inf if minutes is None else time.monotonic() + minutes * 60)
    search = Search(
        stored=read_stored(folder),
        events=list(read_events(folder)),
        odds=Odds(needed=failing, of=runs),
        run=player.run,
    )
    try:
        search.go()
    except StoppedError as stop:
        say(f"stopped: {stop}", err=True)
    except KeyboardInterrupt:
        player.signal = "SIGINT"
    return _report(search, player, as_json=as_json)


@dataclass(slots=True, kw_only=True)
class _Player:
    """Runs what the search asks for, until it is stopped."""

    runs_dir: Path
    ends_s: float
    signal: str | None = None
    dirty: bool = False

    def run(self, ready: "Prepared", told: str) -> "Failure":
        from chaos.cli.swarm import play
        from chaos.engine.run import Request
        from chaos.preparing import refuse_lacking
        from chaos.swarm.shrinking import Failure, StoppedError

        if time.monotonic() >= self.ends_s:
            raise StoppedError("the time is up")
        refuse_lacking(ready)
        request = Request(
            experiment=ready.experiment, topology=ready.topology, plan=ready.plan, runs_dir=self.runs_dir, replay=None
        )
        finished = play(request)
        if finished.interrupted is not None:
            self.signal = finished.interrupted
            raise StoppedError(f"interrupted by {finished.interrupted}")
        verdict = finished.verdict
        say(f"{told}: {verdict.word}  {finished.run_dir}", err=True)
        if verdict.exit_code == EXIT_DIRTY:
            self.dirty = True
            raise StoppedError("something was left: clear it with `holdfast heal`")
        return Failure.of(verdict.as_data())


def _report(search: "Search", player: _Player, *, as_json: bool) -> int:
    found = search.found
    text = None if found is None else search.text(found)
    labels = [] if found is None else [one.label for one in found.faults]
    code = _code(
        [EXIT_FAIL if search.minimal else EXIT_INCONCLUSIVE, *([EXIT_DIRTY] if player.dirty else [])], player.signal
    )
    if as_json:
        print_json(
            {"exit_code": code, "minimal": search.minimal, "faults": labels, "runs": search.runs, "experiment": text}
        )
        return code
    if text is None:
        say(f"it did not fail again ({search.runs} runs): nothing can be said of which faults it takes", err=True)
        return code
    say(f"{'smallest' if search.minimal else 'smallest so far'}: {', '.join(labels)}  ({search.runs} runs)", err=True)
    say(text.rstrip())
    return code


def _code(codes: list[int], signal: str | None) -> int:
    from metrics.verdict import SIGINT, SIGTERM, combine_exit_codes

    if signal is not None:
        codes = [*codes, SIGINT if signal == "SIGINT" else SIGTERM]
    return combine_exit_codes(codes)
