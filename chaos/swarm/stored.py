"""A stored run, to be run again: the experiment it had, on the target it had, with its seed and overrides."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.documents import Document, parse
from chaos.errors import ExperimentError
from chaos.preparing import Prepared, prepare_document
from metrics.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What a run's folder says of how it was run and what came of it."""

    folder: Path
    document: Document
    target: Path
    overrides: Mapping[str, Any]
    seed: int
    verdict: Mapping[str, Any]
    plan: Mapping[str, Any]
    topology_text: str

    def prepare(self) -> Prepared:
        """The same experiment, planned once more.

        Raises:
            ExperimentError: it no longer fits its target, or something it names is gone.
        """
        return prepare_document(self.document, target=self.target, overrides=self.overrides, seed=self.seed)

    def changes(self, now: Prepared) -> list[str]:
        """What is no longer as it was then, before anything is run."""
        found = []
        if self.target.read_text() != self.topology_text:
            found.append(f"the target's file has changed since: {self.target}")
        if now.plan.to_json()["timeline"] != self.plan.get("timeline"):
            found.append("the timeline is another one: Holdfast or the target has changed since")
        return found


def read_stored(folder: Path) -> StoredRun:
    """The run in a folder.

    Raises:
        ExperimentError: files that say how it was run are missing or damaged.
    """
    run, plan = _object(folder / "run.json"), _object(folder / "plan.json")
    try:
        text = (folder / "experiment.yaml").read_text()
        topology_text = (folder / "topology.yaml").read_text()
        verdict = _object(folder / "verdict.json") if (folder / "verdict.json").exists() else {}
        # Of a run that does not say where its experiment lay, paths in it are taken as relative to the folder.
        source = Path(run.get("source", folder / "experiment.yaml"))
        return StoredRun(
            folder=folder,
            document=parse(source, text),
            target=Path(run["target"]),
            overrides=dict(run["overrides"]),
            seed=int(run["seed"]),
            verdict=verdict,
            plan=plan,
            topology_text=topology_text,
        )
    except OSError as error:
        raise ExperimentError(
            [f"{error.filename}: cannot be read: {error.strerror}; the run cannot be repeated"]
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ExperimentError([f"{folder / 'run.json'}: does not say how it was run: {error!r}"]) from error


def differences(before: Sequence[Event], after: Sequence[Event]) -> list[str]:
    """Where a second run went another way, in what is decided at run time: whom faults took, what they waited for."""
    first, second = _decided(before), _decided(after)
    both = {it: (first.get(it, {}), second.get(it, {})) for it in dict.fromkeys([*first, *second])}
    return [
        f"{fault_id}: {what}: then {then.get(what, 'nothing')}, now {now.get(what, 'nothing')}"
        for fault_id, (then, now) in both.items()
        for what in dict.fromkeys([*then, *now])
        if then.get(what) != now.get(what)
    ]


def _decided(events: Sequence[Event]) -> dict[str, dict[str, str]]:
    """Fault id -> what was decided while it went on, in words."""
    found: dict[str, dict[str, str]] = {}
    for event in events:
        if event.fault_id is None:
            continue
        of_it = found.setdefault(event.fault_id, {})
        match event.kind:
            case "fault.chosen":
                of_it["whom it took"] = ", ".join(map(str, event.data.get("instances", [])))
            case "fault.triggered":
                by = event.data.get("by", {})
                of_it["what it waited for"] = (
                    f"{by['reading']} {by.get('value')}" if "reading" in by else f"{', '.join(by.get('faults', []))}"
                )
            case "fault.effect":
                of_it["effect proven"] = "yes" if event.data.get("proven") else "no"
            case "fault.failed":
                of_it[f"{event.data.get('step')} failed"] = str(event.data.get("error"))
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ExperimentError([f"{path}: cannot be read: {error.strerror}; is this a folder of a run?"]) from error
    except ValueError as error:
        raise ExperimentError([f"{path}: is damaged: {error}"]) from error
    if not isinstance(content, dict):
        raise ExperimentError([f"{path}: expected an object"])
    return content
