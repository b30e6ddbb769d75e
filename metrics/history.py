"""What every client saw: recorded crash-safe, sealed to columns, read back.

While a run goes on each writer appends to a file of its own, `history/<writer>.bin`:

    file   = MAGIC, batch*
    batch  = length u32, crc32 u32, payload          (little endian; a torn or damaged tail is cut off)
    payload = msgpack list of rows
    row    = [index, t_ns, intended_ns, process, type, f, key, value, error, node, attempt]

An operation is two rows with one `index`: its `invoke`, then its completion `ok`, `fail` or `info`; without
a completion it counts as `info`. At the end `seal` merges all writers into `history.parquet`, ordered by `t_ns`.
"""

import json
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC: Final = b"HFHIST1\n"
FOLDER: Final = "history"
SEALED: Final = "history.parquet"
INVOKE: Final = 0
OK: Final = 1
FAIL: Final = 2
INFO: Final = 3
TYPES: Final = ("invoke", "ok", "fail", "info")
PROBE: Final = "probe"
"""`f` of the fixed-rate prober's operations; they count for availability by time, not as requests of clients."""
INDEX_BITS: Final = 40
"""An operation index is `writer << INDEX_BITS | number`, so that writers never share one."""

_HEADER = struct.Struct("<II")
_BATCH_ROWS_MAX = 512
_BATCH_AGE_NS_MAX = 100_000_000
_BATCH_BYTES_MAX = 64 * 1024 * 1024
_DAMAGE = b"holdfast.torn"


class Row(NamedTuple):
    """One row of a history; see the module's head. `value` is JSON text or None, times are CLOCK_MONOTONIC ns."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which no row needs
    t_ns: int
    intended_ns: int
    process: int
    type: int
    f: str
    key: str | None
    value: str | None
    error: str | None
    node: str | None
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation that has been invoked and awaits its completion."""

    index: int
    intended_ns: int
    process: int
    f: str
    key: str | None


class Recorder:
    """Writes one writer's history; not for sharing between threads or processes.

    `writer` (0..65535) is unique in the run and stands in the upper bits of every index. Rows reach the file in
    batches of at most 512 rows or 100 ms, whichever is first, when the next row comes or at `flush`.
    """

    def __init__(self, run_dir: Path, *, name: str, writer: int) -> None:
        if not 0 <= writer < 1 << 16:
            raise ValueError(f"writer must be in 0..65535, got {writer}")
        folder = run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._file = FileIO(folder / f"{name}.bin", "x")
        self._file.write(MAGIC)
        self._next_index = writer << INDEX_BITS
        self._rows: list[Row] = []
        self._flushed_ns = time.monotonic_ns()

    def invoke(self, f: str, *, process: int, intended_ns: int, key: str | None = None, value: Any = None) -> Operation:
        """Records that `process` tries `f` now, which it had meant to start at `intended_ns`; value: any JSON."""
        index = self._next_index
        self._next_index = index + 1
        text = None if value is None else json.dumps(value, separators=(",", ":"))
        self._append(Row(index, time.monotonic_ns(), intended_ns, process, INVOKE, f, key, text, None, None, 0))
        return Operation(index=index, intended_ns=intended_ns, process=process, f=f, key=key)

    def complete(
        self,
        operation: Operation,
        outcome: int,
        *,
        value: Any = None,
        error: str | None = None,
        node: str | None = None,
        attempt: int = 0,
    ) -> None:
        """Records how `operation` ended: `OK`, `FAIL` (certainly did not happen) or `INFO` (may have happened).

        `node` is who answered, `instance` or `instance@version`; `attempt` the tries on the wire that the balancer
        counted, 0 when unknown; `error` a short class such as `timeout` or `http-503`, `declined:<why>` for a
        correct answer that declines (no failure of the service).
        """
        text = None if value is None else json.dumps(value, separators=(",", ":"))
        self._append(
            Row(
                operation.index,
                time.monotonic_ns(),
                operation.intended_ns,
                operation.process,
                outcome,
                operation.f,
                operation.key,
                text,
                error,
                node,
                attempt,
            )
        )

    def flush(self) -> None:
        """Hands all rows to the operating system, where they survive this process."""
        if self._rows:
            payload = msgpack.packb(self._rows)
            self._file.write(_HEADER.pack(len(payload), zlib.crc32(payload)) + payload)
            self._rows = []
        self._flushed_ns = time.monotonic_ns()

    def close(self) -> None:
        """Flushes and closes; recording afterwards is an error."""
        self.flush()
        self._file.close()

    def _append(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= _BATCH_ROWS_MAX or row.t_ns - self._flushed_ns >= _BATCH_AGE_NS_MAX:
            self.flush()


class Torn(NamedTuple):
    """Where a recording stops making sense: the file, the offset of the first bad byte, and why."""

    file: str
    offset: int
    reason: str


def read_recording(run_dir: Path) -> tuple[list[Row], list[Torn]]:
    """All rows recorded so far, in order of `t_ns` then `index` and type, and the files whose tail is damaged.

    Works while writers still write: a batch half written counts as a torn tail then.
    """
    rows: list[Row] = []
    torn: list[Torn] = []
    for path in sorted((run_dir / FOLDER).glob("*.bin")):
        for batch in _batches_in(memoryview(path.read_bytes()), path.name):
            if isinstance(batch, Torn):
                torn.append(batch)
            else:
                rows.extend(batch)
    rows.sort(key=lambda row: (row.t_ns, row.index, row.type))
    return rows, torn


class Follower:
    """Reads a recording while it grows: each time what has been written since."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER
        self._read_bytes: dict[str, int] = {}

    def more(self) -> list[Row]:
        """The rows of every batch that has become whole; in order of time only within one writer."""
        rows: list[Row] = []
        for path in sorted(self._folder.glob("*.bin")):
            begin = self._read_bytes.get(path.name, len(MAGIC))
            with path.open("rb") as file:
                file.seek(begin)
                data = MAGIC + file.read()
            end = len(data)
            for batch in _batches_in(memoryview(data), path.name):
                if isinstance(batch, Torn):
                    end = batch.offset
                else:
                    rows.extend(batch)
            self._read_bytes[path.name] = begin + end - len(MAGIC)
        return rows


def _batches_in(data: memoryview, name: str) -> Iterator[list[Row] | Torn]:
    if bytes(data[: len(MAGIC)]) != MAGIC:
        yield Torn(name, 0, "does not begin as a history")
        return
    offset = len(MAGIC)
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            yield Torn(name, offset, "batch header cut off")
            return
        length, checksum = _HEADER.unpack_from(data, offset)
        payload = data[offset + _HEADER.size : offset + _HEADER.size + length]
        if length > _BATCH_BYTES_MAX or len(payload) < length:
            yield Torn(name, offset, "batch cut off")
            return
        if zlib.crc32(payload) != checksum:
            yield Torn(name, offset, "batch checksum wrong")
            return
        try:
            batch = [Row(*row) for row in msgpack.unpackb(payload)]
            _check_types(batch)
        except (ValueError, TypeError) as error:
            # The checksum holds, so it was written so: by something that is no recorder of this format.
            yield Torn(name, offset, f"batch holds no rows: {error}")
            return
        yield batch
        offset += _HEADER.size + length


_NUMBERS = (0, 1, 2, 3, 4, 10)
_TEXTS = (6, 7, 8, 9)
_NUMBER_MAX = (1 << 63) - 1


def _check_types(rows: list[Row]) -> None:
    """Looks at whole columns, which costs a fraction of looking at each field.

    Raises:
        ValueError: a field has another type or size than its column.
    """
    columns = list(zip(*rows, strict=True))
    if not columns:
        return
    for place, name in enumerate(Row._fields):
        allowed = {int} if place in _NUMBERS else {str, type(None)} if place in _TEXTS else {str}
        if not set(map(type, columns[place])) <= allowed:
            raise ValueError(f"{name} has a value of another type")
        if place in _NUMBERS and not -_NUMBER_MAX <= min(columns[place]) <= max(columns[place]) <= _NUMBER_MAX:
            raise ValueError(f"{name} has a value out of range")
    if not INVOKE <= min(columns[4]) <= max(columns[4]) <= INFO:
        raise ValueError(f"type is none of {', '.join(TYPES)}")


def to_table(rows: list[Row], phases: Mapping[str, tuple[int, int]]) -> "pa.Table":
    """Rows as an Arrow table with the columns of docs/formats.md.

    `phases` maps a phase to its half-open [start_ns, end_ns); a row's phase is the one that holds its intended start,
    "" outside all.
    """
    import numpy as np
    import pyarrow as pa

    columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True)) if rows else [() for _ in Row._fields]
    intended_ns = np.asarray(columns[2], dtype=np.int64)
    phase = np.zeros(len(rows), dtype=np.int32)
    for code, (start_ns, end_ns) in enumerate(phases.values(), start=1):
        phase[(intended_ns >= start_ns) & (intended_ns < end_ns)] = code
    phase_names, type_names = pa.array(["", *phases]), pa.array(TYPES)
    text = pa.string()
    return pa.table(
        {
            "index": pa.array(columns[0], pa.uint64()),
            "t_ns": pa.array(columns[1], pa.int64()),
            "intended_ns": pa.array(columns[2], pa.int64()),
            "process": pa.array(columns[3], pa.int64()),
            "type": type_names.take(pa.array(columns[4], pa.int32())),
            "f": pa.array(columns[5], text),
            "key": pa.array(columns[6], text),
            "value": pa.array(columns[7], text),
            "error": pa.array(columns[8], text),
            "node": pa.array(columns[9], text),
            "attempt": pa.array(columns[10], pa.int32()),
            "phase": phase_names.take(pa.array(phase)),
        }
    )


def seal(run_dir: Path, phases: Mapping[str, tuple[int, int]]) -> list[Torn]:
    """Merges the recording into `history.parquet` and gives back what was damaged; the recording stays."""
    import pyarrow.parquet as pq

    rows, torn = read_recording(run_dir)
    partial = run_dir / f"{SEALED}.partial"
    # What was damaged goes with the rows: judged alone they would look whole.
    table = to_table(rows, phases).replace_schema_metadata({_DAMAGE: json.dumps(torn)})
    pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
    partial.rename(run_dir / SEALED)
    return torn


def read_sealed(run_dir: Path) -> tuple["pa.Table", list[Torn]]:
    """The sealed history in one table, its checksums verified, and what was damaged when it was sealed.

    Raises:
        OSError, ValueError: the file is missing or no sealed history.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(run_dir / SEALED, page_checksum_verification=True)
    damage = (table.schema.metadata or {}).get(_DAMAGE, b"[]")
    return table, [Torn(*one) for one in json.loads(damage)]
