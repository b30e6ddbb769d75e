"""Whether a queue of redemptions was settled in strict order, each once, and each as the ledger's own order demands."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.dumps import LEDGER, REDEMPTIONS, rows_of_kind, unusable
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.evidence import Evidence

Row = Mapping[str, Any]
SETTLED: Final = "settled"
PARKED: Final = "parked"
_TRANSFER: Final = "redemption"
_TOLD_MAX: Final = 5


@CHECKERS.register("queue")
@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Every accepted redemption is decided once, in the order of acceptance, and rightly.

    Numbers have no gap; a settled one has just the transfer it names, a refused or parked one has none; transfers come
    in the order of the queue; nobody is paid more than there was, and nobody refused who had enough at that time.
    Balances are computed here from the ledger's transfers. A parked one waits for a person: more than `max_parked` are
    a mistake. With fewer than `min_settled` nothing was shown.
    """

    intact: Literal[True] = True
    max_parked: Annotated[int, Field(ge=0)] = 0
    min_settled: Annotated[int, Field(ge=1)] = 1
    dump: str = "redemptions"
    ledger: str = "ledger"

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "queue" if self.dump == "redemptions" else f"queue:{self.dump}"

    def check(self, evidence: "Evidence") -> Finding:
        """Compares queue and ledger."""
        if told := unusable(evidence.dumps, {self.dump: REDEMPTIONS, self.ledger: LEDGER}):
            return Finding(name=self.title, grade=Grade.UNKNOWN, detail=told)
        rows = evidence.dumps[self.dump].rows
        transfers = rows_of_kind(evidence.dumps[self.ledger], "transfer")
        parked = [row for row in rows if row["status"] == PARKED]
        wrong = [_wrong("parked", row) for row in parked] if len(parked) > self.max_parked else []
        wrong += mistakes(rows, transfers)
        settled = sum(row["status"] == SETTLED for row in rows)
        doubts = []
        if settled < self.min_settled:
            doubts.append(f"only {count(settled, 'redemption')} of at least {self.min_settled:,} settled")
        return Finding(
            name=self.title,
            grade=Grade.FAIL if wrong else Grade.PASS,
            value=len(wrong),
            limit=0,
            unit="mistakes",
            witness=wrong[:_TOLD_MAX],
            detail=f"{count(len(rows), 'redemption')} accepted, {settled:,} settled, {len(parked):,} parked"
            + (f"; {count(len(wrong), 'mistake')} found." if wrong else ", all in order."),
        ).doubted(doubts)


def mistakes(rows: Sequence[Row], transfers: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Everything wrong with a queue, as data: what, and the row; `transfers` are all of the ledger."""
    rows = sorted(rows, key=lambda row: row["seq"])
    for expected, row in enumerate(rows, start=1):
        if row["seq"] != expected:
            yield _wrong("number missing or used twice", row, expected=expected)
            break
    yield from _payments(rows, [row for row in transfers if row["kind"] == _TRANSFER])
    yield from _order(rows)
    yield from _decisions(rows, _Balances(transfers))


def _payments(rows: Sequence[Row], paid: Sequence[Row]) -> Iterator[dict[str, Any]]:
    by_id = {str(row["transfer"]): row for row in paid}
    claimed: set[str] = set()
    for row in rows:
        if row["status"] == "queued":
            yield _wrong("never decided", row)
        elif row["status"] != SETTLED:
            if row["transfer"] is not None:
                yield _wrong("paid although it was not settled", row)
        elif (payment := by_id.get(str(row["transfer"]))) is None:
            yield _wrong("settled without a transfer", row)
        elif str(row["transfer"]) in claimed:
            yield _wrong("shares its transfer with another", row)
        elif (payment["debit"], payment["amount"]) != (row["account"], row["amount"]):
            yield _wrong("paid from another account or another amount", row, paid=dict(payment))
        claimed.add(str(row["transfer"]))
    for payment in paid:
        if str(payment["transfer"]) not in claimed:
            yield _wrong("paid though nobody asked for it, or twice", payment)


def _order(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Settled ones whose transfer is older than that of one accepted before."""
    newest, before = -1, None
    for row in rows:
        if row["status"] == SETTLED and row["transfer"] is not None:
            number = int(row["transfer"])
            if number < newest:
                yield _wrong("settled before one that was accepted earlier", row, earlier=before)
            else:
                newest, before = number, row["seq"]


class _Balances:
    """Each account's balance after each of its transfers, by the transfers' numbers."""

    def __init__(self, transfers: Sequence[Row]) -> None:
        self._numbers: dict[Any, list[int]] = defaultdict(list)
        self._after: dict[Any, list[int]] = defaultdict(list)
        for row in sorted(transfers, key=lambda row: int(row["transfer"])):
            for account, amount in ((row["debit"], -row["amount"]), (row["credit"], row["amount"])):
                after = self._after[account]
                after.append((after[-1] if after else 0) + amount)
                self._numbers[account].append(int(row["transfer"]))

    def after(self, account: Any, number: int) -> int:
        """The balance that contains every transfer up to `number`."""
        place = bisect_right(self._numbers[account], number)
        return self._after[account][place - 1] if place else 0

    def between(self, account: Any, first: int, last: int) -> list[int]:
        """Every balance that the account had from just after `first` to just before `last`."""
        numbers = self._numbers[account]
        start, end = bisect_right(numbers, first), bisect_right(numbers, last - 1)
        return [self.after(account, first), *self._after[account][start:end]]


def _decisions(rows: Sequence[Row], balances: _Balances) -> Iterator[dict[str, Any]]:
    """Decisions that a replay in the ledger's order would take otherwise.

    A refusal leaves no transfer: it was decided between those of its settled neighbours in the queue.
    """
    following: dict[int, int] = {}
    upcoming = 1 << 63
    for row in reversed(rows):
        following[row["seq"]] = upcoming
        if row["status"] == SETTLED and row["transfer"] is not None:
            upcoming = int(row["transfer"])
    last = 0
    for row in rows:
        if row["status"] == SETTLED and row["transfer"] is not None:
            last = int(row["transfer"])
            computed = balances.after(row["account"], last)
            if computed < 0 or row["balance_after"] != computed:
                yield _wrong("settled with another balance than the ledger has", row, computed=computed)
        elif row["status"] == "refused":
            had = balances.between(row["account"], last, following[row["seq"]])
            if row["balance_after"] not in had or row["balance_after"] >= row["amount"]:
                yield _wrong("refused although the ledger does not say so", row, had=had[:_TOLD_MAX])


def _wrong(what: str, row: Row, **numbers: Any) -> dict[str, Any]:
    return {"wrong": what, **{key: value for key, value in row.items() if key != "row"}, **numbers}
