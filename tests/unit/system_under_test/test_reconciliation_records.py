"""Signed records of reconciliations: nothing in one can be changed, and none can be taken from between two others."""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.domain.signatures import generate, public_key
from system_under_test.settings import PlatformError
from system_under_test.storage.reconciliation_records import (
    ANCHOR_FILE,
    BEGINNING,
    Anchor,
    Record,
    read_anchor,
    signed,
    write_anchor,
)

_KEY = generate()
_NUMBERS = st.integers(0, 2**63 - 1)
_HASHES = st.binary(min_size=32, max_size=32)
_TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given one


@st.composite
def _records(draw: st.DrawFn) -> Record:
    record = Record(
        number=draw(_NUMBERS),
        full=draw(st.booleans()),
        passed=draw(st.booleans()),
        head=draw(_NUMBERS),
        batch=draw(_NUMBERS),
        batch_hash=draw(_HASHES),
        decided=draw(_NUMBERS),
        accrued_to=draw(st.none() | _TIMES),
        paid_to=draw(_NUMBERS),
        stage_changes=draw(_NUMBERS),
        problems=draw(st.text(max_size=20)),
        took_s=draw(st.floats(0, 1e6)),
        recorded_at=draw(_TIMES),
        previous=draw(_HASHES),
        public_key=public_key(_KEY),
    )
    return dataclasses.replace(record, signature=signed(record, _KEY))


_LITTLE: Final[Mapping[type, Callable[[Any], Any]]] = {
    bool: lambda value: not value,
    int: lambda value: value - 1 if value else 1,
    float: lambda value: value + 1.0,
    bytes: lambda value: bytes([value[0] ^ 1]) + value[1:],
    str: lambda value: value + " ",
    datetime: lambda value: value + timedelta(microseconds=1),
    type(None): lambda _: datetime(2020, 1, 1, tzinfo=UTC),
}
"""How a value of each type is changed as little as can be."""


@settings(deadline=None)
@given(record=_records(), name=st.sampled_from([field.name for field in dataclasses.fields(Record)]))
def test_a_record_with_any_field_changed_is_not_genuine_and_has_another_digest(record: Record, name: str) -> None:
    """Changes one field of a signed record a little: the signature does not hold, and the next record would not fit."""
    value = getattr(record, name)
    changed = dataclasses.replace(record, **{name: _LITTLE[type(value)](value)})
    assert record.is_genuine
    assert not changed.is_genuine
    assert changed.digest != record.digest


@settings(deadline=None, max_examples=20)
@given(record=_records())
def test_an_anchor_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, record: Record) -> None:
    """Writes it twice, as after two records, and reads it."""
    folder = tmp_path_factory.mktemp("anchor")
    assert read_anchor(folder) is None
    write_anchor(folder, dataclasses.replace(record, previous=BEGINNING))
    write_anchor(folder, record)
    assert read_anchor(folder) == Anchor(
        number=record.number, digest=record.digest.hex(), batch=record.batch, batch_hash=record.batch_hash.hex()
    )
    assert [path.name for path in folder.iterdir()] == [ANCHOR_FILE]


@pytest.mark.parametrize("text", ["", "{}", '{"number": 1, "digest": "x", "batch": 1}', "\x00"])
def test_a_damaged_anchor_is_told_with_what_to_do(tmp_path: Path, text: str) -> None:
    """Reads files that are no anchor: the path and a way on are in the message."""
    (tmp_path / ANCHOR_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(PlatformError, match=r"reconciliation\.anchor: .* damaged; bring the file back"):
        read_anchor(tmp_path)
