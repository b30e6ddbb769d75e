"""What faults need of a target before it starts, and of the machine, as plain data.

    fault.requires(roles) -> Requirement -.
                                           >-- merged --> plan.json, --dry-run, and how the target's processes start
    fault.requires(roles) -> Requirement -'

The planner collects it from all planned faults, a driver starts processes by it, and neither knows what it is for.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

_JOINED: Final = {"LD_PRELOAD": ":"}
"""Variables that may hold what several faults need; of any other there is one value."""

_One = TypeVar("_One")
Check = Callable[[], str | None]
"""Looks at this machine: None where it can, otherwise what it lacks and what to do, in a sentence."""

_checks: dict[str, Check] = {}


def capability(name: str) -> Callable[[Check], Check]:
    """Registers how to see whether this machine has what a fault names among its `capabilities`."""

    def keep(check: Check) -> Check:
        if name in _checks:
            raise ValueError(f"capability {name!r} is registered twice")
        _checks[name] = check
        return check

    return keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What has to be so for a fault to play; nothing by default.

    `env` and `wrap` change how every instance of a role starts. Their texts may hold what the role's own may:
    `${data_dir}`, `${python}`, `${port}`.
    """

    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """role -> variable -> value; on top of the role's own. `LD_PRELOAD` of several faults is joined."""
    wrap: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    """role -> commands, outermost first, before the role's own. Each must `exec` what follows: the pid stays."""
    programs: tuple[str, ...] = ()
    """Programs that must be on the PATH."""
    capabilities: tuple[str, ...] = ()
    """What the machine must allow, by the names of registered checks (see `capability`)."""
    outputs: tuple[str, ...] = ()
    """`role.output` that the target must report."""
    readings: tuple[str, ...] = ()
    """Names of the target's `observe`."""

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return any((self.env, self.wrap, self.programs, self.capabilities, self.outputs, self.readings))

    @property
    def roles(self) -> frozenset[str]:
        """The roles whose start it changes."""
        return frozenset(self.env) | frozenset(self.wrap)

    def merged(self, other: "Requirement") -> "Requirement":
        """Both together; what both ask for is there once.

        Raises:
            ValueError: they cannot be had together, and why.
        """
        return Requirement(
            env=_merged_env(self.env, other.env),
            wrap={
                role: _each_once((*self.wrap.get(role, ()), *other.wrap.get(role, ())))
                for role in _each_once((*self.wrap, *other.wrap))
            },
            programs=_each_once((*self.programs, *other.programs)),
            capabilities=_each_once((*self.capabilities, *other.capabilities)),
            outputs=_each_once((*self.outputs, *other.outputs)),
            readings=_each_once((*self.readings, *other.readings)),
        )

    def lacking(self) -> list[str]:
        """What this machine has not got of it, a sentence each; looks now."""
        programs = (
            f"needs the program {name!r}, which is not on the PATH; install it"
            for name in self.programs
            if shutil.which(name) is None
        )
        told = ((name, _checks[name]()) for name in self.capabilities)
        return [*programs, *(f"needs {name}: {text}" for name, text in told if text is not None)]

    def unmet_by(self, started: "Requirement") -> list[str]:
        """What of it a target lacks that was started by another one: `LD_PRELOAD of portal`."""
        env = [
            f"{name}={value} of {role}"
            for role, wanted in self.env.items()
            for name, value in wanted.items()
            if not _holds(name, started.env.get(role, {}).get(name), value)
        ]
        wrap = [
            f"{' '.join(command)} before {role}"
            for role, commands in self.wrap.items()
            for command in commands
            if command not in started.wrap.get(role, ())
        ]
        return [*env, *wrap]

    def to_json(self) -> dict[str, Any]:
        """As in `requires` of plan.json and up.json: only what it asks for."""
        whole = {
            "env": {role: dict(variables) for role, variables in self.env.items()},
            "wrap": {role: [list(command) for command in commands] for role, commands in self.wrap.items()},
            "programs": list(self.programs),
            "capabilities": list(self.capabilities),
            "outputs": list(self.outputs),
            "readings": list(self.readings),
        }
        return {key: value for key, value in whole.items() if value}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        wrap = record.get("wrap", {}).items()
        return cls(
            env=record.get("env", {}),
            wrap={role: tuple(tuple(command) for command in commands) for role, commands in wrap},
            programs=tuple(record.get("programs", ())),
            capabilities=tuple(record.get("capabilities", ())),
            outputs=tuple(record.get("outputs", ())),
            readings=tuple(record.get("readings", ())),
        )

    def lines(self) -> list[str]:
        """For people, a line each."""
        env = [f"{role}: {name}={value}" for role, all_of in self.env.items() for name, value in all_of.items()]
        wrap = [f"{role}: started by {' '.join(one)}" for role, commands in self.wrap.items() for one in commands]
        programs = [f"the program {name}" for name in self.programs]
        named = [f"the output {name}" for name in self.outputs] + [f"the reading {name}" for name in self.readings]
        return [*env, *wrap, *programs, *(f"of this machine: {name}" for name in self.capabilities), *named]


def merge(requirements: Iterable[Requirement]) -> Requirement:
    """All of them together, in their order.

    Raises:
        ValueError: two cannot be had together, and why.
    """
    whole = Requirement()
    for one in requirements:
        whole = whole.merged(one)
    return whole


def _merged_env(
    first: Mapping[str, Mapping[str, str]], second: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    merged = {role: dict(variables) for role, variables in first.items()}
    for role, variables in second.items():
        own = merged.setdefault(role, {})
        for name, value in variables.items():
            if name in own and name in _JOINED:
                separator = _JOINED[name]
                own[name] = separator.join(_each_once((*own[name].split(separator), *value.split(separator))))
            elif own.setdefault(name, value) != value:
                raise ValueError(
                    f"needs {name}={value} for {role}, and another fault needs {name}={own[name]}: "
                    "they cannot play in one run"
                )
    return merged


def _holds(name: str, started: str | None, wanted: str) -> bool:
    if started is None or name not in _JOINED:
        return started == wanted
    return set(wanted.split(_JOINED[name])) <= set(started.split(_JOINED[name]))


def _each_once(items: Iterable[_One]) -> tuple[_One, ...]:
    return tuple(dict.fromkeys(items))
