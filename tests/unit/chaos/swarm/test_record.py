"""The results of a swarm survive whatever ends it, and belong to one swarm."""

from pathlib import Path

import pytest

from chaos.errors import ExperimentError
from chaos.swarm.coverage import Sighting
from chaos.swarm.record import Record, Result


def result(seed: int, exit_code: int = 1) -> Result:
    """What came of a seed."""
    return Result(
        seed=seed,
        run=f"run-{seed}",
        exit_code=exit_code,
        verdict="fail",
        reasons=("FAIL failed",),
        drawn=("kill portal",),
        proven=(Sighting(label="kill portal", beside=("pause portal",), state="open"),),
    )


def open_record(folder: Path, digest: str = "abc") -> Record:
    """The record of a swarm file."""
    return Record.open(folder, swarm=Path("/somewhere/swarm.yaml"), digest=digest)


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """Two seeds, in a folder that has to be made; another swarm has another file."""
    record = open_record(tmp_path / "runs")
    record.add(result(1))
    record.add(result(7, 0))

    again = open_record(tmp_path / "runs")

    assert again.results() == {1: result(1), 7: result(7, 0)}
    assert open_record(tmp_path / "runs", "def").results() == {}
    assert [one.failed for one in again.results().values()] == [True, False]


@pytest.mark.parametrize("kept", [1, 20, -2])
def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path, kept: int) -> None:
    """Cut anywhere in the last line, as a full disk or a lost machine does; what is added later is whole."""
    record = open_record(tmp_path)
    record.add(result(1))
    whole = record.path.read_bytes()
    record.add(result(2))
    last = record.path.read_bytes()[len(whole) :]
    record.path.write_bytes(whole + last[:kept])

    assert set(record.results()) == {1}
    record.add(result(3))
    assert set(record.results()) == {1, 3}


@pytest.mark.parametrize("content", ['{"schema": "swarm/9"}\n', "no results\n", '{"schema": "swarm/1"}\n{"seed": 1}\n'])
def test_another_file_under_its_name_is_told_and_left_alone(tmp_path: Path, content: str) -> None:
    """Never overwritten: it may be somebody's results."""
    path = open_record(tmp_path).path
    path.write_text(content)

    with pytest.raises(ExperimentError, match="no results of a swarm"):
        open_record(tmp_path).results()
    assert path.read_text() == content
