"""Files that people write: read strictly, and every problem named with its line."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from chaos.documents import SIZE_LIMIT_BYTES, Document, load, parse
from chaos.errors import ExperimentError
from chaos.salvage import salvage
from metrics.units import PositiveSeconds

FILE = Path("file.yaml")


class Stop(BaseModel):
    model_config = ConfigDict(extra="forbid")
    signal: Literal["TERM", "INT"] = "TERM"
    grace: PositiveSeconds = 1.0


class Role(BaseModel):
    model_config = ConfigDict(extra="forbid")
    command: list[str]
    count: Annotated[int, Field(ge=1)] = 1
    stop: Stop | None = None


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid")
    roles: dict[str, Role]


def problems(text: str, model: type[BaseModel] = Sample) -> list[str]:
    """What is wrong with a text that should be a model."""
    return salvage(parse(FILE, text), TypeAdapter(model)).problems()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "file.yaml:1: the file is empty; expected a mapping of keys"),
        ("# nothing\n", "file.yaml:1: the file is empty; expected a mapping of keys"),
        ("\n- a\n", "file.yaml:2: expected a mapping of keys at the top, got a list"),
        ("word", "file.yaml:1: expected a mapping of keys at the top, got a single value"),
        (
            "a: &x 1\nb: *x",
            "file.yaml:1: not YAML: anchors and aliases (& and *) are not used here; write the value out",
        ),
        ("a: 1\n---\nb: 2", "file.yaml:2: not YAML: expected a single document"),
        ("a: [1,\n  2", "file.yaml:2: not YAML: while parsing a flow sequence"),
        ("a:\n\t- b", "file.yaml:2: not YAML: while scanning for the next token, found character '\\t'"),
        ("a: b\n\x00", "file.yaml:2: not YAML: special characters are not allowed"),
        ("a: " + "[" * 60, "file.yaml:1: not YAML: deeper than 40 levels"),
    ],
)
def test_what_is_no_plain_mapping_is_refused_with_its_line(text: str, problem: str) -> None:
    """Each broken text is parsed, and the first problem begins as given."""
    with pytest.raises(ExperimentError) as caught:
        parse(FILE, text)
    assert caught.value.problems[0].startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem", "data"),
    [
        ("a: 1\nb: {c: 2,\n   c: 3}", "3: b.c: this key is given twice, first in line 2", {"a": 1, "b": {"c": 2}}),
        ("a:\n  1: x", "2: a: keys must be text, got 1; put it in quotes", {"a": {}}),
        (
            "a: !!python/name:os.system x",
            "1: a: the tag tag:yaml.org,2002:python/name:os.system is not used here",
            {"a": None},
        ),
        ("a: !!int many", "1: a: 'many' is no tag:yaml.org,2002:int", {"a": None}),
    ],
)
def test_what_is_not_plain_is_told_with_its_line_and_the_rest_is_read(text: str, problem: str, data: object) -> None:
    """Each flaw comes with the data without it."""
    document = parse(FILE, text)
    assert ([told for _, told in document.flaws], document.data) == ([f"file.yaml:{problem}"], data)


def test_flaws_are_told_once_and_with_the_problems_of_the_rest() -> None:
    """The tagged name would be wrong as a text too, and the second `count` where the first one is right."""
    text = """\
roles:
  portal: {command: !!set {x}, count: 0}
  1: {}
  legacy:
    command: [x]
    count: 1
    count: 2
"""
    assert [problem.partition(";")[0] for problem in problems(text)] == [
        "file.yaml:2: roles.portal.command: the tag tag:yaml.org,2002:set is not used here",
        "file.yaml:2: roles.portal.count: expected at least 1, got 0",
        "file.yaml:3: roles: keys must be text, got 1",
        "file.yaml:7: roles.legacy.count: this key is given twice, first in line 6",
    ]


def test_words_that_other_yaml_readers_change_stay_text() -> None:
    """YAML 1.1 makes booleans, octal and base-60 numbers and dates of these."""
    text = "{a: on, b: no, c: 010, d: '1', e: 1:30, f: 2024-01-01, g: 0x10, h: .inf, i: 1_0}"
    assert parse(FILE, text).data == {
        "a": "on", "b": "no", "c": "010", "d": "1",
        "e": "1:30", "f": "2024-01-01", "g": "0x10", "h": ".inf", "i": "1_0",
    }  # fmt: skip


def test_plain_values_have_their_types() -> None:
    """One of each."""
    data = parse(FILE, "{a: 1, b: -2.5, c: true, d: null, e: ~, f: [x, {y: 1e3}], g: ''}").data
    assert data == {"a": 1, "b": -2.5, "c": True, "d": None, "e": None, "f": ["x", {"y": 1000.0}], "g": ""}
    assert isinstance(data["a"], int)


def test_every_key_and_item_has_its_line() -> None:
    """Lines count from 1; what is not there has the line of what is around it."""
    document = parse(FILE, "a:\n  - x\n  - y:\n      z: 1\nb: 2\n")
    assert [document.line(place) for place in [("a",), ("a", 0), ("a", 1, "y"), ("a", 1, "y", "z"), ("b",)]] == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip
    assert document.line(("a", 1, "y", "missing", "deep")) == 3


@pytest.mark.parametrize("kind", ["missing", "folder", "binary", "large", "latin-1"])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, kind: str) -> None:
    """The message has the path and what to do."""
    path = tmp_path / "f.yaml"
    expected = {
        "missing": ": no such file",
        "folder": ": is a folder, expected a YAML file",
        "binary": ":1: not text in UTF-8; is it the right file?",
        "large": f": larger than {SIZE_LIMIT_BYTES} bytes; is it the right file?",
        "latin-1": ":2: not text in UTF-8; is it the right file?",
    }[kind]
    match kind:
        case "folder":
            path.mkdir()
        case "binary":
            path.write_bytes(b"\x7fELF\xff\xfe")
        case "large":
            path.write_bytes(b"a" * (SIZE_LIMIT_BYTES + 1))
        case "latin-1":
            path.write_bytes("a: 1\nb: é".encode("latin-1"))
    with pytest.raises(ExperimentError) as caught:
        load(path)
    assert caught.value.problems == (f"{path}{expected}",)


def test_all_problems_come_at_once_in_the_order_of_lines() -> None:
    """A file with one mistake of each kind; that `command` is missing is only because it is misspelt."""
    text = """\
roles:
  portal:
    comand: [x]
    count: many
    stop:
      signal: TREM
      grace: 5
  legacy:
    command: x
    count: 0
name: x
"""
    assert problems(text) == [
        "file.yaml:3: roles.portal.comand: unknown key; did you mean 'command'? Known: command, count, stop",
        "file.yaml:4: roles.portal.count: expected a whole number, got 'many'",
        "file.yaml:6: roles.portal.stop.signal: unknown value 'TREM'; did you mean 'TERM'? Known: INT, TERM",
        "file.yaml:7: roles.portal.stop.grace: expected a duration such as 250ms, 3s or 1m30s, got 5",
        "file.yaml:9: roles.legacy.command: expected a list, got 'x'",
        "file.yaml:10: roles.legacy.count: expected at least 1, got 0",
        "file.yaml:11: name: unknown key; Known: roles",
    ]


class Killing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kill: str
    every: PositiveSeconds


class Pausing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pause: str
    length: int


class Faults(BaseModel):
    faults: list[Killing | Pausing]


def test_of_a_union_only_the_alternative_that_was_meant_speaks() -> None:
    """An entry that is nearly a pause is not told that it lacks the keys of a kill."""
    assert problems("faults:\n  - pause: x\n    length: long\n", Faults) == [
        "file.yaml:3: faults.0.length: expected a whole number, got 'long'"
    ]


def test_what_an_override_set_is_said_so() -> None:
    """A note of a place is repeated after problems at and below it."""
    document = Document(
        path=FILE,
        data={"roles": {"a": {"command": [1]}}},
        lines={(): 1},
        notes={("roles", "a"): "set by the override a"},
    )
    assert document.problem(("roles", "a", "command"), "wrong") == (
        "file.yaml:1: roles.a.command: wrong (set by the override a)"
    )


@given(st.text(max_size=60))
def test_no_text_at_all_raises_anything_but_a_problem(text: str) -> None:
    """Any text is either a document or an ExperimentError that begins with the file and a line."""
    found: Document | ExperimentError
    try:
        found = parse(FILE, text)
    except ExperimentError as error:
        found = error
    if isinstance(found, ExperimentError):
        assert all(problem.startswith("file.yaml:") for problem in found.problems)
    else:
        assert isinstance(found.data, dict)
