"""The files that a judged run leaves for machines and people: verdict.json, junit.xml, summary.md, report.html."""

from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from metrics.evidence import Evidence
from metrics.findings import Finding, Grade
from metrics.sanitise import one_line, plain, plain_json
from metrics.verdict import FaultOutcome, Verdict
from metrics.wording import NOTHING, percentage, quantity, seconds, value_and_limit

SUMMARY_BYTES_MAX: Final = 1024 * 1024
"""GitHub drops a step summary that is larger, all of it."""
_WITNESS_CHARS_MAX: Final = 20_000


def write_outputs(evidence: Evidence, verdict: Verdict) -> None:
    """Writes all four into the run's folder; each appears whole or not at all.

    Raises:
        OSError: a file cannot be written.
    """
    from metrics.report.page import report_html

    run_dir = evidence.run_dir
    _replace(run_dir / "verdict.json", verdict.to_json())
    _replace(run_dir / "junit.xml", junit_xml(verdict))
    _replace(run_dir / "summary.md", summary_markdown(verdict).encode())
    _replace(run_dir / "report.html", report_html(evidence, verdict).encode())


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def junit_xml(verdict: Verdict) -> bytes:
    """One testcase per expectation and per fault's effect and heal, and one for the run itself.

    fail is a `<failure>`; unknown is an `<error>`, because CI systems show skipped as green.
    """
    suite = ET.Element("testsuite", name=_attribute(verdict.title or verdict.experiment or verdict.run_id))
    properties = ET.SubElement(suite, "properties")
    for name in ("run_id", "seed", "commit", "experiment", "replay"):
        ET.SubElement(properties, "property", name=name, value=_attribute(getattr(verdict, name)))
    cases = [_run_case(verdict), *(_expectation_case(one) for one in verdict.expectations)]
    for fault in verdict.faults:
        cases += _fault_cases(fault, verdict)
    for case in cases:
        case.set("classname", _attribute(verdict.experiment or verdict.title or "run"))
        suite.append(case)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("errors", str(sum(case.find("error") is not None for case in cases)))
    suite.set("time", str(verdict.duration_s or 0))
    if verdict.started:
        suite.set("timestamp", verdict.started)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _attribute(value: object) -> str:
    return one_line(str(value)) if value is not None else ""


def _run_case(verdict: Verdict) -> ET.Element:
    """The run as a whole: an error for whatever ended it other than its expectations."""
    case = ET.Element("testcase", name="run")
    if verdict.word not in ("pass", "fail"):
        told = "; ".join(verdict.reasons[:3]) or verdict.word
        error = ET.SubElement(case, "error", message=_attribute(f"{verdict.word}: {told}"), type=verdict.word)
        error.text = plain("\n".join(verdict.reasons))
    return case


def _expectation_case(finding: Finding) -> ET.Element:
    case = ET.Element("testcase", name=_attribute(finding.name))
    if finding.grade is Grade.PASS:
        return case
    value, limit = value_and_limit(finding)
    tag = "failure" if finding.grade is Grade.FAIL else "error"
    problem = ET.SubElement(
        case, tag, message=_attribute(f"{value}, limit {limit}: {finding.detail}"), type=finding.grade.value
    )
    problem.text = plain_json(list(finding.witness), indent=1)[:_WITNESS_CHARS_MAX]
    return case


def _fault_cases(fault: FaultOutcome, verdict: Verdict) -> list[ET.Element]:
    effect = ET.Element("testcase", name=_attribute(f"{fault.fault_id} effect"))
    if not fault.effect:
        told = fault.error or ("no effect was seen" if fault.injected_s is not None else "it was never injected")
        ET.SubElement(effect, "error", message=_attribute(told), type="unknown")
    if fault.kept:
        return [effect]
    heal = ET.Element("testcase", name=_attribute(f"{fault.fault_id} heal"))
    if not fault.healed and fault.injected_s is not None:
        told = "; ".join(one for one in verdict.left if fault.fault_id in one) or "its heal is not proven"
        ET.SubElement(heal, "error", message=_attribute(told), type="left_dirty")
    return [effect, heal]


def summary_markdown(verdict: Verdict) -> str:
    """The run for a CI system's summary page, under 1 MiB: whole sections are left out, the last first."""
    sections = [_headline(verdict), _expectations(verdict), _faults(verdict), _numbers(verdict), _witnesses(verdict)]
    kept: list[str] = []
    for section in sections:
        if len("\n".join([*kept, section]).encode()) > SUMMARY_BYTES_MAX - 200:
            kept.append("_More than fits here was found; the rest stands in `report.html` and `verdict.json`._\n")
            break
        if section:
            kept.append(section)
    return "\n".join(kept)


def _md(text: object) -> str:
    """Text that means nothing to Markdown or HTML."""
    flat = one_line(str(text), chars_max=2000)
    for harmful, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        flat = flat.replace(harmful, harmless)
    return "".join(f"\\{char}" if char in "\\`*_[]|#!~@" else char for char in flat)


def _headline(verdict: Verdict) -> str:
    lines = [f"## {verdict.word.replace('_', ' ').upper()}: {_md(verdict.title or verdict.run_id)}", ""]
    lines += [f"- {_md(reason)}" for reason in verdict.reasons]
    return "\n".join([*lines, ""])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _expectations(verdict: Verdict) -> str:
    rows = [
        [one.grade.value, _md(one.name), *map(_md, value_and_limit(one)), _md(one.detail)]
        for one in verdict.expectations
    ]
    return "### Expectations\n\n" + _table(["verdict", "expectation", "value", "limit", "detail"], rows)


def _faults(verdict: Verdict) -> str:
    rows = [
        [
            _md(one.fault_id),
            _md(", ".join(one.instances)),
            seconds(one.injected_s),
            seconds(one.healed_s),
            "proven" if one.effect else "NOT PROVEN",
            "kept" if one.kept else ("proven" if one.healed else "NOT PROVEN"),
            quantity(one.recovery_s, "s"),
        ]
        for one in verdict.faults
    ]
    head = ["fault", "instances", "injected", "healed", "effect", "heal", "recovery"]
    return "### Faults\n\n" + _table(head, rows)


def _numbers(verdict: Verdict) -> str:
    numbers = verdict.availability
    low_s, high_s = numbers["downtime_s"]
    lines = [
        f"- Availability by request: {percentage(numbers['by_request'])}, by time: {percentage(numbers['by_time'])}",
        (
            f"- Downtime: {quantity(low_s, 's')} to {quantity(high_s, 's')}, "
            f"longest gap: {quantity(numbers['longest_gap_s'], 's')}"
        ),
        (
            f"- Requests: {verdict.operations['ok']:,} ok, {verdict.operations['fail']:,} failed, "
            f"{verdict.operations['info']:,} unknown, {verdict.operations['declined']:,} declined; "
            f"{verdict.operations['retries']:,} retries, {verdict.operations['replays']:,} replays"
        ),
        f"- Repeat with: `{one_line(verdict.replay or NOTHING).replace('`', ' ')}`",
    ]
    return "### Numbers\n\n" + "\n".join(lines) + "\n"


def _witnesses(verdict: Verdict) -> str:
    """Witnesses of what did not pass, as indented blocks: nothing in them can end the block."""
    parts = []
    for finding in verdict.expectations:
        if finding.grade is not Grade.PASS and finding.witness:
            block = plain_json(list(finding.witness), indent=1)
            parts.append(f"### Witnesses: {_md(finding.name)}\n\n" + "\n".join(f"    {x}" for x in block.split("\n")))
    return "\n\n".join(parts) + "\n" if parts else ""
