"""Arrivals as they are written, and what they come to."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from metrics.arrivals import Arrivals, ArrivalsError, Written, resolve

WRITTEN: TypeAdapter[Any] = TypeAdapter(Written)
PHASES = {"warmup": 5.0, "baseline": 10.0, "faults": 80.0, "recovery": 20.0, "quiet": 30.0}


def resolved(text: str, folder: Path = Path(), phases: dict[str, float] | None = PHASES) -> Arrivals:
    """The schedule of some YAML."""
    return resolve(WRITTEN.validate_python(yaml.safe_load(text)), folder=folder, phases=phases)


@pytest.mark.parametrize(
    ("text", "points", "told"),
    [
        ("300/s", [(0, 300)], "300/s"),
        ("{rate: 120/m, spacing: poisson}", [(0, 2)], "2/s, spaced as by chance (Poisson)"),
        (
            "{rate: 50/s, ramp: {to: 300/s, at: baseline, over: 20s}}",
            [(0, 50), (5, 50), (25, 300)],
            "50/s, 5 s to 25 s: to 300/s",
        ),
        (
            "{rate: 50/s, steps: [{to: 0/s, at: 90s}, {to: 2x, at: baseline}]}",
            [(0, 50), (5, 50), (5, 100), (90, 100), (90, 0)],
            "50/s, at 5 s: to 100/s, at 90 s: to 0/s",
        ),
        (
            "{rate: 50/s, surge: {to: 10x, at: faults+5s, rise: 1s, for: 60s}}",
            [(0, 50), (20, 50), (21, 500), (80, 500), (80, 50)],
            "50/s, 20 s to 21 s: to 500/s, at 80 s: to 50/s",
        ),
    ],
)
def test_each_form_means_what_it_says(text: str, points: list[tuple[float, float]], told: str) -> None:
    """The points between which the rate runs, and the sentence of `--dry-run`; as JSON it is the same schedule."""
    arrivals = resolved(text)
    assert list(arrivals.points) == points
    assert str(arrivals) == told
    assert Arrivals.from_json(json.loads(json.dumps(arrivals.to_json()))) == arrivals


def test_after_a_surge_the_rate_is_what_it_would_have_been() -> None:
    """A ramp goes on beneath the surge: 50 to 100/s in the first 40 s of the faults."""
    arrivals = resolved(
        "{rate: 50/s, ramp: {to: 2x, at: faults, over: 40s}, surge: {to: 9x, at: faults+10s, for: 20s}}"
    )
    assert arrivals.points == ((0, 50), (15, 50), (25, 62.5), (25, 450), (45, 450), (45, 87.5), (55, 100))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{spacing: poisson}", "name exactly one of rate, trace and function; this has none"),
        ("{rate: 5/s, trace: x}", "name exactly one of rate, trace and function; this has rate and trace"),
        ("{function: 'm:f', ramp: {to: 9/s, over: 1s}}", "ramp: needs rate: what the arrivals begin with"),
        ("{trace: x, spacing: even}", "spacing: a trace has its own spacing"),
        ("{rate: 0/s}", "nothing would ever arrive"),
        ("{rate: 20000/s, steps: [{to: 10x, at: 1s}]}", "steps.0.to: the multiple of the rate is 200,000 arrivals a s"),
        (
            "{rate: 5/s, surge: {to: 9x, at: recovery, for: 21s}}",
            "surge: lasts until 116 s, but the load ends after 115",
        ),
        ("{rate: 5/s, steps: [{to: 9x, at: 115s}]}", "steps.0: is at 115 s, but the load ends after 115 s"),
        ("{rate: 5/s, surge: {to: 9x, at: 1s, rise: 3s, for: 2s}}", "surge.rise: takes longer than the surge lasts"),
        (
            "{rate: 5/s, ramp: {to: 9x, at: 1s, over: 5s}, steps: [{to: 1x, at: 3s}]}",
            "steps.0: begins at 3 s, within another change",
        ),
        ("{function: 'shapes.py:daily'}", "function: no such file: "),
        ("{trace: nowhere.txt}", "nowhere.txt: cannot be read"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    """Contradictions between keys, and with the phases."""
    with pytest.raises(ArrivalsError) as caught:
        resolved(text, tmp_path)
    assert told in str(caught.value)


def test_all_contradictions_are_told_at_once() -> None:
    """A step too high, and a surge too late."""
    with pytest.raises(ArrivalsError) as caught:
        resolved("{rate: 9000/s, steps: [{to: 12x, at: 1s}], surge: {to: 2x, at: 2s, for: 2h}}")
    assert [problem.path for problem in caught.value.problems] == [("steps", 0, "to"), ("surge",)]


def test_outside_an_experiment_a_moment_is_a_time() -> None:
    """There are no phases, and no end."""
    text = "{rate: 50/s, surge: {to: 2x, at: 20s, for: 100h}}"
    assert resolved(text, phases=None).points[1] == (20, 50)
    with pytest.raises(ArrivalsError, match="there are no phases outside an experiment"):
        resolved(text.replace("20s", "faults"), phases=None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("0\n1\nsoon\n", "times.txt:3: expected a number of seconds, got 'soon'"),
        ("0\nnan\n", "times.txt:2: expected a number of seconds, got 'nan'"),
        ("0\n2\n1\n", "goes back from 2 s to 1 s; sort it"),
        ("# nothing\n", "no times in it"),
        ("7\n" * 100_001, "more than 100,000 arrivals in the second before 7 s"),
    ],
)
def test_a_trace_that_cannot_be_one_is_refused(tmp_path: Path, content: str, told: str) -> None:
    """No number, no time, out of order, empty, absurd."""
    (tmp_path / "times.txt").write_text(content)
    with pytest.raises(ArrivalsError) as caught:
        resolved("{trace: times.txt}", tmp_path)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "300",
        "-3/s",
        "200000/s",
        "{rate: 300/s, spacing: random}",
        "{rate: 300/s, surge: {to: fast, at: 1s, for: 1s}}",
        "{rate: 300/s, surge: {to: 10x, at: quiet, for: 1s}}",
        "{rate: 300/s, surge: {to: 10x, at: 1s}}",
        "{rate: 300/s, steps: []}",
        "{rate: 300/s, ramps: {}}",
        "{function: daily}",
    ],
)
def test_what_no_arrivals_look_like_is_refused(text: str) -> None:
    """Each by the reader; where a form can tell, by the schema for editors too."""
    data = yaml.safe_load(text)
    with pytest.raises(ValidationError):
        WRITTEN.validate_python(data)
    if data != "200000/s":  # a pattern cannot count
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, WRITTEN.json_schema())


@pytest.mark.parametrize("text", ["300/s", "{rate: 0/s, ramp: {to: 1500/s, over: 1m}}", "{trace: times.txt}"])
def test_the_schema_for_editors_takes_what_the_reader_takes(text: str) -> None:
    """A rate, a mapping with changes, another without rate."""
    data = yaml.safe_load(text)
    WRITTEN.validate_python(data)
    jsonschema.validate(data, WRITTEN.json_schema())
