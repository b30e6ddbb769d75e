"""Operations as columns: one entry per operation, its invocation and its completion joined.

    rows (invoke, ok | fail | info)  --pair-->  Operations (numpy arrays, ordered by intended start)

Text is held as codes into a list of distinct names, so that a million operations are compared as integers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from metrics.history import FAIL, INFO, INVOKE, OK, PROBE, TYPES, Row

if TYPE_CHECKING:
    import pyarrow as pa

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NEVER: Final = int(np.iinfo(np.int64).max)
"""`end_ns` of an operation without completion."""
LOGIN: Final = "login"
DECLINED: Final = "declined:"
"""Errors that begin so are correct answers that say no, and no failure of the service."""
OUTCOMES: Final = {OK: "ok", FAIL: "fail", INFO: "info"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A column of text: `codes[i]` points into `names`; -1 is no text."""

    codes: Ints
    names: Sequence[str]

    @classmethod
    def of(cls, values: Iterable[str | None]) -> "Text":
        """Encodes texts in order of their first appearance."""
        known: dict[str | None, int] = {None: -1}
        codes = [known.setdefault(value, len(known) - 1) for value in values]
        del known[None]
        return cls(codes=np.asarray(codes, dtype=np.int64), names=[name for name in known if name is not None])

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, position: int) -> str | None:
        """The text at one position."""
        code = int(self.codes[position])
        return None if code < 0 else self.names[code]

    def take(self, positions: Ints | Flags) -> "Text":
        """The same column at some positions."""
        return Text(codes=self.codes[positions], names=self.names)

    def where(self, holds: Callable[[str], bool]) -> Flags:
        """Where there is a text for which `holds` is true; asked once for each distinct one."""
        # The entry more at the end answers for code -1: no text holds nothing.
        answers = np.fromiter((holds(name) for name in self.names), dtype=np.bool_, count=len(self.names))
        return np.append(answers, [False])[self.codes]

    def equals(self, *names: str) -> Flags:
        """Where the text is one of these."""
        return self.where(frozenset(names).__contains__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The rows of a history as columns, in the order of docs/formats.md; `type` holds the codes of `TYPES`."""

    index: Ints
    t_ns: Ints
    intended_ns: Ints
    process: Ints
    type: Ints
    attempt: Ints
    f: Text
    key: Text
    value: Text
    error: Text
    node: Text

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> "Columns":
        """From a recording.

        Raises:
            ValueError, TypeError, OverflowError: a field of a row has the wrong type or size.
        """
        columns: Sequence[tuple[Any, ...]] = list(zip(*rows, strict=True)) if rows else [() for _ in Row._fields]
        numbers = [np.asarray(columns[place], dtype=np.int64) for place in (0, 1, 2, 3, 4, 10)]
        texts = [Text.of(_texts(columns[place])) for place in (5, 6, 7, 8, 9)]
        return cls._of(numbers, texts)

    @classmethod
    def of_table(cls, table: "pa.Table") -> "Columns":
        """From a sealed history.

        Raises:
            KeyError, ValueError: a column is missing or has another type.
        """
        names = ("index", "t_ns", "intended_ns", "process")
        numbers = [table[name].to_numpy().astype(np.int64) for name in names]
        kinds = _encoded(table["type"])
        order = np.asarray([TYPES.index(name) for name in kinds.names] or [0], dtype=np.int64)
        numbers += [order[kinds.codes], table["attempt"].to_numpy().astype(np.int64)]
        texts = [_encoded(table[name]) for name in ("f", "key", "value", "error", "node")]
        return cls._of(numbers, texts)

    @classmethod
    def _of(cls, numbers: Sequence[Ints], texts: Sequence[Text]) -> "Columns":
        index, t_ns, intended_ns, process, kind, attempt = numbers
        f, key, value, error, node = texts
        if len(kind) and not ((kind >= INVOKE) & (kind <= INFO)).all():
            raise ValueError("a row is none of invoke, ok, fail, info")
        if (f.codes < 0).any():
            raise ValueError("a row has no f")
        return cls(
            index=index,
            t_ns=t_ns,
            intended_ns=intended_ns,
            process=process,
            type=kind,
            attempt=attempt,
            f=f,
            key=key,
            value=value,
            error=error,
            node=node,
        )


def _texts(values: Sequence[Any]) -> Iterable[str | None]:
    for value in values:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"expected text, got {value!r}")
        yield value


def _encoded(column: "pa.ChunkedArray") -> Text:
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Text(codes=codes, names=encoded.dictionary.to_pylist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """What clients tried, ordered by intended start; times are CLOCK_MONOTONIC ns.

    `outcome` is OK, FAIL or INFO of `metrics.history`; without a completion it is INFO and `end_ns` is `NEVER`.
    `asked` is the value of the invocation, `answered` that of the completion, both JSON text.
    """

    index: Ints
    process: Ints
    intended_ns: Ints
    start_ns: Ints
    end_ns: Ints
    outcome: Ints
    attempt: Ints
    f: Text
    key: Text
    asked: Text
    answered: Text
    error: Text
    node: Text
    phase: Text

    def __len__(self) -> int:
        return len(self.index)

    @property
    def probes(self) -> Flags:
        """The prober's operations."""
        return self.f.equals(PROBE)

    @property
    def clients(self) -> Flags:
        """Requests of clients: neither probes nor log-ins."""
        return ~self.f.equals(PROBE, LOGIN)

    @property
    def ok(self) -> Flags:
        """Answered with success."""
        ok: Flags = self.outcome == OK
        return ok

    @property
    def declined(self) -> Flags:
        """Answered correctly with a no."""
        declined: Flags = (self.outcome == FAIL) & self.error.where(lambda error: error.startswith(DECLINED))
        return declined

    @property
    def bad(self) -> Flags:
        """Failed, or nobody knows: neither ok nor declined."""
        return ~self.ok & ~self.declined

    @property
    def latency_s(self) -> npt.NDArray[np.float64]:
        """Seconds from the intended start to the completion; infinite without one."""
        answered = self.end_ns != NEVER
        return np.where(answered, (np.where(answered, self.end_ns, 0) - self.intended_ns) / 1e9, np.inf)

    def in_phases(self, names: Iterable[str]) -> Flags:
        """Operations whose intended start lies in one of these phases."""
        return self.phase.equals(*names)

    def take(self, positions: Ints | Flags) -> "Operations":
        """Some of the operations."""
        return Operations(
            index=self.index[positions],
            process=self.process[positions],
            intended_ns=self.intended_ns[positions],
            start_ns=self.start_ns[positions],
            end_ns=self.end_ns[positions],
            outcome=self.outcome[positions],
            attempt=self.attempt[positions],
            f=self.f.take(positions),
            key=self.key.take(positions),
            asked=self.asked.take(positions),
            answered=self.answered.take(positions),
            error=self.error.take(positions),
            node=self.node.take(positions),
            phase=self.phase.take(positions),
        )


def pair(columns: Columns, phases: Mapping[str, tuple[int, int]]) -> tuple[Operations, list[str]]:
    """The operations of a history, and what about it makes no sense (a sentence each).

    Nonsense is left out of the operations: a second invocation or completion under one index, a completion without
    invocation. `phases` are half-open [start_ns, end_ns).
    """
    problems: list[str] = []
    invoked = _once(columns, columns.type == INVOKE, "invoked", problems)
    completed = _once(columns, columns.type != INVOKE, "completed", problems)
    place = np.searchsorted(columns.index[invoked], columns.index[completed])
    known = place < len(invoked)
    known[known] = columns.index[invoked[place[known]]] == columns.index[completed[known]]
    if not known.all():
        problems.append(f"{np.count_nonzero(~known)} operations complete without having been invoked")
    place, completed = place[known], completed[known]

    end_ns = np.full(len(invoked), NEVER, dtype=np.int64)
    end_ns[place] = columns.t_ns[completed]
    start_ns = columns.t_ns[invoked]
    if (backwards := np.count_nonzero(end_ns < start_ns)) > 0:
        problems.append(f"{backwards} operations complete before they were invoked: a clock went backwards")
    completion = np.full(len(invoked), -1, dtype=np.int64)
    completion[place] = completed
    order = np.lexsort((columns.index[invoked], columns.intended_ns[invoked]))
    invoked, completion = invoked[order], completion[order]
    intended_ns = columns.intended_ns[invoked]
    return (
        Operations(
            index=columns.index[invoked],
            process=columns.process[invoked],
            intended_ns=intended_ns,
            start_ns=start_ns[order],
            end_ns=end_ns[order],
            outcome=_or_else(columns.type, completion, INFO),
            attempt=_or_else(columns.attempt, completion, 0),
            f=columns.f.take(invoked),
            key=columns.key.take(invoked),
            asked=columns.value.take(invoked),
            answered=_text_or_none(columns.value, completion),
            error=_text_or_none(columns.error, completion),
            node=_text_or_none(columns.node, completion),
            phase=_phase(intended_ns, phases),
        ),
        problems,
    )


def _once(columns: Columns, which: Flags, verb: str, problems: list[str]) -> Ints:
    """Rows of one kind ordered by index, the first of each index only."""
    rows = np.flatnonzero(which)
    index, first = np.unique(columns.index[rows], return_index=True)
    if len(index) < len(rows):
        problems.append(f"{len(rows) - len(index)} operations are {verb} more than once: rows are duplicated")
    return rows[first].astype(np.int64)


def _or_else(values: Ints, places: Ints, otherwise: int) -> Ints:
    if not len(values):
        return np.full(len(places), otherwise, dtype=np.int64)
    return np.where(places >= 0, values[places], otherwise)


def _text_or_none(values: Text, places: Ints) -> Text:
    return Text(codes=_or_else(values.codes, places, -1), names=values.names)


def _phase(intended_ns: Ints, phases: Mapping[str, tuple[int, int]]) -> Text:
    codes = np.full(len(intended_ns), -1, dtype=np.int64)
    for code, (start_ns, end_ns) in enumerate(phases.values()):
        codes[(intended_ns >= start_ns) & (intended_ns < end_ns)] = code
    return Text(codes=codes, names=list(phases))
