"""`holdfast runs`, `status` and `heal`: what there was, what there is, and clearing what a dead run left."""

import json
from pathlib import Path
from typing import Any

import click

from chaos.cli.options import json_option, print_json, runs_dir_option, say

EXIT_DIRTY = 5


@click.command(epilog="Example: holdfast runs --json")
@runs_dir_option
@json_option
def runs(runs_dir: Path, *, as_json: bool) -> None:
    """List the runs, newest last, with their verdicts."""
    found = [_describe(folder) for folder in _run_folders(runs_dir)]
    if as_json:
        print_json(found)
        return
    if not found:
        say(f"no runs in {runs_dir}; begin with: holdfast run tour")
    for one in found:
        say(f"{one['run_id']:<44} {one['verdict'] or 'no verdict':<12} {one['title']}")


@click.command(epilog="Example: holdfast status")
@runs_dir_option
@json_option
def status(runs_dir: Path, *, as_json: bool) -> int:
    """Show what runs now, which targets are up, and what dead runs have left (exit 5 when they left something)."""
    from chaos.leftovers import leftovers, run_dirs
    from chaos.roster import read_guarded
    from chaos.targets.upstate import all_up

    guarded = [found for folder in run_dirs(runs_dir) if (found := read_guarded(folder)) and found.runner_alive]
    running = [{"run_id": it.run_id, "pid": it.runner.pid, "folder": str(it.run_dir)} for it in guarded]
    up = [
        {"name": it.name, "url": it.url, "topology": str(it.topology), "pid": it.holder.pid} for it in all_up(runs_dir)
    ]
    dead = [
        {
            "run_id": it.run_id,
            "folder": str(it.run_dir),
            "faults": list(it.faults),
            "processes": [{"name": name, "pid": identity.pid} for name, identity in it.processes],
            "damaged": list(it.damaged),
        }
        for it in leftovers(runs_dir)
    ]
    if as_json:
        print_json({"running": running, "up": up, "left": dead})
    else:
        _print_status(running, up, dead)
    return EXIT_DIRTY if dead else 0


@click.command(epilog="Example: holdfast heal")
@runs_dir_option
@json_option
def heal(runs_dir: Path, *, as_json: bool) -> int:
    """Clear what dead runs have left: take their faults back and end their processes (exit 5 when something stays)."""
    from chaos.errors import HealError
    from chaos.leftovers import heal_run, leftovers

    results: dict[str, list[str]] = {}
    for left in leftovers(runs_dir):
        try:
            results[left.run_id] = list(heal_run(left.run_dir))
        except HealError as error:
            results[left.run_id] = [str(error)]
    if as_json:
        print_json(results)
    elif not results:
        say("nothing to heal")
    for run_id, remains in results.items():
        if not as_json:
            say(f"{run_id}: {'healed' if not remains else 'NOT healed:'}")
            for text in remains:
                say(f"  {text}")
    return EXIT_DIRTY if any(results.values()) else 0


def _run_folders(runs_dir: Path) -> list[Path]:
    """Oldest first: the names begin with the time."""
    return sorted(path.parent for path in runs_dir.glob("*/run.json") if not path.parent.is_symlink())


def _describe(folder: Path) -> dict[str, Any]:
    run, verdict = _read(folder / "run.json"), _read(folder / "verdict.json")
    return {
        "run_id": str(run.get("run_id", folder.name)),
        "title": str(run.get("title", "")),
        "seed": run.get("seed"),
        "verdict": verdict.get("verdict"),
        "exit_code": verdict.get("exit_code"),
        "folder": str(folder),
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, as in a run that died early."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _print_status(running: list[dict[str, Any]], up: list[dict[str, Any]], dead: list[dict[str, Any]]) -> None:
    for one in running:
        say(f"running  {one['run_id']}  (process {one['pid']})")
    for one in up:
        say(f"up       {one['name']}  {one['url']}  (process {one['pid']})")
    for one in dead:
        processes = ", ".join(f"{it['name']} {it['pid']}" for it in one["processes"]) or "none"
        say(f"LEFT     {one['run_id']}  faults: {', '.join(one['faults']) or 'none'}  processes: {processes}")
        for line in one["damaged"]:
            say(f"         {line}")
    if dead:
        say("clear it with: holdfast heal")
    if not (running or up or dead):
        say("nothing runs, nothing is up, nothing was left")
