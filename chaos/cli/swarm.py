"""`holdfast swarm`: experiments drawn at random within limits, what failed, and what was seen of each fault."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chaos.cli.options import json_option, parse_overrides, print_json, runs_dir_option, say, set_option
from chaos.errors import HoldfastError

if TYPE_CHECKING:
    from chaos.engine.run import Finished, Request
    from chaos.swarm.coverage import Coverage
    from chaos.swarm.file import Swarm
    from chaos.swarm.record import Record, Result

EXIT_DIRTY = 5
SEED_MAX = 2**63 - 1


@click.command(epilog="Example: holdfast swarm swarm.yaml --seeds 100 --minutes 10")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--seeds", type=click.IntRange(1, 1_000_000), default=10, show_default=True, metavar="N", help="How many."
)
@click.option(
    "--first-seed", type=click.IntRange(0, SEED_MAX), default=1, show_default=True, metavar="N", help="The first one."
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), metavar="M", help="Begin no further run after M.")
@click.option("--first-failure", is_flag=True, help="Stop at the first seed that fails.")
@click.option("--target", type=click.Path(path_type=Path), metavar="FILE", help="Another topology than the file's own.")
@set_option
@runs_dir_option
@json_option
def swarm(
    file: Path,
    *,
    seeds: int,
    first_seed: int,
    minutes: float | None,
    first_failure: bool,
    target: Path | None,
    overrides: tuple[str, ...],
    runs_dir: Path,
    as_json: bool,
) -> int:
    """Run experiments drawn at random within the limits of a swarm file, one seed after the other.

    Each seed draws the same experiment every time. Finished seeds are kept beside the runs and not run again: the same
    command goes on where it was stopped. At the end: the seeds that failed, each with the command that repeats it, and
    which fault was proven alone, beside which other one, in which state of the target. The exit code is the worst.
    """
    from chaos.swarm.file import read_swarm
    from chaos.swarm.record import Record

    read = read_swarm(file, target=target, overrides=parse_overrides(overrides))
    record = Record.open(runs_dir.absolute(), swarm=read.path, digest=read.digest)
    wanted = range(first_seed, first_seed + seeds)
    session = Session(
        swarm=read,
        record=record,
        runs_dir=runs_dir,
        ends_s=math.inf if minutes is None else time.monotonic() + minutes * 60,
        first_failure=first_failure,
        results={seed: one for seed, one in record.results().items() if seed in wanted},
    )
    if session.results:
        say(f"{len(session.results)} of {seeds} seeds are finished already: {record.path}", err=True)
    problem = None
    try:
        session.go(wanted)
    except KeyboardInterrupt:
        session.signal = "SIGINT"
    except HoldfastError as error:
        problem = error
    code = session.report(wanted, as_json=as_json)
    if problem is not None:
        raise problem
    return code


@dataclass(slots=True, kw_only=True)
class Session:
    """One call of the command."""

    swarm: "Swarm"
    record: "Record"
    runs_dir: Path
    ends_s: float
    first_failure: bool
    results: "dict[int, Result]"
    signal: str | None = None
    stopped: str | None = None
    """Why not all seeds were run, in words."""
    _codes: list[int] = field(default_factory=list)

    def go(self, wanted: Sequence[int]) -> None:
        """Runs the seeds that are not finished."""
        for seed in wanted:
            if seed in self.results:
                if self.first_failure and self.results[seed].failed:
                    return
                continue
            if time.monotonic() >= self.ends_s:
                self.stopped = "the time is up"
                return
            if not self._run(seed) or (self.first_failure and self.results[seed].failed):
                return

    def report(self, wanted: Sequence[int], *, as_json: bool) -> int:
        """Prints what is known of these seeds; the exit code."""
        from chaos.swarm.coverage import cover
        from metrics.verdict import SIGINT, SIGTERM, combine_exit_codes

        found = [self.results[seed] for seed in wanted if seed in self.results]
        codes = [*self._codes, *(one.exit_code for one in found)]
        if self.signal is not None:
            codes.append(SIGINT if self.signal == "SIGINT" else SIGTERM)
            self.stopped = f"interrupted by {self.signal}"
        code = combine_exit_codes(codes)
        bounds = self.swarm.bounds
        coverage = cover(
            [kind.label for kind in self.swarm.kinds],
            [sighting for one in found for sighting in one.proven],
            at_once=bounds.at_once,
            states=bounds.states,
        )
        if as_json:
            print_json(self._data(found, coverage, code))
        else:
            self._print(found, coverage, len(wanted))
        return code

    def _run(self, seed: int) -> bool:
        """Runs a seed and writes it down; whether to go on with the next one."""
        from chaos.engine.run import Request
        from chaos.preparing import refuse_lacking

        ready, drawn = self.swarm.experiment(seed)
        refuse_lacking(ready)
        labels = [one.kind.label for one in drawn]
        say(f"seed {seed}: {', '.join(labels)}", err=True)
        finished = play(
            Request(
                experiment=ready.experiment,
                topology=ready.topology,
                plan=ready.plan,
                runs_dir=self.runs_dir,
                replay=None,
                state=self.swarm.bounds.state,
            )
        )
        verdict = finished.verdict
        if finished.interrupted is not None:
            self.signal = finished.interrupted
            self._codes.append(int(verdict.exit_code))
            return False
        self.results[seed] = self._result(seed, finished, labels)
        self.record.add(self.results[seed])
        say(f"seed {seed}: {verdict.word}  {finished.run_dir}", err=True)
        if verdict.exit_code == EXIT_DIRTY:
            self.stopped = "something was left: clear it with `holdfast heal`"
        return verdict.exit_code != EXIT_DIRTY

    def _result(self, seed: int, finished: "Finished", labels: Sequence[str]) -> "Result":
        from chaos.swarm.coverage import sightings
        from chaos.swarm.record import Result
        from chaos.swarm.stored import read_stored
        from metrics.events import read_events

        plan = read_stored(finished.run_dir).plan
        # Each was written as an entry of its own, in order of time, and so each is one occurrence in the same order.
        ids = [str(one["fault_id"]) for one in plan["timeline"]]
        return Result(
            seed=seed,
            run=finished.run_dir.name,
            exit_code=int(finished.verdict.exit_code),
            verdict=finished.verdict.word,
            reasons=tuple(finished.verdict.reasons),
            drawn=tuple(labels),
            proven=tuple(
                sightings(
                    dict(zip(ids, labels, strict=True)),
                    plan,
                    list(read_events(finished.run_dir)),
                    state=self.swarm.bounds.state,
                )
            ),
        )

    def _data(self, found: "Sequence[Result]", coverage: "Coverage", code: int) -> dict[str, Any]:
        return {
            "exit_code": code,
            "stopped": self.stopped,
            "results": str(self.record.path),
            "seeds": [one.to_json() for one in found],
            "failing": [one.seed for one in found if one.failed],
            "coverage": coverage.to_json(),
        }

    def _print(self, found: "Sequence[Result]", coverage: "Coverage", wanted: int) -> None:
        from chaos.swarm.coverage import render

        say(f"{self.swarm.base['title']}: {len(found)} of {wanted} seeds run")
        if self.stopped is not None:
            say(f"stopped: {self.stopped}; the same command goes on from here")
        counts = {word: sum(one.verdict == word for one in found) for word in dict.fromkeys(it.verdict for it in found)}
        say("  ".join(f"{count} {word}" for word, count in counts.items()) or "nothing is known")
        for one in found:
            if one.failed:
                say(f"\nseed {one.seed}: {one.verdict}: {', '.join(one.drawn)}")
                for reason in one.reasons[:3]:
                    say(f"  {reason}")
                folder = self.record.path.parent / one.run
                say(f"  repeat it:  holdfast replay {folder}\n  reduce it:  holdfast shrink {folder}")
        say(f"\n{render(coverage)}\n\nresults: {self.record.path}")


def play(request: "Request") -> "Finished":
    """Runs one experiment to its verdict."""
    import asyncio

    from chaos.engine.run import run_experiment

    return asyncio.run(run_experiment(request))
