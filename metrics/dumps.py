"""The final dumps of a target: `final/<name>.ndjson`, the rows that say what is true at the end.

`ledger/1` and `effects/1` are described in docs/formats.md. A dump that is missing, torn, or shorter than what
its writer reported has a `problem` and must not be judged.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = "final"
LEDGER: Final = "ledger/1"
EFFECTS: Final = "effects/1"
REDEMPTIONS: Final = "redemptions/1"
ACCRUAL: Final = "accrual/1"
PAYOUTS: Final = "payouts/1"
NOTICES: Final = "notices/1"
WINDOWS: Final = "windows/1"
SESSIONS: Final = "sessions/1"
CUSTOMER: Final = "customer"
"""The kind of a customer's account in `ledger/1`; every other kind is the platform's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """The rows of one dump; `schema` is None where neither the target nor the rows tell it."""

    name: str
    schema: str | None
    rows: Sequence[Mapping[str, Any]]
    problem: str | None = None


class Effect(NamedTuple):
    """Something that happened, as a dump tells it: `amount` and `account` are None where the dump names none."""

    f: str
    key: str | None
    amount: Any
    account: str | int | None
    row: Mapping[str, Any]


def read_dumps(
    run_dir: Path, *, schemas: Mapping[str, str], reported: Mapping[str, int], failed: Mapping[str, str]
) -> dict[str, Dump]:
    """Every dump that is there or should be, by name.

    `schemas` are those the target declares, `reported` the row counts that were told when a dump was written, and
    `failed` the errors of those that could not be.
    """
    paths = {path.stem: path for path in sorted((run_dir / FOLDER).glob("*.ndjson"))}
    dumps = {}
    for name in sorted({*paths, *schemas, *reported, *failed}):
        rows, problem = _read_rows(paths[name]) if name in paths else ([], "the file is missing")
        if name in failed:
            problem = f"it could not be written: {failed[name]}"
        elif problem is None and name in reported and reported[name] != len(rows):
            problem = f"its writer reported {reported[name]} rows and {len(rows)} are there"
        schema = schemas.get(name) or _recognised(rows)
        dumps[name] = Dump(name=name, schema=schema, rows=rows, problem=problem or _misshapen(schema, rows))
    return dumps


def effects_of(dump: Dump, operations: frozenset[str]) -> list[Effect]:
    """What the dump says happened of these kinds of operation."""
    if dump.schema == LEDGER:
        customers = {row["account"] for row in dump.rows if row["row"] == "account" and row["kind"] == CUSTOMER}
        return [
            Effect(f=row["kind"], key=row["key"], amount=row["amount"], account=_account_of(row, customers), row=row)
            for row in dump.rows
            if row["row"] == "transfer" and row["kind"] in operations
        ]
    return [
        Effect(f=row["f"], key=row["key"], amount=amount_in(row["value"]), account=account_in(row["value"]), row=row)
        for row in dump.rows
        if row["f"] in operations
    ]


def unusable(dumps: Mapping[str, Dump], schemas: Mapping[str, str]) -> str | None:
    """Why some of these dumps, name -> schema, cannot be judged, in words; None when all can."""
    told = []
    for name, schema in schemas.items():
        dump = dumps.get(name)
        problem = "there is none of that name" if dump is None else dump.problem
        if problem is None and dump is not None and dump.schema != schema:
            problem = f"its schema is {dump.schema}, not {schema}"
        if problem is not None:
            told.append(f"The dump {name!r} is unusable: {problem}.")
    return " ".join(told) or None


def rows_of_kind(dump: Dump, kind: str) -> list[Mapping[str, Any]]:
    """The rows of one kind, in their order."""
    return [row for row in dump.rows if row["row"] == kind]


def amount_in(value: Any) -> Any:
    """The part of a value that must not change on its way: its `amount` where it has one, else all of it."""
    return value["amount"] if isinstance(value, dict) and "amount" in value else value


def account_in(value: Any) -> str | int | None:
    """The account that a value names; None where it names none."""
    account = value.get("account") if isinstance(value, dict) else None
    return account if isinstance(account, str | int) else None


def _account_of(transfer: Mapping[str, Any], customers: set[Any]) -> Any:
    """Whose transfer it is: a deposit's credit side, of anything else the debit side if that is a customer's.

    None where neither side is one, because then the platform's accounts say nothing of customers.
    """
    debit, credit = transfer["debit"], transfer["credit"]
    if debit not in customers and credit not in customers:
        return None
    return credit if transfer["kind"] == "deposit" or debit not in customers else debit


def _read_rows(path: Path) -> tuple[list[Mapping[str, Any]], str | None]:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        return [], "its last line is cut off"
    lines = data.split(b"\n")[:-1]
    try:
        # One call for all lines is several times faster than one for each.
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return [], f"line {_first_bad_line(lines)} is no JSON"
    if len(rows) != len(lines) or not all(isinstance(row, dict) for row in rows):
        return [], "a line is not one JSON object"
    return rows, None


def _first_bad_line(lines: Sequence[bytes]) -> int:
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except ValueError:
            return number
    return len(lines)


def _recognised(rows: Sequence[Mapping[str, Any]]) -> str | None:
    if rows and "row" in rows[0]:
        return next((schema for schema, kinds in _FIELDS.items() if rows[0]["row"] in list(kinds)), LEDGER)
    return EFFECTS if rows and "f" in rows[0] else None


_FIELDS: Final[Mapping[str, Mapping[str | None, Sequence[str]]]] = {
    LEDGER: {
        "account": ("account", "kind", "balance"),
        "transfer": ("transfer", "kind", "debit", "credit", "amount", "key"),
    },
    EFFECTS: {None: ("f", "key", "value")},
    REDEMPTIONS: {
        "redemption": ("seq", "account", "key", "amount", "status", "reason", "transfer", "balance_after"),
    },
    ACCRUAL: {
        "rate": ("hour", "rate_ppb"),
        "hour": ("hour", "rate_ppb", "accounts", "finished_at"),
        "snapshot": ("hour", "account", "balance", "interest", "remainder"),
    },
    PAYOUTS: {
        "key": ("signer", "public_key", "since", "until", "revoked"),
        "policy": ("version", "required"),
        "batch": ("batch", "wallet", "first_seq", "last_seq", "total", "transfer", "manifest", "paid_at"),
        "manifest": ("manifest", "batch", "policy_version", "status", "expires_at"),
        "signature": ("manifest", "signer", "public_key"),
    },
    NOTICES: {
        "plan": ("window", "revision", "kind", "planned_start", "total"),
        "notice": ("window", "revision", "account", "channel", "state", "sent_business_at"),
        "subscription": ("account", "channel", "since"),
    },
    WINDOWS: {
        "window": ("window", "revision", "stage", "planned_start", "planned_end"),
        "event": (
            *("window", "revision", "change", "planned_start", "planned_end", "published_end"),
            *("business_at", "recorded_at"),
        ),
        "reconciliation": ("number", "full", "passed", "head", "recorded_at"),
    },
    SESSIONS: {
        "reopening": ("epoch", "reopened_at", "synchronised_at"),
        "session": ("account", "epoch", "expires_at"),
    },
}
"""schema -> kind of row, None where the schema has only one and does not name it -> what such a row has"""


def _misshapen(schema: str | None, rows: Sequence[Mapping[str, Any]]) -> str | None:
    kinds = _FIELDS.get(schema or "")
    if kinds is None:
        return f"its schema {schema!r} is unknown; known: {', '.join(_FIELDS)}" if rows or schema else None
    for number, row in enumerate(rows, start=1):
        kind = None if None in kinds else row.get("row")
        fields = kinds.get(kind) if kind is None or isinstance(kind, str) else None
        if fields is None:
            return f"row {number} is no {' and no '.join(str(name) for name in kinds)}"
        for name in fields:
            if name not in row:
                return f"row {number} has no {name!r}"
            if name in _NAMES and not isinstance(row[name], str | int | None):
                return f"row {number} has {name!r} of another type than text"
    return None


_NAMES: Final = frozenset({"key", "account", "kind", "f", "debit", "credit", "status"})
