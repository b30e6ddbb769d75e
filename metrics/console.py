"""The verdict for a terminal: what came out and why, then the evidence, then how to repeat it.

`render` gives plain text of any width; `print_verdict` colours the words that matter where there is a terminal.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from metrics.findings import Grade
from metrics.sanitise import one_line
from metrics.verdict import FaultOutcome, Verdict
from metrics.wording import NOTHING, percentage, quantity, seconds, value_and_limit

if TYPE_CHECKING:
    from rich.console import Console

_HEADLINES: Final = {
    "pass": "PASS",
    "fail": "FAIL",
    "unknown": "INCONCLUSIVE",
    "baseline_not_met": "BASELINE NOT MET",
    "guardrail": "STOPPED BY A GUARDRAIL",
    "left_dirty": "LEFT DIRTY",
    "interrupted": "INTERRUPTED",
}
_MARKS: Final = {"pass": "ok  ", "fail": "FAIL", "unknown": "?   "}
_FAULTS_MAX: Final = 30
_OF_EVERY_STEP: Final = frozenset({"t_s", "who", "request_id", "event", "started", "time", "timestamp", "level"})


def render(verdict: Verdict) -> str:
    """The verdict as plain text, harmless whatever a system under test put into it."""
    sections = [
        _head(verdict),
        _expectations(verdict),
        _witness(verdict),
        _faults(verdict),
        _numbers(verdict),
        _measuring(verdict),
    ]
    if verdict.replay:
        sections.append([f"Repeat: {_safe(verdict.replay)}"])
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def print_verdict(verdict: Verdict, console: "Console") -> None:
    """Prints `render` on a rich console, with the verdict in colour; nothing in the text is taken for markup."""
    from rich.text import Text

    text = Text(render(verdict))
    colour = {"pass": "green", "fail": "red"}.get(verdict.word, "yellow")
    text.highlight_regex(r"\A[A-Z ]+", style=f"bold {colour}")
    text.highlight_regex(r"(?m)^  FAIL|NOT PROVEN", style="red")
    console.print(text, soft_wrap=True)


def _safe(text: object) -> str:
    return one_line(str(text), chars_max=400)


def _head(verdict: Verdict) -> list[str]:
    title = f"{_HEADLINES[verdict.word]}  {_safe(verdict.title or verdict.run_id)}  (exit {verdict.exit_code})"
    return [title, *(f"  - {_safe(reason)}" for reason in verdict.reasons)]


def _expectations(verdict: Verdict) -> list[str]:
    rows = [
        (_MARKS[one.grade.value], one_line(one.name, chars_max=60), *value_and_limit(one), _safe(one.detail))
        for one in verdict.expectations
    ]
    return ["Expectations", *_aligned([("", "", "value", "limit", ""), *rows])] if rows else []


def _witness(verdict: Verdict) -> list[str]:
    """The first operation that speaks against the run, with its life; all of them stand in the report."""
    for finding in verdict.expectations:
        if finding.grade is Grade.PASS:
            continue
        for witness in finding.witness:
            if witness.get("story"):
                what = " ".join(str(witness[part]) for part in ("f", "outcome", "error") if witness.get(part))
                during = f", during {witness['fault']}" if witness.get("fault") else ""
                head = f"A witness of {finding.name}: {what}, operation {witness.get('operation')}{during}"
                steps = [(_moment(step.get("t_s")), _safe(step.get("who")), _step(step)) for step in witness["story"]]
                return [_safe(head), *_aligned(steps), "  All witnesses are in report.html and verdict.json."]
    return []


def _moment(t_s: Any) -> str:
    return f"{t_s:.3f} s" if isinstance(t_s, int | float) else NOTHING


def _step(step: Mapping[str, Any]) -> str:
    """What a client did, or the line that a process logged of it; what is the same for every step is left out."""
    line = step.get("line")
    told = line if isinstance(line, Mapping) else step
    shown = (f"{name}={value}" for name, value in told.items() if name not in _OF_EVERY_STEP and value is not None)
    return one_line(" ".join(shown), chars_max=240)


def _faults(verdict: Verdict) -> list[str]:
    rows = [
        (
            _safe(one.fault_id),
            _safe(", ".join(one.instances)),
            *_fate(one),
        )
        for one in verdict.faults[:_FAULTS_MAX]
    ]
    more = [f"  and {len(verdict.faults) - _FAULTS_MAX} more"] if len(verdict.faults) > _FAULTS_MAX else []
    return ["Faults", *_aligned(rows), *more] if rows else []


def _fate(fault: FaultOutcome) -> tuple[str, str, str, str]:
    if fault.injected_s is None:
        return "not injected", "", "", ""
    return (
        f"at {seconds(fault.injected_s)}",
        "effect proven" if fault.effect else "effect NOT PROVEN",
        "kept" if fault.kept else ("heal proven" if fault.healed else "heal NOT PROVEN"),
        f"recovered in {quantity(fault.recovery_s, 's')}" if fault.recovery_s is not None else "",
    )


def _numbers(verdict: Verdict) -> list[str]:
    numbers, operations = verdict.availability, verdict.operations
    low_s, high_s = numbers["downtime_s"]
    return [
        "Numbers",
        *_aligned(
            [
                ("availability by request", percentage(numbers["by_request"])),
                ("availability by time", percentage(numbers["by_time"])),
                ("downtime", f"{quantity(low_s, 's')} to {quantity(high_s, 's')}"),
                ("longest gap", quantity(numbers["longest_gap_s"], "s")),
                (
                    "requests",
                    (
                        f"{operations['ok']:,} ok, {operations['fail']:,} failed, {operations['info']:,} unknown, "
                        f"{operations['declined']:,} declined"
                    ),
                ),
                ("on the wire", f"{operations['retries']:,} retries, {operations['replays']:,} replays"),
            ]
        ),
    ]


def _measuring(verdict: Verdict) -> list[str]:
    """What the measuring side says of itself."""
    frozen = verdict.measuring["hiccups"]
    rows = [
        (
            "freezes of this machine",
            (
                f"{frozen['count']}, {quantity(frozen['total_s'], 's')} in all, "
                f"{percentage(frozen['share_of_faults'])} of the faults phase"
            ),
        )
    ]
    for name, counts in verdict.measuring["loads"].items():
        lateness = quantity(counts["lateness_p99_s"], "s")
        unsent = NOTHING if counts["unsent"] is None else f"{counts['unsent']:,.0f}"
        started = percentage(counts["started_ratio"])
        rows.append((f"{name} itself", f"{started} started, {unsent} unsent, p99 {lateness} late"))
    rows += [("damaged", _safe(one)) for one in verdict.measuring["history"]["damaged"]]
    return ["Measuring", *_aligned(rows)]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns below one another; the last column may be of any width."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
