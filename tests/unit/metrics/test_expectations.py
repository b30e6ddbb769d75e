import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from metrics.checkers import CHECKERS, ExpectationError, expectation_schema, known_checkers, parse_expectation
from tests.run_folders import Folder

GOOD: list[dict[str, Any]] = [
    {"failed": {"max": 0}},
    {"availability": {"min": "99.9%", "by": "time"}},
    {"longest_gap": {"max": "250ms"}},
    {"downtime": {"max": 0}},
    {"latency": {"p99": "500ms", "max": "1s", "f": "deposit"}},
    {"recovery": {"max": "2s", "late": "1s"}},
    {"exactly_once": {"dump": "ledger", "operations": ["deposit"]}},
    {"ledger": {"balanced": True}},
    {"queue": {"intact": True}},
    {"queue": {"max_parked": 3, "min_settled": 100}},
    {"accrual": {"min_hours": 5}},
    {"custody": {}},
    {"custody": {"during": "pause", "min_paid_during": 3, "none_during": "kill-2"}},
    {"window": {}},
    {"sometimes": {"during": "kill", "operation": "redeem", "at_least": 2}},
    {"withheld": {"operation": "balance", "during": "action"}},
    {"withheld": {"operation": "balance", "dump": "windows"}},
    {"observed": {"reading": "x", "increase": {"min": 1}}},
    {"observed": {"reading": "x", "last": {"is": "open"}, "phase": "faults"}},
    {"replays": {"min": 1}},
    {"versions": {"min": 2}},
    {"spread": {"min": 3}},
    {"goodput": {"over": "500/s", "min": "99%", "operations": ["redeem"], "late": "1s", "at_least": "10s"}},
    {"goodput": {"over": "500/s", "min_rate": "400/s"}},
    {"relief": {"over": "500/s", "within": "5s"}},
]


@pytest.mark.parametrize("entry", GOOD)
def test_a_good_entry_is_understood_by_the_parser_and_the_schema(entry: dict[str, Any]) -> None:
    """Both agree."""
    (name,) = entry

    assert parse_expectation(entry).name.split(":")[0] == name
    jsonschema.validate(entry, expectation_schema())


def test_a_misspelt_parameter_is_told_once() -> None:
    """That `reading` is missing is only because it is misspelt; what is wrong in `increase` is another problem."""
    with pytest.raises(ExpectationError) as caught:
        parse_expectation({"observed": {"reding": "x", "increase": {"mn": 1}}})
    assert {problem.path for problem in caught.value.problems} == {
        ("observed", "increase", "mn"),
        ("observed", "reding"),
    }


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"latncy": {"p99": "1s"}},
            "no checker called 'latncy'; did you mean 'latency'? Known: accrual, availability, custody, downtime",
        ),
        ({"zzz": {}}, "no checker called 'zzz'. Known:"),
        ({"failed": {"mx": 0}}, "failed.mx: unknown parameter; known: max, min_operations, max_declined"),
        ({"failed": {}}, "failed.max: this parameter is required"),
        ({"failed": {"max": -1}}, "failed.max: Input should be greater than or equal to 0"),
        ({"failed": 3}, "failed: expected parameters (max, min_operations, max_declined, operations), got 3"),
        ({"latency": {"p99": 500}}, "latency.p99: expected a duration such as 250ms, 3s or 1m30s, got 500"),
        ({"latency": {}}, "latency: name at least one limit"),
        ({"availability": {"min": "101%"}}, "availability.min: expected a share"),
        (
            {"exactly_once": {"dump": "ledger", "operations": []}},
            "exactly_once.operations: List should have at least 1",
        ),
        ({"ledger": {"balanced": False}}, "ledger.balanced: Input should be True"),
        ({"observed": {"reading": "x"}}, "observed: name either increase or last"),
        ({"custody": {"during": "kill"}}, "custody: name both during and min_paid_during, or neither"),
        ({"withheld": {"operation": "balance"}}, "withheld: name either during or dump"),
        ({"withheld": {"operation": "balance", "during": "action", "dump": "windows"}}, "withheld: name either during"),
        ({"observed": {"reading": "x", "last": {}}}, "observed.last: name at least one of min, max, is"),
        ({"observed": {"reading": "x", "increase": {"mn": 1}}}, "observed.increase.mn: unknown parameter"),
        ({"failed": {"max": 0}, "ledger": {}}, "expected one checker with its parameters"),
        ("failed", "expected one checker with its parameters, got 'failed'"),
        (None, "expected one checker"),
        ({3: {}}, "no checker called 3"),
    ],
)
def test_a_bad_entry_is_refused_with_what_is_wrong_where(entry: Any, told: str) -> None:
    """The parser says it to a person; the schema refuses it too."""
    with pytest.raises(ExpectationError) as caught:
        parse_expectation(entry)

    assert told in str(caught.value)
    observed_empty = isinstance(entry, dict) and entry in ({"observed": {"reading": "x"}}, {"latency": {}})
    last_empty = entry == {"observed": {"reading": "x", "last": {}}}
    either = "during" in told
    # That one of several keys is needed stands in no schema of a dataclass.
    if not observed_empty and not last_empty and not either:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(entry, expectation_schema())


def test_every_problem_of_an_entry_is_told_with_its_path() -> None:
    """Two at once."""
    with pytest.raises(ExpectationError) as caught:
        parse_expectation({"failed": {"max": "x", "mn": 1}})

    assert {problem.path for problem in caught.value.problems} == {("failed", "max"), ("failed", "mn")}


def test_every_checker_says_what_it_asks_and_has_an_example_here() -> None:
    """A new module is found by itself; its first sentence is its entry in the list."""
    assert set(known_checkers()) == set(CHECKERS) == {next(iter(entry)) for entry in GOOD}
    assert all(text.endswith(".") and len(text) < 130 for text in known_checkers().values())


def test_judging_the_baseline_loads_neither_arrow_nor_charts(tmp_path: Path) -> None:
    """In a process of its own: it happens in the runner while the run goes on."""
    Folder(path=tmp_path, sealed=False).write()
    code = (
        "import sys, pathlib; from metrics.judge import judge_baseline;"
        f"assert len(judge_baseline(pathlib.Path({str(tmp_path)!r}))) == 2;"
        "print([m for m in ('pyarrow', 'bokeh', 'jinja2', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_validating_an_experiment_loads_no_large_library() -> None:
    """In a process of its own: the runner that validates has to stay small."""
    code = (
        "import sys; from metrics.checkers import *; parse_expectation({'failed': {'max': 0}}); expectation_schema();"
        "import metrics.verdict, metrics.console, metrics.findings;"
        "print([m for m in ('numpy', 'pyarrow', 'bokeh', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
