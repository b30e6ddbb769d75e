"""The commands of a topology that run to their end: preparing, dumping, acting."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from chaos.errors import TargetError
from chaos.leftovers import members_of
from chaos.processes import INSTANCE_MARK, Identity, Process, kill_all, own_environment, spawn
from chaos.roster import Roster
from chaos.targets.database import execute
from chaos.targets.models import Action, QuietWhen, Run
from chaos.targets.observing import observe
from chaos.targets.system import System
from chaos.targets.target import Instance
from chaos.targets.templates import expand
from chaos.undo import Step

LOG_LINES: Final = 15
_KILL_LIMIT_S: Final = 2.0
_POLL_S: Final = 0.05


def argv_of(system: System, command: Sequence[str]) -> list[str]:
    """A resolved command; a relative program with a slash in it lies next to the topology file."""
    program = command[0]
    if "/" in program and not program.startswith("/"):
        program = str(system.topology.folder / program)
    return [program, *command[1:]]


def last_lines(log: Path, count: int = LOG_LINES) -> str:
    """The end of a log, indented, with its path; says so when there is nothing in it."""
    size_limit_bytes = 64 * 1024
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - size_limit_bytes))
            lines = file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        lines = []
    if not lines:
        return f"it printed nothing; log: {log}"
    return f"the end of its log {log}:\n" + "\n".join(f"    {line}" for line in lines)


def ending(returncode: int) -> str:
    """`ended with exit status 3`, or `was ended by SIGKILL`."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    import signal

    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"


def sweep(roster: Roster, instance: str, *, known: Iterable[Identity] = ()) -> None:
    """Kills what is left of an instance or command that has ended: children it started, whatever session they chose.

    `known` are processes of it seen earlier.

    Raises:
        TargetError: something would not end.
    """
    left = kill_all(lambda: members_of(roster.run_dir, instance), within_s=_KILL_LIMIT_S, known=known)
    if left:
        raise TargetError(f"{instance}: processes {', '.join(str(it.pid) for it in left)} would not end")


async def wait_or_kill(
    process: Process, roster: Roster, name: str, *, within_s: float, spare_children: bool = False
) -> int | None:
    """The exit status; None when it took too long. Nothing it started is left, also when we are cancelled.

    With `spare_children` what it started goes on when it ends by itself.
    """
    try:
        return await asyncio.wait_for(process.wait(), within_s)
    except TimeoutError:
        return None
    finally:
        if not spare_children or process.poll() is None:
            sweep(roster, name)
            await process.wait()


class Commands:
    """Runs a topology's commands; each has its log, a limit, and leaves no process behind."""

    def __init__(self, system: System, roster: Roster, running: Callable[[], tuple[Instance, ...]]) -> None:
        """`running` gives the instances that can be asked now."""
        self._system = system
        self._roster = roster
        self._running = running

    async def run(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        within_s: float,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """Runs one command to its end; `extra` are further names for its templates.

        Raises:
            TargetError: it could not be started, failed, or took too long; with the end of its log.
        """
        system, given = self._system, extra or {}

        def look_up(template: str) -> str:
            return given[template] if template in given else system.look_up(template)

        log = system.run_dir / "logs" / f"{name}.log"
        process = spawn(
            argv_of(system, [expand(part, look_up) for part in command]),
            env={
                **own_environment(),
                **{key: expand(value, look_up) for key, value in env.items()},
                INSTANCE_MARK: name,
            },
            cwd=system.topology.folder,
            log=log,
            name=name,
            registrar=self._roster,
        )
        returncode = await wait_or_kill(process, self._roster, name, within_s=within_s)
        if returncode is None:
            raise TargetError(f"{name} did not finish within {within_s:g} s; {last_lines(log)}")
        if returncode != 0:
            raise TargetError(f"{name} {ending(returncode)}; {last_lines(log)}")

    async def prepare(self) -> None:
        """Runs the `prepare` commands, one after the other."""
        for number, run in enumerate(self._system.topology.file.prepare, start=1):
            await self._run(f"prepare-{number}", run)

    async def _run(self, name: str, run: Run, extra: Mapping[str, str] | None = None) -> None:
        await self.run(name, run.command, run.env, within_s=run.within, extra=extra)

    async def dump(self, run_dir: Path) -> dict[str, str | int]:
        """Writes every final dump to `final/`; name -> number of rows, or what went wrong."""
        result: dict[str, str | int] = {}
        for final in self._system.topology.file.final:
            out = _dump_path(run_dir, final.name)
            try:
                await self._run(f"final-{final.name}", final, {"out": str(out)})
                result[final.name] = count_rows(out)
            except TargetError as error:
                result[final.name] = str(error)
        return result

    def action(self, name: str) -> Action:
        """One of the topology's actions."""
        actions = self._system.topology.file.actions
        if name not in actions:
            raise TargetError(f"{self._system.topology.name} has no action {name!r}; known: {', '.join(actions)}")
        return actions[name]

    async def act(self, name: str) -> None:
        """Carries out an action and waits for its effect.

        Raises:
            TargetError: it was refused, failed, or its effect was not seen in time.
        """
        action = self.action(name)
        if action.http is not None:
            method, url, body, headers = self._system.request(action.http)
            within_s = action.http.within
            status, answer = await self._system.ask(url, method=method, body=body, headers=headers, within_s=within_s)
            if not 200 <= status < 300:
                shown = answer[:300].decode(errors="replace")
                raise TargetError(f"action {name}: {method} {url}: status {status}: {shown}")
        if action.command is not None:
            await self.run(f"action-{name}", action.command, action.env, within_s=action.within)
        if action.sql is not None and action.dsn is not None:
            await execute(self._system.dsn(action.dsn), action.sql, within_s=action.within)
        if action.effect is not None:
            effect = action.effect
            seen = await self.await_reading(effect.observe, lambda value: same(value, effect.equals), effect.within)
            if seen is not None:
                raise TargetError(
                    f"action {name}: {effect.observe} did not become {effect.equals!r} within {effect.within:g} s, "
                    f"last seen: {seen}"
                )

    async def in_effect(self, name: str) -> tuple[bool, dict[str, Any]]:
        """Whether an action's effect shows now, and what was read."""
        effect = self.action(name).effect
        if effect is None:
            return False, {}
        value = await observe(self._system, effect.observe, running=self._running())
        return same(value, effect.equals), {effect.observe: value}

    def undo_of(self, name: str) -> tuple[Step, ...]:
        """What takes an action back, as plain undo steps."""
        undo = self.action(name).undo
        if undo is None:
            return ()
        if undo.http is not None:
            method, url, body, headers = self._system.request(undo.http)
            step: dict[str, Any] = {"do": "http", "method": method, "url": url, "json": body, "headers": headers}
            return (step,)
        if undo.sql is not None and undo.dsn is not None:
            return ({"do": "sql", "dsn": self._system.dsn(undo.dsn), "sql": undo.sql},)
        command = argv_of(self._system, [expand(part, self._system.look_up) for part in undo.command or []])
        return ({"do": "command", "command": command, "cwd": str(self._system.topology.folder)},)

    async def await_reading(self, name: str, holds: Callable[[float | str], bool], within_s: float) -> str | None:
        """Polls a reading until it holds: None then; otherwise, after the limit, what was seen last."""
        return await self._await_all({name: holds}, within_s)

    async def wait_quiet(self, *, within_s: float) -> bool:
        """Waits for `quiet_when`; whether it came true, all of it in one look. True at once where there is none."""
        rule = self._system.topology.file.quiet_when
        rules = rule.rules() if rule is not None else ()
        return await self._await_all({one.observe: partial(_is_quiet, one) for one in rules}, within_s) is None

    async def _await_all(self, conditions: Mapping[str, Callable[[float | str], bool]], within_s: float) -> str | None:
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            unmet = [seen for name, holds in conditions.items() if (seen := await self._unmet(name, holds)) is not None]
            if not unmet:
                return None
            if asyncio.get_running_loop().time() >= deadline:
                return ", ".join(unmet)
            await asyncio.sleep(_POLL_S)

    async def _unmet(self, name: str, holds: Callable[[float | str], bool]) -> str | None:
        """What was seen instead; None where it holds. What cannot be read yet may be read later: its reason is told."""
        try:
            value = await observe(self._system, name, running=self._running())
        except TargetError as error:
            return str(error)
        return None if holds(value) else repr(value)


def _is_quiet(rule: QuietWhen, value: float | str) -> bool:
    if rule.maximum is not None:
        return isinstance(value, float) and value <= rule.maximum
    return same(value, rule.equals)


def same(value: float | str, wanted: object) -> bool:
    """Whether a reading is what a file says with `is`: numbers as numbers, everything else as text."""
    if isinstance(wanted, bool):
        return value == str(wanted).lower()
    if isinstance(value, float) and isinstance(wanted, int | float):
        return value == float(wanted)
    return value == str(wanted)


def _dump_path(run_dir: Path, name: str) -> Path:
    out = run_dir.resolve() / "final" / f"{name}.ndjson"
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def count_rows(path: Path) -> int:
    """How many rows an NDJSON file has.

    Raises:
        TargetError: there is no file, or a line is no JSON object.
    """
    rows = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not isinstance(json.loads(line), dict):
                    raise TargetError(f"{path}:{number}: expected a JSON object on each line")
                rows += 1
    except OSError as error:
        raise TargetError(f"{path} was not written: {error.strerror}") from error
    except ValueError as error:
        raise TargetError(f"{path}:{rows + 1}: no JSON: {error}") from error
    return rows
