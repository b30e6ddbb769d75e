"""What `holdfast up` says about the target it holds: `runs/up/<name>/up.json`, and where it can be asked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.processes import Identity, alive
from chaos.requirement import Requirement
from chaos.roster import boot_id

STATE_FILE: Final = "up.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpState:
    """A target that is up: its holder, the overrides it was started with, its instances and outputs.

    `socket` is an abstract Unix socket: a path in a deep folder would be longer than the kernel's 107 bytes.
    `instances` maps a name to `{"port", "ports", "zone", "pid", "start_ticks"}`.
    """

    name: str
    topology: Path
    overrides: Mapping[str, Any]
    digest: str
    """Of the topology with its overrides, as it was when the target was started."""
    holder: Identity
    boot: str
    socket: str
    run_dir: Path
    url: str
    instances: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    requirement: Requirement = field(default_factory=Requirement)
    """What faults need of it and it was started with."""

    @property
    def alive(self) -> bool:
        """Whether its holder still holds it."""
        return self.boot == boot_id() and alive(self.holder)

    def write(self, path: Path) -> None:
        """Puts the state in place as a whole."""
        record = {
            "schema": "up/1",
            "name": self.name,
            "topology": str(self.topology),
            "overrides": dict(self.overrides),
            "digest": self.digest,
            "holder": {"pid": self.holder.pid, "start_ticks": self.holder.start_ticks},
            "boot": self.boot,
            "socket": self.socket.removeprefix("\0"),
            "run_dir": str(self.run_dir),
            "url": self.url,
            "instances": {name: dict(it) for name, it in self.instances.items()},
            "outputs": {role: dict(it) for role, it in self.outputs.items()},
            "requires": self.requirement.to_json(),
        }
        partial = path.with_suffix(".partial")
        # Outputs hold passwords of the target's database.
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(record, indent=1))
        partial.rename(path)


def read_up(path: Path) -> UpState | None:
    """The state in a file; None when there is none."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return UpState(
        name=record["name"],
        topology=Path(record["topology"]),
        overrides=record["overrides"],
        digest=record["digest"],
        holder=Identity(**record["holder"]),
        boot=record["boot"],
        socket="\0" + record["socket"],
        run_dir=Path(record["run_dir"]),
        url=record["url"],
        instances=record["instances"],
        outputs=record["outputs"],
        requirement=Requirement.from_json(record.get("requires", {})),
    )


def socket_of(folder: Path) -> str:
    """The name of the socket for the folder of an `up` target; who binds it holds the target."""
    return f"\0holdfast-up-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}"


def all_up(runs_dir: Path) -> tuple[UpState, ...]:
    """Every target that is up, in order of name."""
    states = (read_up(path) for path in sorted(runs_dir.glob(f"up/*/{STATE_FILE}")))
    return tuple(it for it in states if it is not None and it.alive)


def find_up(topology_path: Path, runs_dir: Path) -> UpState | None:
    """The target of a topology file that is up; None when it is not."""
    wanted = topology_path.resolve()
    return next((it for it in all_up(runs_dir) if it.topology == wanted), None)
