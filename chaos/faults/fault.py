"""What a fault is, and the register of all of them.

    choose(roles, busy, rng) -> victims                  pure; when the experiment is planned
    requires(roles) -> Requirement                       pure; only of a fault that needs something before the start
    undo_steps(scene) -> written and synced              before anything is touched
    inject(scene) -> effect(scene) -> heal(scene) -> heal_proof(scene)

One module, one fault: decorate a frozen dataclass with `@FAULTS.register("name")`, put the module into this
folder, done. Its fields are what an experiment writes under the fault's name. `effect` and `heal_proof` look once;
whoever plays the fault asks again until they are proven or a limit is reached. `heal` may be called twice, after an
injection that was cut off half-way, and while nothing is in force.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, Protocol, runtime_checkable

from chaos.processes import Identity
from chaos.requirement import Requirement
from chaos.targets.target import Target
from chaos.undo import Step
from metrics.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleShape:
    """What a planner knows of a role before it runs: its instances, in order, with their zones."""

    name: str
    zones: Mapping[str, str | None]
    """instance name -> zone"""
    external: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whether something was seen to hold, and what was seen."""

    proven: bool
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One occurrence of a fault: where it plays, on whom, and who they were before."""

    fault_id: str
    target: Target
    instances: tuple[str, ...]
    before: Mapping[str, Identity | None]
    took_hold: Callable[[], None] = lambda: None
    """Called by an injection that takes long, at the moment it begins to bite; otherwise its end counts."""
    record: Callable[[Sequence[Step]], None] = lambda _steps: None
    """Replaces the undo record, on disk when it returns, by an injection that finds more to take back; before doing it.

    Raises OSError when that cannot be written: then it must not be done.
    """
    notes: dict[Any, Any] = field(default_factory=dict)
    """What an injection learns and a proof needs: exit statuses, for example."""

    @classmethod
    def open(
        cls,
        *,
        fault_id: str,
        target: Target,
        instances: Sequence[str],
        took_hold: Callable[[], None] = lambda: None,
        record: Callable[[Sequence[Step]], None] = lambda _steps: None,
    ) -> "Scene":
        """The scene as it is now, before anything is touched."""
        before = {name: target.identity(name) for name in instances}
        return cls(
            fault_id=fault_id,
            target=target,
            instances=tuple(instances),
            before=before,
            took_hold=took_hold,
            record=record,
        )


class NotThereError(ValueError):
    """Roles, zones or instances that are asked for and that the target does not have, whatever becomes of the rest."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class Fault(Protocol):
    """One kind of harm with its parameters; see the module's head for the order of the calls.

    Names of fields in seconds end in `_s`: how long a fault lasts depends on them alone, whom it takes on the others.
    Its own check (`__post_init__`) refuses what is given and does not go together.
    """

    example: ClassVar[Mapping[str, Any]]
    """Parameters as an experiment writes them: shown to people, and what the contract tests play."""

    @property
    def heal_after_s(self) -> float | None:
        """Seconds from injection to healing; None for a change (a deploy), which is kept once it shows."""

    def takes_s(self, victims: int) -> float:
        """Seconds for which so many victims should be left alone by others, as far as can be known beforehand."""

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:
        """The victims, in order; pure. `busy` are instances in the hands of another fault at that time.

        Raises:
            NotThereError: no such role, nobody to choose.
            ValueError: too few are free, or more would be taken than was said.
        """

    def undo_steps(self, scene: Scene) -> Sequence[Step]:
        """Plain data by which another process can put things right without this one (see `chaos.undo`)."""

    async def inject(self, scene: Scene) -> None:
        """Does the harm."""

    async def effect(self, scene: Scene) -> Proof:
        """Looks once whether the harm is in force."""

    async def heal(self, scene: Scene) -> None:
        """Puts things right; harmless when they are."""

    async def heal_proof(self, scene: Scene) -> Proof:
        """Looks once whether things are right again: not while the harm is in force, whatever became of `heal`.

        A change that is kept is not asked for this, but for its effect once more.
        """


@runtime_checkable
class Requiring(Protocol):
    """A fault that needs something of the target before it starts, or of the machine; most need nothing."""

    def requires(self, roles: Mapping[str, RoleShape]) -> Requirement:
        """What it needs; pure, and the same for every occurrence.

        Raises:
            NotThereError: no such role, or one that is not ours to start.
        """


def requirement_of(fault: Fault, roles: Mapping[str, RoleShape]) -> Requirement:
    """What a fault needs before the target starts; nothing where it does not say."""
    return fault.requires(roles) if isinstance(fault, Requiring) else Requirement()


@runtime_checkable
class DecidedLate(Protocol):
    """A fault that knows only when it plays whom of the chosen it takes: all of them are kept free for it."""

    async def narrow(self, target: Target, instances: tuple[str, ...]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
        """Whom it takes, and by what that was decided (nothing where nothing was left to decide).

        Raises:
            TargetError: that cannot be told now; it is asked again for a while.
        """


@runtime_checkable
class Gradual(Protocol):
    """A fault that never has all of the chosen in its hands at a time."""

    def takes_at_once(self, victims: int) -> int:
        """How many of so many it takes at a time, at most."""


def most_at_once(fault: Fault, victims: int) -> int:
    """How many of so many victims a fault takes at a time, at most."""
    return min(victims, fault.takes_at_once(victims)) if isinstance(fault, Gradual) else victims


FAULTS: Registry[type[Fault]] = Registry("chaos.faults", "fault")
