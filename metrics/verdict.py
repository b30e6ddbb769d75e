"""The verdict of a run: its grade, its exit code, and everything that led to it, as data.

    5 left dirty > 130/143 interrupted > 64 usage > 4 guardrail > 1 fail > 3 baseline not met > 2 unknown > 0 pass

The order holds for several runs of one command too. `verdict.json` has the same bytes for the same run.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from metrics.findings import Finding, Grade

SCHEMA: Final = "verdict/1"
PASS, FAIL, UNKNOWN, BASELINE, GUARDRAIL, DIRTY, USAGE, SIGINT, SIGTERM = 0, 1, 2, 3, 4, 5, 64, 130, 143
PRECEDENCE: Final = (DIRTY, SIGINT, SIGTERM, USAGE, GUARDRAIL, FAIL, BASELINE, UNKNOWN, PASS)
WORDS: Final = {
    PASS: "pass",
    FAIL: "fail",
    UNKNOWN: "unknown",
    BASELINE: "baseline_not_met",
    GUARDRAIL: "guardrail",
    DIRTY: "left_dirty",
    SIGINT: "interrupted",
    SIGTERM: "interrupted",
}


def combine_exit_codes(codes: Iterable[int]) -> int:
    """The exit code for several outcomes; without any nothing was shown, which is unknown (2).

    Raises:
        ValueError: a code that is none of ours.
    """
    given = list(codes)
    for code in given:
        if code not in PRECEDENCE:
            raise ValueError(f"{code} is no exit code of a run; known: {', '.join(map(str, PRECEDENCE))}")
    return min(given, key=PRECEDENCE.index, default=UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOutcome:
    """What became of one fault; seconds count from the start of the phase `faults`, None is never."""

    fault_id: str
    name: str
    instances: Sequence[str]
    injected_s: float | None
    healed_s: float | None
    effect: bool
    healed: bool
    kept: bool
    recovery_s: float | None
    first_error_s: float | None
    error: str | None
    evidence: Mapping[str, Any]

    def as_data(self) -> dict[str, Any]:
        """As it stands in `verdict.json`."""
        return {
            "fault_id": self.fault_id,
            "name": self.name,
            "instances": list(self.instances),
            "injected_s": self.injected_s,
            "healed_s": self.healed_s,
            "effect": self.effect,
            "healed": self.healed,
            "kept": self.kept,
            "recovery_s": self.recovery_s,
            "first_error_s": self.first_error_s,
            "error": self.error,
            "evidence": dict(self.evidence),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run showed. `reasons` say why it is no pass, the weightiest first; a pass has none."""

    run_id: str
    experiment: str | None
    title: str | None
    seed: int | None
    commit: str | None
    exit_code: int
    reasons: Sequence[str]
    started: str | None
    duration_s: float | None
    expectations: Sequence[Finding]
    faults: Sequence[FaultOutcome]
    unexplained: Mapping[str, Any]
    operations: Mapping[str, Any]
    availability: Mapping[str, Any]
    measuring: Mapping[str, Any]
    left: Sequence[str]
    replay: str | None
    phases: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def word(self) -> str:
        """`pass`, `fail`, `unknown`, `baseline_not_met`, `guardrail`, `left_dirty` or `interrupted`."""
        return WORDS[self.exit_code]

    @property
    def passed(self) -> bool:
        """Whether CI may be green."""
        return self.exit_code == PASS

    def as_data(self) -> dict[str, Any]:
        """The document of `verdict.json`."""
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "experiment": self.experiment,
            "title": self.title,
            "seed": self.seed,
            "commit": self.commit,
            "verdict": self.word,
            "exit_code": self.exit_code,
            "reasons": list(self.reasons),
            "started": self.started,
            "duration_s": self.duration_s,
            "phases": [dict(phase) for phase in self.phases],
            "expectations": [_finding(finding) for finding in self.expectations],
            "faults": [fault.as_data() for fault in self.faults],
            "unexplained": dict(self.unexplained),
            "operations": dict(self.operations),
            "availability": dict(self.availability),
            "measuring": dict(self.measuring),
            "left": list(self.left),
            "replay": self.replay,
        }

    def to_json(self) -> bytes:
        """`verdict.json`; the same verdict gives the same bytes."""
        text = json.dumps(_finite(self.as_data()), indent=2, allow_nan=False, default=str)
        return text.encode("ascii") + b"\n"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "verdict": finding.grade.value,
        "value": finding.value,
        "limit": finding.limit,
        "unit": finding.unit,
        "sense": finding.sense,
        "witness": [dict(one) for one in finding.witness],
        "detail": finding.detail,
    }


def _finite(value: Any) -> Any:
    """The same data without NaN and infinity, which JSON cannot say and which come in with foreign rows."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def verdict_schema() -> dict[str, Any]:
    """The JSON Schema of `verdict.json`. Readers may rely on what is listed; more may be added."""
    text, number = {"type": "string"}, {"type": "number"}
    maybe_text, maybe_number = {"type": ["string", "null"]}, {"type": ["number", "null"]}
    texts = {"type": "array", "items": text}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The verdict of a Holdfast run",
        **_object(
            {
                "schema": {"const": SCHEMA},
                "run_id": text,
                "experiment": maybe_text,
                "title": maybe_text,
                "seed": {"type": ["integer", "null"]},
                "commit": maybe_text,
                "verdict": {"enum": sorted(set(WORDS.values()))},
                "exit_code": {"enum": sorted(WORDS)},
                "reasons": texts,
                "started": maybe_text,
                "duration_s": maybe_number,
                "phases": {
                    "type": "array",
                    "items": _object({"name": text, "start_s": number, "end_s": number}),
                },
                "expectations": {"type": "array", "items": _expectation_schema()},
                "faults": {"type": "array", "items": _fault_schema()},
                "unexplained": _object({"count": {"type": "integer"}, "witness": {"type": "array"}}),
                "operations": _object({name: {"type": "integer"} for name in ("ok", "fail", "info", "declined")}),
                "availability": _object(
                    {"by_request": maybe_number, "by_time": maybe_number, "longest_gap_s": maybe_number}
                ),
                "measuring": {"type": "object"},
                "left": texts,
                "replay": maybe_text,
            }
        ),
    }


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _expectation_schema() -> dict[str, Any]:
    number_or_text = {"type": ["number", "string", "null"]}
    return _object(
        {
            "name": {"type": "string"},
            "verdict": {"enum": [grade.value for grade in Grade]},
            "value": number_or_text,
            "limit": number_or_text,
            "unit": {"type": "string"},
            "sense": {"enum": ["at most", "at least", ""]},
            "witness": {"type": "array", "items": {"type": "object"}},
            "detail": {"type": "string"},
        }
    )


def _fault_schema() -> dict[str, Any]:
    maybe_number = {"type": ["number", "null"]}
    return _object(
        {
            "fault_id": {"type": "string"},
            "name": {"type": "string"},
            "instances": {"type": "array", "items": {"type": "string"}},
            "injected_s": maybe_number,
            "healed_s": maybe_number,
            "effect": {"type": "boolean"},
            "healed": {"type": "boolean"},
            "kept": {"type": "boolean"},
            "recovery_s": maybe_number,
            "first_error_s": maybe_number,
            "error": {"type": ["string", "null"]},
            "evidence": {"type": "object"},
        }
    )
