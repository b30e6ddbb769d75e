"""`holdfast run` and `holdfast check`."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chaos.cli.options import json_option, parse_overrides, print_json, runs_dir_option, say, set_option
from chaos.cli.shipped import find_experiment, shipped
from chaos.cli.stored import find_run
from chaos.errors import ExperimentError

if TYPE_CHECKING:
    from chaos.engine.run import Finished, Request

EXIT_INCONCLUSIVE = 2
EXIT_DIRTY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for, for every experiment of the command."""

    target: Path | None
    seed: int | None
    overrides: dict[str, Any]
    runs_dir: Path
    max_duration_s: float | None


@click.command(epilog="Example: holdfast run node-kill --seed 7 --set balancer.env.RETRIES=off")
@click.argument("experiments", nargs=-1, metavar="EXPERIMENT...")
@click.option("--target", type=click.Path(path_type=Path), metavar="FILE", help="Another topology than the file's own.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="Another seed than the file's own.")
@set_option
@runs_dir_option
@click.option("--dry-run", is_flag=True, help="Print the resolved timeline and stop (exit 2).")
@click.option("--all", "run_all", is_flag=True, help="Run every shipped experiment.")
@click.option("--max-duration", metavar="T", help="End each run after so long: 10m.")
@json_option
def run(
    experiments: tuple[str, ...],
    *,
    target: Path | None,
    seed: int | None,
    overrides: tuple[str, ...],
    runs_dir: Path,
    dry_run: bool,
    run_all: bool,
    max_duration: str | None,
    as_json: bool,
) -> int:
    """Run experiments: start the target, drive load, break things, judge, put everything back.

    EXPERIMENT is a path or the name of a shipped experiment (`holdfast list experiments`). A target that
    `holdfast up` holds is used as it is. Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 baseline not met, 4 stopped by
    a guardrail, 5 left dirty, 64 usage, 130/143 interrupted and healed; of several runs the worst.
    """
    if run_all == bool(experiments):
        raise click.UsageError("name experiments, or say --all for every shipped one: holdfast run node-kill")
    options = Options(
        target=target,
        seed=seed,
        overrides=parse_overrides(overrides),
        runs_dir=runs_dir,
        max_duration_s=_seconds(max_duration),
    )
    requests = _prepare(tuple(shipped()) if run_all else experiments, options)
    if dry_run:
        return _print_plans(requests, as_json=as_json)
    return _run_all(requests, as_json=as_json)


@click.command(epilog="Example: holdfast check latest")
@click.argument("run_dir", metavar="RUN")
@runs_dir_option
@json_option
def check(run_dir: str, *, runs_dir: Path, as_json: bool) -> int:
    """Judge a stored run again, from its folder alone.

    RUN is a run's folder, its name below the folder of the runs, or `latest`.
    """
    from metrics.judge import check as judge_again

    verdict = judge_again(find_run(run_dir, runs_dir))
    if as_json:
        print_json(verdict.as_data())
    else:
        say(_render(verdict))
    return int(verdict.exit_code)


def _seconds(text: str | None) -> float | None:
    from metrics.units import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--max-duration") from error


def _prepare(names: Sequence[str], options: Options) -> "list[Request]":
    """Every experiment checked and planned, before anything of the first one is started.

    Raises:
        ExperimentError: the problems of all of them.
    """
    requests: list[Request] = []
    problems: list[str] = []
    for name in names:
        try:
            requests.append(_prepare_one(name, options))
        except ExperimentError as error:
            problems += error.problems
    if problems:
        raise ExperimentError(list(dict.fromkeys(problems)))  # they may share a target
    return requests


def _prepare_one(name: str, options: Options) -> "Request":
    from chaos.engine.folder import replay_command
    from chaos.engine.run import Request
    from chaos.preparing import prepare, refuse_lacking

    path = find_experiment(name)
    ready = prepare(
        path,
        target=options.target,
        overrides=options.overrides,
        seed=options.seed,
        spare_seed=random.SystemRandom().randrange(2**32),
    )
    refuse_lacking(ready)
    again = name if name in shipped() else str(path.absolute())
    return Request(
        experiment=ready.experiment,
        topology=ready.topology,
        plan=ready.plan,
        runs_dir=options.runs_dir,
        replay=replay_command(again, seed=ready.plan.seed, target=options.target, overrides=options.overrides),
        max_duration_s=options.max_duration_s,
    )


def _print_plans(requests: "Sequence[Request]", *, as_json: bool) -> int:
    from chaos.timeline import render_plan

    if as_json:
        print_json([request.plan.to_json() for request in requests])
    else:
        say("\n\n".join(render_plan(request.plan) for request in requests))
        say("\ndry run: nothing was started, so nothing is known (exit 2)")
    return EXIT_INCONCLUSIVE


def _run_all(requests: "Sequence[Request]", *, as_json: bool) -> int:
    import asyncio

    from chaos.engine.run import run_experiment
    from metrics.verdict import SIGINT, SIGTERM, combine_exit_codes

    results: list[dict[str, Any]] = []
    codes: list[int] = []
    for request in requests:
        say(f"{request.plan.title}   seed {request.plan.seed}   {request.experiment.source}", err=True)
        finished = asyncio.run(run_experiment(request))
        codes.append(int(finished.verdict.exit_code))
        results.append({"run": str(finished.run_dir), "verdict": finished.verdict.as_data()})
        if not as_json:
            _print_finished(finished)
        if finished.interrupted is not None:
            codes.append(SIGINT if finished.interrupted == "SIGINT" else SIGTERM)
        if finished.interrupted is not None or codes[-1] == EXIT_DIRTY:
            break  # the user wants to stop, or the next run would meet what this one left
    worst = combine_exit_codes(codes)
    if as_json:
        print_json({"exit_code": worst, "runs": results})
    return worst


def _print_finished(finished: "Finished") -> None:
    if finished.verdict.phases or finished.problem is None:
        say(_render(finished.verdict))
    say(f"run: {finished.run_dir}   report: {finished.run_dir / 'report.html'}")
    if finished.problem is not None:
        # Where nothing was measured, this is all there is to tell.
        say(f"holdfast: {finished.problem}", err=True)


def _render(verdict: Any) -> str:
    from metrics.console import render

    return render(verdict)
