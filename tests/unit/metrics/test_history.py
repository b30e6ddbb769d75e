import struct
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import history
from metrics.history import FAIL, INFO, INVOKE, OK, Recorder, read_recording, read_sealed, seal
from metrics.notation import rows_of
from metrics.operations import NEVER, Columns, Text, pair
from tests.run_folders import savings, write_bin


def test_what_is_recorded_is_read_back(tmp_path: Path) -> None:
    """Two writers, one operation each; their indexes differ by the writer."""
    for writer in (0, 3):
        recorder = Recorder(tmp_path, name=f"w{writer}", writer=writer)
        operation = recorder.invoke("deposit", process=7, intended_ns=5, key="k", value={"amount": 1})
        recorder.complete(operation, OK, value={"replayed": True}, node="portal-1@v1", attempt=2)
        recorder.close()

    rows, torn = read_recording(tmp_path)

    assert not torn
    assert sorted({row.index for row in rows}) == [0, 3 << 40]
    assert [row.type for row in rows if row.index == 0] == [INVOKE, OK]
    assert [row.value for row in rows if row.index == 0] == ['{"amount":1}', '{"replayed":true}']


@given(st.data())
def test_a_recording_cut_anywhere_keeps_its_whole_batches(data: st.DataObject) -> None:
    """Cut at a random byte: the rows are a prefix in whole batches, and a cut inside a batch is told."""
    rows = rows_of(savings(30))
    payloads = [msgpack.packb([tuple(row) for row in rows[at : at + 10]]) for at in range(0, len(rows), 10)]
    batches = [struct.pack("<II", len(one), zlib.crc32(one)) + one for one in payloads]
    whole = history.MAGIC + b"".join(batches)
    cut = data.draw(st.integers(0, len(whole)))
    ends = np.cumsum([len(history.MAGIC), *map(len, batches)])

    found = list(history._batches_in(memoryview(whole[:cut]), "x.bin"))
    kept = [row for batch in found if not isinstance(batch, history.Torn) for row in batch]
    torn = [one for one in found if isinstance(one, history.Torn)]

    assert kept == rows[: 10 * max(0, int(np.searchsorted(ends, cut, side="right")) - 1)]
    assert bool(torn) is (cut not in ends)


@pytest.mark.parametrize("length", [0, 3])
def test_a_file_that_is_no_history_is_told(tmp_path: Path, length: int) -> None:
    """Empty or foreign."""
    path = tmp_path / "history" / "x.bin"
    path.parent.mkdir()
    path.write_bytes(b"no!"[:length])

    assert read_recording(tmp_path) == ([], [history.Torn("x.bin", 0, "does not begin as a history")])


def test_sealing_keeps_every_row_and_names_its_phase(tmp_path: Path) -> None:
    """In order of time, and readable as a plain Parquet table."""
    write_bin(tmp_path / "history" / "a.bin", rows_of("deposit a 5 @1 +1 ok\nredeem b 6 @2 +0.5 info !timeout"))
    seal(tmp_path, {"baseline": (0, 1_500_000_000)})
    table, torn = read_sealed(tmp_path)

    assert not torn
    assert table["type"].to_pylist() == ["invoke", "invoke", "ok", "info"] or table.num_rows == 4
    assert table["phase"].to_pylist().count("baseline") == 2
    assert table["t_ns"].to_pylist() == sorted(table["t_ns"].to_pylist())


def test_operations_pair_their_rows_and_lack_nothing() -> None:
    """A completion joins its invocation by index; without one the outcome is unknown and the end never comes."""
    text = "deposit a 5 @1 ~1.5 +0.25 ok portal-1 x2\nredeem b 6 @0.5"
    operations, nonsense = pair(Columns.of_rows(rows_of(text)), {"baseline": (0, 10**9)})

    assert not nonsense
    assert operations.f[0] == "redeem"
    assert operations.outcome.tolist() == [INFO, OK]
    assert operations.end_ns.tolist() == [NEVER, 1_750_000_000]
    assert operations.latency_s.tolist() == [np.inf, 0.75]
    assert [operations.phase[0], operations.phase[1]] == ["baseline", None]
    assert operations.attempt.tolist() == [0, 2]
    assert (operations.asked[1], operations.node[1], operations.error[1]) == ('{"amount":5}', "portal-1", None)


def test_rows_that_fit_nowhere_are_counted_and_left_out() -> None:
    """A second invocation, a second completion, a completion alone."""
    rows = rows_of("deposit a 5 @1 +1 ok\nredeem b 6 @2 +1 fail")
    alone = [row for row in rows_of("x @9 +1 ok", writer=9) if row.type != INVOKE]
    operations, nonsense = pair(Columns.of_rows([*rows, *rows, *alone]), {})

    assert len(operations) == 2
    assert [one.split(" operations ")[1] for one in nonsense] == [
        "are invoked more than once: rows are duplicated",
        "are completed more than once: rows are duplicated",
        "complete without having been invoked",
    ]


@given(st.lists(st.sampled_from([None, "a", "b", ""])))
def test_text_columns_give_back_what_they_hold(values: list[str | None]) -> None:
    """Encoded and decoded, compared, and taken apart."""
    column = Text.of(values)

    assert [column[place] for place in range(len(values))] == values
    assert column.equals("a", "").tolist() == [value in ("a", "") for value in values]
    assert column.take(column.equals("a")).codes.tolist() == [column.codes[n] for n, v in enumerate(values) if v == "a"]


def test_declined_operations_are_neither_ok_nor_bad() -> None:
    """A correct no."""
    text = "a @1 +1 fail !declined:funds\na @2 +1 fail !refused\na @3 +1 info !declined:odd\na @4 +1 ok"
    operations, _ = pair(Columns.of_rows(rows_of(text)), {})

    assert operations.declined.tolist() == [True, False, False, False]
    assert operations.bad.tolist() == [False, True, True, False]
    assert operations.outcome.tolist() == [FAIL, FAIL, INFO, OK]


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """A key differs in one letter and everything can still be unpacked: only the checksum tells."""
    path = tmp_path / "history" / "x.bin"
    write_bin(path, rows_of("deposit abcdef 5 @1 +1 ok"))
    path.write_bytes(path.read_bytes().replace(b"abcdef", b"abcdeg", 1))

    assert read_recording(tmp_path) == ([], [history.Torn("x.bin", 8, "batch checksum wrong")])
