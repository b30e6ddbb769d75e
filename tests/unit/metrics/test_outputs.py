import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from metrics.console import print_verdict, render
from metrics.evidence import load
from metrics.findings import Finding, Grade
from metrics.judge import check, judge
from metrics.outputs import SUMMARY_BYTES_MAX, junit_xml, summary_markdown
from metrics.sanitise import one_line, plain
from metrics.verdict import Verdict
from metrics.wording import NOTHING, percentage, quantity
from tests.run_folders import KILL, Folder, event, ledger_of, probes, savings

LOST = "\nredeem r1 10 @5 +0.4 info !timeout portal-2 x2"
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    "\x1b[31mred\x1b]0;title\x07 ]]> \ud800 | `x` & \u202e\x00<!-- <script>"
)
OUTPUTS = ("verdict.json", "junit.xml", "summary.md", "report.html")


def _parsed(document: bytes | str) -> ET.Element:
    return ET.fromstring(document)  # noqa: S314 - our own output


def failing(path: Path) -> Folder:
    """One lost request, one unknown goal, a lost deposit in the ledger, an effect that was not proven."""
    expect: list[Any] = [
        {"failed": {"max": 0}},
        {"longest_gap": {"max": "250ms"}},
        {"replays": {"min": 1}},
        {"exactly_once": {"dump": "ledger", "operations": ["deposit", "redeem"]}},
    ]
    told: dict[str, Any] = {"fault": "kill", "instances": ["portal-2"], "params": {}}
    events = [
        event(4, "fault.injected", fault_id="kill-1", **told),
        event(4.5, "fault.effect", fault_id="kill-1", proven=False, evidence={"state": "R"}),
        event(5, "fault.healed", fault_id="kill-1"),
        event(5.1, "fault.heal_proven", fault_id="kill-1", proven=True, evidence={}),
    ]
    rows = [row for row in ledger_of(savings()) if row.get("key") != "k3"]
    return Folder(
        path=path, clients=savings() + LOST, probes=probes((4.0, 4.2)), expect=expect, fault_events=events,
        dumps={"ledger": rows},
    )  # fmt: skip


def test_junit_has_a_case_for_each_expectation_and_proof(tmp_path: Path) -> None:
    """A fail is a failure, unknown an error; the counts agree, and who reads it learns how to repeat the run."""
    suite = _parsed(junit_xml(judge(failing(tmp_path).write())))[0]
    cases = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}

    assert cases == {
        "run": [],
        "failed": ["failure"],
        "longest_gap": [],
        "replays": ["error"],
        "exactly_once:ledger": ["failure"],
        "kill-1 effect": ["error"],
        "kill-1 heal": [],
    }
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("7", "2", "2")
    assert {one.get("name"): one.get("value") for one in suite.iter("property")}["seed"] == "42"


@pytest.mark.parametrize(("outcome", "word"), [("baseline_not_met", "baseline_not_met"), ("guardrail", "guardrail"),
                                               ("interrupted", "interrupted"), ("error", "unknown")])  # fmt: skip
def test_a_run_that_was_cut_short_is_no_green_suite(tmp_path: Path, outcome: str, word: str) -> None:
    """The case `run` carries the error."""
    verdict = judge(Folder(path=tmp_path, ended={"outcome": outcome, "signal": "SIGINT", "left": []}).write())
    suite = _parsed(junit_xml(verdict))[0]
    (error,) = suite.findall("testcase[@name='run']/error")

    assert error.get("type") == word
    assert int(suite.get("errors") or 0) >= 1


def test_the_summary_says_the_verdict_first_and_fits(tmp_path: Path) -> None:
    """As Markdown, with the witnesses in blocks."""
    text = summary_markdown(judge(failing(tmp_path).write()))

    assert text.startswith("## FAIL: A killed node\n")
    assert "| fail | failed | 1 request | at most 0 requests |" in text
    assert '     "operation": "1099511627977"' in text
    assert "holdfast run node-kill --seed 42" in text


def test_a_summary_that_grew_too_large_loses_whole_sections(tmp_path: Path) -> None:
    """3 MB of witnesses: the tables stay, the witnesses go, and it is said."""
    verdict = judge(failing(tmp_path).write())
    huge = Finding(name="huge", grade=Grade.FAIL, witness=[{"text": "é" * 1_500_000}])
    text = summary_markdown(_with(verdict, huge))

    assert len(text.encode()) < SUMMARY_BYTES_MAX
    assert "### Expectations" in text
    assert "### Witnesses" not in text
    assert text.rstrip().endswith("`verdict.json`._")


def _with(verdict: Verdict, finding: Finding) -> Verdict:
    from dataclasses import replace

    return replace(verdict, expectations=[*verdict.expectations, finding])


def test_the_console_says_the_verdict_first_then_why_then_the_numbers(tmp_path: Path) -> None:
    """In that order, with the command that repeats it last."""
    lines = render(judge(failing(tmp_path).write())).splitlines()

    assert lines[0] == "FAIL  A killed node  (exit 1)"
    assert lines[1].startswith("  - FAIL failed: 1 of 201 requests")
    headings = [line for line in lines if line and not line.startswith(" ")][1:]
    witness = headings.pop(1)
    assert headings == ["Expectations", "Faults", "Numbers", "Measuring", "Repeat: holdfast run node-kill --seed 42"]
    assert witness.startswith("A witness of failed: redeem info timeout, operation ")
    assert any("client  step=invoke f=redeem" in line for line in lines), "its life is told"
    assert any("effect NOT PROVEN" in line for line in lines)


def test_colours_change_no_word(tmp_path: Path) -> None:
    """On a rich console the same text comes out; what looks like markup stays text."""
    from io import StringIO

    from rich.console import Console

    verdict = judge(Folder(path=tmp_path, run={"title": "[red]not markup[/red]"}).write())
    out = StringIO()
    print_verdict(verdict, Console(file=out, width=80, color_system=None))

    assert out.getvalue() == render(verdict) + "\n"


def test_the_report_is_one_file_that_needs_nothing_else(tmp_path: Path) -> None:
    """It refers to no address, is small, and has the witness with its story, the faults and the command."""
    check(failing(tmp_path).write())
    page = (tmp_path / "report.html").read_text()

    assert len(page) < 5_000_000
    assert not [part for part in ('src="http', 'href="http', "@import", "<link", "<iframe") if part in page]
    parser = _Texts()
    parser.feed(page)
    for text in ("A killed node", "operation 1099511627977", "not proven", "holdfast run node-kill --seed 42"):
        assert any(text in one for one in parser.texts), text
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


class _Texts(HTMLParser):
    """What a page says, and which elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def hostile(path: Path) -> Folder:
    """Hostile text wherever a system under test, its author or its clients can put some."""
    safe = HOSTILE.replace("\ud800", "")
    clients = savings() + "\nredeem r1 10 @5 +0.4 info !timeout portal-2"
    log = json.dumps({"request_id": str((1 << 40) + 201), "path": HOSTILE})
    fault = {**KILL, "fault_id": f"kill-{safe}", "instances": [HOSTILE], "fault": HOSTILE}
    rows: list[dict[str, Any]] = [{"f": "deposit", "key": HOSTILE, "value": HOSTILE}]
    folder = Folder(
        path=path, clients=clients, timeline=[fault], run={"title": HOSTILE, "replay": HOSTILE, "commit": HOSTILE},
        logs={"node": [log]}, dumps={"ledger": rows}, readings=[(1, HOSTILE, HOSTILE), (9, HOSTILE, HOSTILE)],
        expect=[{"failed": {"max": 0}}, {HOSTILE: {}}, {"observed": {"reading": HOSTILE, "last": {"is": "x"}}},
                {"exactly_once": {"dump": "ledger", "operations": ["deposit"]}}],
    )  # fmt: skip
    folder.ended = {"outcome": "completed", "signal": None, "left": [HOSTILE]}
    return folder


def test_hostile_text_shows_as_text_in_every_output(tmp_path: Path) -> None:
    """Markup, terminal escapes, ends of blocks, halves of surrogates, and characters that XML forbids."""
    run_dir = hostile(tmp_path).write()
    verdict = check(run_dir)
    texts = {name: (run_dir / name).read_bytes().decode() for name in OUTPUTS}
    texts["console"] = render(verdict)

    harmful = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202e]")
    for name, text in texts.items():
        if name != "report.html":
            assert not harmful.search(text), name
    json.loads(texts["verdict.json"])
    _parsed(texts["junit.xml"])
    blocks = re.compile(r"`[^`\n]*`|^    .*$", re.MULTILINE)  # what Markdown shows as it stands
    assert "<" not in blocks.sub("", texts["summary.md"])

    page = _Texts()
    page.feed(texts["report.html"])
    # The library, its settings, and the charts.
    own = [tag for tag, _ in page.elements if tag in ("script", "img", "iframe", "object")]
    assert own == ["script"] * 3
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert any("alert(1)" in text for text in page.texts), "it is shown, as text"


def test_control_characters_are_shown_as_escapes() -> None:
    """Readable, on one line where one is wanted."""
    assert plain("a\x1b[31m\nb\u202e") == "a\\x1b[31m\nb\\u202e"
    assert one_line("a\nb\tc" + "x" * 500, chars_max=10) == "a\\nb cxxx…"


def test_a_loss_is_never_rounded_away() -> None:
    """One request of ten million is not 100 %."""
    assert percentage(1 - 1e-7) == "99.99999%"
    assert percentage(1.0) == "100%"
    assert percentage(0.999) == "99.9%"
    assert percentage(None) == NOTHING
    assert quantity(1, "requests") == "1 request"
    assert quantity(0.25, "s") == "250 ms"


def test_outputs_of_a_run_of_which_nothing_is_left_are_written_all_the_same(tmp_path: Path) -> None:
    """Only an empty `run.json` remains."""
    (tmp_path / "run.json").write_text("{}")
    verdict = check(tmp_path)

    assert verdict.exit_code == 2
    assert all((tmp_path / name).stat().st_size for name in OUTPUTS)
    assert load(tmp_path).window_ns is None
