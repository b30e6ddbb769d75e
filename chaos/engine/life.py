r"""The life of a run, from a plan to a folder that holds enough to judge it.

start -> warmup -> baseline -> faults -> recovery -> quiet -> stop        (the body; ends early for one reason)
\\_________ whatever happens: faults healed, clients ended, target stopped, leftovers read back ________/
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from chaos.engine.clients import Client, ClientCommand, counts
from chaos.engine.play import Stage
from chaos.engine.progress import Progress
from chaos.engine.readings import Readings
from chaos.engine.surroundings import Surroundings
from chaos.engine.switch import EndEarly, Reason, Switch
from chaos.engine.watch import Tripped, Watch
from chaos.errors import HealError, HoldfastError, TargetError
from chaos.guardrails import Guardrail
from chaos.leftovers import end_run
from chaos.planner import Plan
from chaos.processes import python_environment
from chaos.roster import Roster
from chaos.targets.commands import ending, last_lines
from chaos.targets.target import Target
from chaos.undo import UndoLog
from chaos.watchdog import Watchdog
from metrics.events import EventLog

CLIENTS_READY_WITHIN_S: Final = 60.0
FAULTS_OVERTIME_S: Final = 300.0
"""How much longer than planned the phase faults may take: a rolling deploy lasts as long as it lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What a run works with; opened and closed by its caller."""

    run_dir: Path
    events: EventLog
    undo: UndoLog
    log: FilteringBoundLogger
    roster: Roster
    watchdog: Watchdog
    target: Target
    switch: Switch
    progress: Progress


@dataclass(slots=True, kw_only=True)
class Life:
    """One run of `plan`."""

    plan: Plan
    equipment: Equipment
    clients: Sequence[ClientCommand]
    readings: Sequence[str]
    """Names of the target's `observe`."""
    state: str | None
    """One of them, which is also taken each time a fault is seen to bite."""
    guardrails: Sequence[tuple[str, Guardrail]]
    max_duration_s: float | None
    phases: dict[str, tuple[int, int]] = field(default_factory=dict)
    """phase -> [start_ns, end_ns), for sealing the history"""
    _running: dict[str, Client] = field(default_factory=dict)
    _watchers: list[asyncio.Task[None]] = field(default_factory=list)
    _phase: str | None = None
    _phase_began_ns: int = 0
    _watch: Watch = field(init=False)
    _stage: Stage = field(init=False)
    _readings: Readings = field(init=False)

    def __post_init__(self) -> None:
        tools = self.equipment
        self._readings = Readings(names=self.readings, target=tools.target, events=tools.events, log=tools.log)
        self._watch = Watch(guardrails=self.guardrails, on_trip=self._trip)
        self._stage = Stage(
            target=tools.target, events=tools.events, undo=tools.undo, log=tools.log, on_shown=self._take_state
        )
        tools.progress.in_force = self._stage.in_force

    async def live(self) -> Reason | None:
        """Runs all of it and leaves nothing behind; why it ended early, if it did.

        Raises, after everything has been put back:
            TargetError: what happened could not be written down.
            HealError: neither could that, and something is left.
            Exception: a bug of ours.
        """
        tools = self.equipment
        reason: Reason | None = None
        try:
            tools.events.append("run.started")
            reason = await tools.switch.run(self._body())
        except (HoldfastError, OSError) as error:
            reason = Reason(outcome="error", text=str(error))
        except BaseException as error:
            reason = Reason(outcome="error", text=f"internal error: {type(error).__name__}: {error}")
            raise
        finally:
            await self._end(reason)
        return reason

    async def _body(self) -> None:
        await self._start_target()
        await self._start_clients()
        await self._warm_up()
        await self._baseline()
        await self._faults()
        async with self._in_phase("recovery"):
            await self._rest()
        self._watch.disarm()
        await self._quiet()

    async def _start_target(self) -> None:
        tools = self.equipment
        self._watch_task(self._watch_watchdog())
        if self.max_duration_s is not None:
            self._watch_task(self._limit_duration(self.max_duration_s))
        began_s = time.monotonic()
        await tools.target.start()
        tools.events.append("target.started", seconds=round(time.monotonic() - began_s, 3))
        tools.progress.begin("preparing")
        await tools.target.prepare()

    async def _start_clients(self) -> None:
        tools = self.equipment
        env = {
            **python_environment(),
            "HOLDFAST_URL": tools.target.url,
            "HOLDFAST_RUN_DIR": str(tools.run_dir),
            "HOLDFAST_SEED": str(self.plan.seed),
        }
        self._enter("warmup")
        for command in self.clients:
            client = await Client.start(
                command, env=env, run_dir=tools.run_dir, registrar=tools.roster, listener=self._hear
            )
            self._running[client.name] = client
            tools.events.append("load.started", name=client.name)
            self._watch_task(self._watch_client(client))

    async def _warm_up(self) -> None:
        """The planned time counts from when all clients are ready: while they log in, hardly anything gets warm."""
        planned_s = self.plan.phases["warmup"]
        async with self._read_around():
            await asyncio.gather(
                *(client.wait_ready(within_s=CLIENTS_READY_WITHIN_S) for client in self._running.values())
            )
            self.equipment.progress.begin("warmup", planned_s=planned_s)
            await asyncio.sleep(planned_s)

    async def _baseline(self) -> None:
        tools = self.equipment
        async with self._in_phase("baseline"):
            self._watch.arm()
            self._watch_task(self._look_on())
            await self._rest()
        from metrics.findings import Grade
        from metrics.judge import judge_baseline

        findings = await asyncio.to_thread(judge_baseline, tools.run_dir)
        failed = [finding.name for finding in findings if finding.grade is Grade.FAIL]
        tools.events.append("baseline.judged", held=not failed, failed=failed)
        if failed:
            text = f"the baseline does not hold without any fault ({', '.join(failed)}); nothing was injected"
            raise EndEarly(Reason(outcome="baseline_not_met", text=text))

    async def _faults(self) -> None:
        async with self._in_phase("faults"):
            rest = asyncio.create_task(self._rest())
            try:
                async with asyncio.timeout(self.plan.phases["faults"] + FAULTS_OVERTIME_S):
                    await self._stage.play_all(self.plan.timeline)
                    await rest
            except TimeoutError as error:
                raise TargetError(f"the faults took {FAULTS_OVERTIME_S:g} s longer than planned") from error
            finally:
                rest.cancel()

    async def _quiet(self) -> None:
        tools = self.equipment
        async with self._in_phase("quiet"):
            await self._end_clients()
            quiet = await tools.target.wait_quiet(within_s=self.plan.phases["quiet"])
        self._leave()
        tools.progress.begin("dumping")
        for name, written in (await tools.target.dump(tools.run_dir)).items():
            if isinstance(written, int):
                tools.events.append("dump.written", name=name, rows=written)
            else:
                tools.events.append("dump.failed", name=name, error=written)
        if not quiet:
            text = f"the target did not become quiet (quiet_when) within {self.plan.phases['quiet']:g} s"
            raise EndEarly(Reason(outcome="error", text=text))

    async def _end(self, reason: Reason | None) -> None:
        """Puts everything back, whatever fails on the way; the faults have healed on the way out of the body."""
        tools = self.equipment
        left = list(self._stage.left.values())
        try:
            try:
                await self._end_work(reason, left)
            finally:
                leftovers = await self._stop_target()
                left += leftovers
            tools.events.append("target.stopped", leftovers=leftovers)
            tools.events.append(
                "run.ended",
                outcome="completed" if reason is None else reason.outcome,
                signal=None if reason is None else reason.signal,
                left=left,
                error=None if reason is None else reason.text,
            )
        except OSError as error:
            text = f"{tools.run_dir}: what happens cannot be written down any more: {error}; the run was ended"
            if left:
                raise HealError(f"{text}, and this is left: {'; '.join(left)}") from error
            raise TargetError(f"{text} and everything put back; is the disk full?") from error

    async def _end_work(self, reason: Reason | None, left: list[str]) -> None:
        """Ends what goes on beside the target; what it cannot end comes to `left`."""
        tools = self.equipment
        self._watch.disarm()
        if reason is not None:
            if reason.signal is not None:
                tools.events.append("run.interrupted", signal=reason.signal)
            tools.log.warning("run.ends_early", outcome=reason.outcome, why=reason.text)
            tools.progress.notes.append(reason.text)
        tools.progress.begin("stopping")
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        try:
            await self._end_clients()
        except HoldfastError as error:
            left.append(str(error))
        self._leave()

    async def _stop_target(self) -> list[str]:
        """Stops the target, then ends whatever of the run still lives; what is left, in words."""
        tools = self.equipment
        try:
            left = list(await tools.target.stop())
        except (HoldfastError, OSError) as error:
            left = [str(error)]
        return [*left, *await asyncio.to_thread(end_run, tools.run_dir)]

    async def _end_clients(self) -> None:
        """Ends the clients that still run, all at once, and writes down the last word of each, once."""
        ends = (self._end_client(client) for client in self._running.values())
        results = await asyncio.gather(*ends, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:  # all were ended; one that fails does not keep the others running
            raise failures[0]

    async def _end_client(self, client: Client) -> None:
        returncode, said = await client.finish()
        del self._running[client.name]
        self.equipment.events.append("load.finished", name=client.name, returncode=returncode, **counts(said))
        self.equipment.log.info("client.finished", client=client.name, returncode=returncode)

    @contextlib.asynccontextmanager
    async def _in_phase(self, name: str) -> AsyncIterator[None]:
        self._enter(name)
        async with self._read_around():
            yield

    @contextlib.asynccontextmanager
    async def _read_around(self) -> AsyncIterator[None]:
        """Takes the readings at the start of the phase, beside its work, and at its end."""
        reading = asyncio.create_task(self._readings.take(f"{self._phase}.start"))
        try:
            yield
            await reading
        finally:
            reading.cancel()
        await self._readings.take(f"{self._phase}.end")

    def _enter(self, phase: str) -> None:
        tools = self.equipment
        self._close_phase()
        planned_s = self.plan.phases[phase]
        event = tools.events.append("phase.started", phase=phase, planned_s=planned_s)
        self._phase, self._phase_began_ns = phase, event.t_ns
        tools.log.info("phase.started", phase=phase)
        tools.progress.begin(phase, planned_s=planned_s)

    def _leave(self) -> None:
        """Ends the phase that goes on, if one does."""
        if self._phase is not None:
            self.equipment.events.append("phase.ended", phase=self._phase)
            self._close_phase()
            self._phase = None

    def _close_phase(self) -> None:
        if self._phase is not None:
            self.phases[self._phase] = (self._phase_began_ns, time.monotonic_ns())

    async def _rest(self) -> None:
        """Waits for the planned end of the phase that goes on."""
        assert self._phase is not None, "only a phase that goes on can be waited for"  # noqa: S101
        ends_ns = self._phase_began_ns + int(self.plan.phases[self._phase] * 1e9)
        await asyncio.sleep(max(0.0, (ends_ns - time.monotonic_ns()) / 1e9))

    def _take_state(self, fault_id: str) -> None:
        """Beside the fault, which is not to be held up by it."""
        if self.state is not None:
            self._watch_task(self._readings.take_one(self.state, fault_id))

    def _hear(self, client: Client, word: str, said: Mapping[str, Any]) -> None:
        """Whatever a client says, as it says it."""
        tools = self.equipment
        try:
            if word == "hiccup":
                tools.events.append("hiccup", stalled_ns=said["stalled_ns"], ended_ns=said["t_ns"])
            elif word == "status":
                tools.events.append("load.status", name=client.name, **counts(said))
                tools.progress.take(client.name, said)
                self._watch.take(client.name, said)
            elif word == "ready":
                tools.events.append("load.ready", name=client.name)
        except OSError as error:
            # Nobody awaits whoever listens: this is how the body learns of it.
            tools.switch.request(Reason(outcome="error", text=f"what clients say cannot be written down: {error}"))

    def _trip(self, tripped: Tripped) -> None:
        value = tripped.value if isinstance(tripped.value, str) else round(tripped.value, 6)
        self.equipment.events.append(
            "guardrail.tripped", guardrail=tripped.guardrail, value=value, limit=tripped.limit, client=tripped.client
        )
        seen = "" if tripped.client is None else f", seen by the {tripped.client}"
        text = f"guardrail {tripped.guardrail}: {tripped.text}{seen}"
        self.equipment.switch.request(Reason(outcome="guardrail", text=text))

    async def _look_on(self) -> None:
        tools = self.equipment
        try:
            await self._watch.look_on(Surroundings(run_dir=tools.run_dir, target=tools.target))
        except OSError as error:
            # Nobody awaits whoever looks: this is how the body learns that nobody does any more.
            tools.switch.request(Reason(outcome="error", text=f"the guardrails cannot be looked at: {error}"))

    def _watch_task(self, work: Coroutine[Any, Any, None]) -> None:
        self._watchers.append(asyncio.create_task(work))

    async def _watch_client(self, client: Client) -> None:
        returncode = await client.exited()
        if not client.stopping:
            told = f"the {client.name} {ending(returncode)} by itself: what clients saw is unknown"
            text = f"{told}; {last_lines(client.log)}"
            self.equipment.switch.request(Reason(outcome="error", text=text))

    async def _watch_watchdog(self) -> None:
        returncode = await self.equipment.watchdog.lost()
        text = f"the watchdog is gone (exit status {returncode}): without it nothing may be broken"
        self.equipment.switch.request(Reason(outcome="error", text=text))

    async def _limit_duration(self, limit_s: float) -> None:
        await asyncio.sleep(limit_s)
        self.equipment.switch.request(Reason(outcome="error", text=f"longer than --max-duration {limit_s:g} s"))
