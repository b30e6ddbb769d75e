"""The signed records of reconciliations, and what keeps them from being rewritten.

    record 1 <-digest- record 2 <-digest- record 3     in the database, each signed with this process's own key
                                              ^
                                      anchor file      in this process's folder: the newest record and its digest

A record names the newest sealed batch and its hash. So whoever rewrote the ledger with its whole chain of batches, in
the database alone, would still have to forge a signature, or to bring back an older moment than the anchor tells of.
"""

import hashlib
import json
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from system_under_test.domain.signatures import sign, verify
from system_under_test.settings import PlatformError
from system_under_test.storage.key_file import open_key

KEY_FILE: Final = "reconciliation.key"
ANCHOR_FILE: Final = "reconciliation.anchor"
BEGINNING: Final = bytes(32)
"""What the first record follows."""
_PREFIX: Final = b"savings reconciliation, 2\0"
_FIXED: Final = struct.Struct(">q??qq32sqqqq32sdq32s32s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NO_TIME: Final = -(1 << 63)
_RECORDS_AT_ONCE: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One reconciliation as it stands in the database; `problems` is JSON text, `recorded_at` wall time."""

    number: int
    full: bool
    passed: bool
    head: int
    batch: int
    batch_hash: bytes
    decided: int
    accrued_to: datetime | None
    paid_to: int
    stage_changes: int
    problems: str
    took_s: float
    recorded_at: datetime
    previous: bytes
    public_key: bytes
    signature: bytes = b""

    @property
    def message(self) -> bytes:
        """What is signed: every field, each of a fixed size, so that no two records share it."""
        return _PREFIX + _FIXED.pack(
            *(self.number, self.full, self.passed, self.head, self.batch, self.batch_hash),
            *(self.decided, _NO_TIME if self.accrued_to is None else _microseconds(self.accrued_to), self.paid_to),
            self.stage_changes,
            hashlib.sha256(self.problems.encode()).digest(),
            *(self.took_s, _microseconds(self.recorded_at), self.previous, self.public_key),
        )

    @property
    def digest(self) -> bytes:
        """What the next record names it by."""
        return hashlib.sha256(self.message + self.signature).digest()

    @property
    def is_genuine(self) -> bool:
        """Whether the signature is one of `public_key` over this very record."""
        return verify(self.public_key, self.message, self.signature)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def record_of(row: Any) -> Record:
    """The record that a row of the table holds."""
    return Record(**dict(row))


def read_key(folder: Path) -> bytes:
    """The private key kept in `folder`, made there at the first call."""
    return open_key(folder / KEY_FILE)


def signed(record: Record, private_key: bytes) -> bytes:
    """The signature of a record that has none yet."""
    return sign(private_key, record.message)


async def read_records(connection: Any, first: int) -> AsyncIterator[Record]:
    """Every record from number `first` on, some at a time."""
    while True:
        rows = await connection.fetch("select * from read_reconciliations($1, $2)", first, _RECORDS_AT_ONCE)
        for row in rows:
            yield record_of(row)
        if len(rows) < _RECORDS_AT_ONCE:
            return
        first = rows[-1]["number"] + 1


class Anchor(BaseModel):
    """The newest record that this process wrote, as its own folder knows it; hashes in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    digest: str
    batch: int
    batch_hash: str


def read_anchor(folder: Path) -> Anchor | None:
    """The anchor in `folder`; None before the first record.

    Raises:
        PlatformError: the file is damaged.
    """
    path = folder / ANCHOR_FILE
    try:
        return Anchor.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise PlatformError(
            f"{path}: the anchor of the ledger's verification is damaged; bring the file back from a copy, or compare"
            " the newest row of the table reconciliation with one you trust, then move the file away"
        ) from error


def write_anchor(folder: Path, record: Record) -> None:
    """Makes `record` the anchor, durably and in one step."""
    path = folder / ANCHOR_FILE
    partial = path.with_name(f"{ANCHOR_FILE}.partial")
    anchor = Anchor(
        number=record.number,
        digest=record.digest.hex(),
        batch=record.batch,
        batch_hash=record.batch_hash.hex(),
    )
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(anchor.model_dump(), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
