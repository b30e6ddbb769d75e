"""The release before deposits had references: what ran when the schema was changed beneath it."""

import shutil
from pathlib import Path
from typing import Final

from tests.integration.platform.stage import ROOT

NEW_STEP: Final = "0013_references.sql"
# File, what it says now, and what it said before.
_BEFORE: Final = (
    ("storage/ledger.py", "from take_deposit($1, $2, $3, $4, $5)", "from take_deposit($1, $2, $3, $4)"),
    ("storage/ledger.py", "*(token_hash, key, payload, amount, reference),", "*(token_hash, key, payload, amount),"),
    ("storage/ledger.py", "amount: int, reference: str | None\n", "amount: int\n"),
    ("services/portal/money.py", "amount=order.amount, reference=order.reference", "amount=order.amount"),
    ("services/portal/money.py", "read_body(request, Deposit)", "read_body(request, Order)"),
    ("services/portal/money.py", "import Deposit\n", "import Order\n"),
    ("services/portal/money.py", "body=Deposit,", "body=Order,"),
    ("domain/orders.py", "self.model_dump_json(exclude_none=True)", "self.model_dump_json()"),
)


def release_before_references(folder: Path) -> Path:
    """A folder in `folder` that holds the package as it was: the old statement, the old bodies, the old schema."""
    package = folder / "before" / "system_under_test"
    shutil.copytree(ROOT / "system_under_test", package, ignore=shutil.ignore_patterns("__pycache__", NEW_STEP))
    steps = sorted(path.name for path in (package / "storage" / "schema").glob("*.sql"))
    for name in steps:
        if name > NEW_STEP:
            (package / "storage" / "schema" / name).unlink()
    for name, now, before in _BEFORE:
        path = package / name
        text = path.read_text(encoding="utf-8")
        assert text.count(now) == 1, f"{name} does not say {now!r} once: the release before it is not known any more"
        path.write_text(text.replace(now, before), encoding="utf-8")
    return package.parent
