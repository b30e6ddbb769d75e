"""An experiment and its target, read and planned: everything that can be known to be wrong before anything is started.

experiment.yaml -> Experiment -.
                                >-- plan --> Prepared, or the problems of both files at once
topology.yaml --> Draft -> Outline
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chaos.documents import Document, load
from chaos.errors import ExperimentError
from chaos.experiment import Experiment, understand
from chaos.outline import UNKNOWN, outline, shapes
from chaos.planner import Plan, lacking, plan
from chaos.targets.topology import Draft, Topology, draft_topology
from chaos.wording import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is ready to be run."""

    experiment: Experiment
    topology: Topology
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What could be read of a target, and its problems: those in its own file, and those that the experiment makes."""

    draft: Draft | None = None
    problems: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def prepare(
    path: Path,
    *,
    target: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    spare_seed: int = 0,
) -> Prepared:
    """The experiment in the file `path` with its target and plan.

    `target` and `seed` take the place of the file's own, `overrides` come on top of them, and `spare_seed` serves where
    there is no other seed.

    Raises:
        ExperimentError: every problem of both files, each once, those of the experiment first, in order of lines. A
            file that cannot be read as YAML is told alone.
    """
    return prepare_document(load(path), target=target, overrides=overrides, seed=seed, spare_seed=spare_seed)


def prepare_document(
    document: Document,
    *,
    target: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    spare_seed: int = 0,
) -> Prepared:
    """The experiment in a document, which need not be a file any more, as `prepare` has it from a file.

    Raises:
        ExperimentError: as there.
    """
    experiment = understand(document, target=target)
    found = _read_target(experiment, overrides or {}, own=target is None)
    experiment = replace(experiment, written=experiment.written.also(found.findings))
    sure = experiment.written.whole(("set",))
    known = UNKNOWN if found.draft is None else outline(found.draft, overrides_known=sure)
    chosen = next(one for one in (seed, experiment.seed, spare_seed) if one is not None)
    problems: list[str] = []
    try:
        planned = plan(experiment, known.roles, chosen, probe_path=known.probe_path, names=known.names)
    except ExperimentError as error:
        problems += error.problems
    problems += found.problems
    if problems or found.draft is None:
        raise ExperimentError(problems)
    topology = replace(found.draft.topology(), requirement=planned.requires)
    return Prepared(experiment=experiment, topology=topology, plan=planned)


def refuse_lacking(ready: Prepared) -> None:
    """Looks whether this machine has what the faults need; nothing is started for that.

    Raises:
        ExperimentError: what it has not got, with the lines of the faults, and what to do.
    """
    if problems := lacking(ready.experiment, shapes(ready.topology)):
        raise ExperimentError(problems)


def _read_target(experiment: Experiment, overrides: Mapping[str, Any], *, own: bool) -> _Target:
    """The target that the experiment names itself, unless it is not its `own`, with what both of them override."""
    if own and not experiment.written.whole(("target",)):
        return _Target()
    try:
        draft = draft_topology(experiment.target, {**experiment.overrides, **overrides})
    except ExperimentError as error:
        return _unreadable(experiment.target, error, own=own)
    of_experiment = {path for path in draft.lost if path in experiment.overrides and path not in overrides}
    findings = tuple((("set", path), text) for path, text in draft.lost.items() if path in of_experiment)
    draft = replace(draft, lost={path: text for path, text in draft.lost.items() if path not in of_experiment})
    return _Target(draft=draft, problems=tuple(draft.problems()), findings=findings)


def _unreadable(target: Path, error: ExperimentError, *, own: bool) -> _Target:
    """Where a file is not there or not to be read, the line is that of the experiment which names it."""
    whole_file = f"{target}: "
    if not own or not all(problem.startswith(whole_file) for problem in error.problems):
        return _Target(problems=error.problems)
    return _Target(
        findings=tuple((("target",), f"{problem.removeprefix(whole_file)}: {target}") for problem in error.problems)
    )
