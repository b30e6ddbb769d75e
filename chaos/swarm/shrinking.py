"""Finding what of a failed run makes it fail: its faults are played again, fewer of them, then simpler ones.

stored run -> pinned faults -> all fail again? -> ddmin -> simplify -> an experiment
                                    each question is some runs, k of n of which must fail in the same way
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from chaos.documents import Document, parse
from chaos.errors import ExperimentError
from chaos.outline import shapes
from chaos.preparing import Prepared, prepare_document
from chaos.swarm.anchoring import anchored
from chaos.swarm.fixing import Candidate, Pinned, pin, simpler
from chaos.swarm.minimizing import ddmin, simplify
from chaos.swarm.stored import StoredRun
from metrics.events import Event

_FAIL: Final = 1
_GUARDRAIL: Final = 4
_SIMPLIFICATIONS: Final = 12


class StoppedError(Exception):
    """Raised by whoever runs experiments to end the search: what has been found by then is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a run failed: the exit code, and the expectations that did not hold."""

    exit_code: int
    expectations: frozenset[str]

    @classmethod
    def of(cls, verdict: Mapping[str, Any]) -> "Failure":
        """That of a verdict, as it stands in verdict.json."""
        failed = (one["name"] for one in verdict.get("expectations", ()) if one.get("verdict") == "fail")
        return cls(exit_code=int(verdict.get("exit_code", -1)), expectations=frozenset(map(str, failed)))

    def again(self, other: "Failure") -> bool:
        """Whether another one is of the same kind: some of the same expectations, or a guardrail as then."""
        if self.exit_code == _GUARDRAIL:
            return other.exit_code == _GUARDRAIL
        return other.exit_code == _FAIL and bool(self.expectations & other.expectations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """A part counts as failing when at least `needed` of at most `of` runs of it fail."""

    needed: int
    of: int

    def decide(self, fails_once: Callable[[], bool]) -> bool:
        """Runs as often as it takes to know, at most `of` times."""
        failed = 0
        for done in range(1, self.of + 1):
            failed += fails_once()
            if failed >= self.needed or failed + self.of - done < self.needed:
                break
        return failed >= self.needed


Run = Callable[[Prepared, str], Failure]
"""Plays an experiment and gives what came of it; the text says what is tried. `StoppedError` ends the search."""


@dataclass(slots=True, kw_only=True)
class Search:
    """The search for the smallest failing part of a run."""

    stored: StoredRun
    events: Sequence[Event]
    odds: Odds
    run: Run
    found: Candidate | None = None
    """The smallest part that was seen to fail so far."""
    minimal: bool = False
    """Whether none of its faults can be left out; simpler ones may still be looked for."""
    runs: int = 0
    _failure: Failure = field(init=False)

    def __post_init__(self) -> None:
        self._failure = Failure.of(self.stored.verdict)

    def go(self) -> None:
        """Searches to the end, or until stopped; without anything `found` the run did not fail again.

        Raises:
            ExperimentError: the run did not fail, had no faults, or cannot be planned any more.
        """
        whole = self._whole()
        if not self._fails(whole):
            return
        fewest = ddmin(whole.faults, lambda faults: self._fails(replace(whole, faults=faults)))
        self.minimal = True
        self.found = simplify(replace(whole, faults=fewest), simpler, self._fails, rounds=_SIMPLIFICATIONS)

    def text(self, candidate: Candidate) -> str:
        """A candidate as an experiment file that `holdfast run` takes, wherever it is put."""
        return yaml.safe_dump(self._data(candidate), sort_keys=False, allow_unicode=True, width=100)

    def _whole(self) -> Candidate:
        if not self._failure.expectations and self._failure.exit_code != _GUARDRAIL:
            verdict = self.stored.verdict.get("verdict", "without a verdict")
            raise ExperimentError([f"{self.stored.folder}: this run is {verdict}: only what failed can be shrunk"])
        ready = self.stored.prepare()
        faults = pin(ready.plan.timeline, shapes(ready.topology), self.events)
        if not faults:
            raise ExperimentError([f"{self.stored.folder}: this run failed without any fault that played"])
        whole = Candidate(faults=tuple(faults), room_s=ready.plan.phases["faults"])
        self._prepare(whole)
        return whole

    def _fails(self, candidate: Candidate) -> bool:
        try:
            ready = self._prepare(candidate)
        except ExperimentError:
            return False  # without what it followed, or as short as that, it cannot be played
        told = ", ".join(one.label for one in candidate.faults)
        fails = self.odds.decide(lambda: self._fails_once(ready, told))
        if fails:
            self.found = candidate
        return fails

    def _fails_once(self, ready: Prepared, told: str) -> bool:
        self.runs += 1
        return self._failure.again(self.run(ready, told))

    def _prepare(self, candidate: Candidate) -> Prepared:
        stored = self.stored
        document = parse(stored.document.path.with_name("shrunk.yaml"), self.text(candidate))
        return prepare_document(document, target=stored.target, overrides=stored.overrides, seed=stored.seed)

    def _data(self, candidate: Candidate) -> dict[str, Any]:
        stored = self.stored
        data = anchored(stored.document.data, stored.document.path.parent)
        data |= {
            "title": str(data["title"])[:180] + " (shrunk)",
            "target": str(stored.target),
            "seed": stored.seed,
            "phases": {**data.get("phases", {}), "faults": f"{candidate.room_s:g}s"},
            "faults": candidate.entries(),
            "expect": _still_asked(data["expect"], stored.document, candidate.faults),
            "set": dict(stored.overrides),
        }
        return {key: value for key, value in data.items() if value not in ({}, [])}


def _still_asked(expect: Sequence[Any], document: Document, faults: Sequence[Pinned]) -> list[Any]:
    """The expectations without those that ask what happens `during` a fault that does not play any more."""
    names = {one.name for one in faults} | {one.label for one in faults}
    kept = []
    for entry in expect:
        params = next(iter(entry.values())) if isinstance(entry, dict) else None
        during = params.get("during") if isinstance(params, dict) else None
        if during is None or str(during) in names:
            kept.append(entry)
    assert kept or not document.data["expect"], "an expectation that failed may be asked during what plays"  # noqa: S101
    return kept
