from pathlib import Path

import pytest

from metrics.dumps import EFFECTS, read_dumps

ROW = '{"f": "deposit", "key": "a", "value": null}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ROW, None),
        (ROW + ROW[:-1], "its last line is cut off"),
        (ROW + "{oops\n", "line 2 is no JSON"),
        (ROW + "[1]\n", "a line is not one JSON object"),
        (ROW + "1, 2\n", "a line is not one JSON object"),
        (ROW + '{"f": "deposit"}\n', "row 2 has no 'key'"),
        (ROW + '{"f": ["x"], "key": "a", "value": 1}\n', "row 2 has 'f' of another type than text"),
        ('{"odd": 1}\n', "its schema None is unknown"),
    ],
)
def test_a_dump_that_is_not_whole_is_told_also_where_nobody_reported_its_rows(
    tmp_path: Path, text: str, problem: str | None
) -> None:
    """The file alone, without the runner's count of its rows."""
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "effects.ndjson").write_text(text)
    dump = read_dumps(tmp_path, schemas={}, reported={}, failed={})["effects"]

    assert (dump.problem or "").startswith(problem or "")
    assert bool(dump.problem) is bool(problem)


def test_what_should_be_there_and_is_not_is_named(tmp_path: Path) -> None:
    """Declared by the target, reported by the runner, or failed with its error."""
    dumps = read_dumps(tmp_path, schemas={"a": EFFECTS}, reported={"b": 3}, failed={"c": "no database"})

    assert {name: dump.problem for name, dump in dumps.items()} == {
        "a": "the file is missing",
        "b": "the file is missing",
        "c": "it could not be written: no database",
    }
