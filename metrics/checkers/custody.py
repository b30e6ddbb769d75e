"""Whether money left the custody wallets only by payouts that enough distinct signers had signed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.dumps import LEDGER, PAYOUTS, Dump, rows_of_kind, unusable
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.evidence import Evidence

Row = Mapping[str, Any]
_CUSTODY: Final = "custody"
_PAYOUT: Final = "payout"
_TOLD_MAX: Final = 5


@CHECKERS.register("custody")
@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """At least `min_payouts` payouts, each of one batch, its amount, under a manifest of enough distinct signers.

    Nothing else takes money from a wallet. That signatures are those of the signers' keys is the target's own audit.
    """

    min_payouts: Annotated[int, Field(ge=1)] = 1
    dump: str = "payouts"
    ledger: str = "ledger"

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "custody" if self.dump == "payouts" else f"custody:{self.dump}"

    def check(self, evidence: "Evidence") -> Finding:
        """Compares what left the wallets with manifests and signatures."""
        if told := unusable(evidence.dumps, {self.dump: PAYOUTS, self.ledger: LEDGER}):
            return Finding(name=self.title, grade=Grade.UNKNOWN, detail=told)
        dump, ledger = evidence.dumps[self.dump], evidence.dumps[self.ledger]
        left = leaving(ledger)
        wrong = list(mistakes(dump, left))
        doubts = []
        if len(left) < self.min_payouts:
            doubts.append(f"only {count(len(left), 'payout')} of at least {self.min_payouts} happened")
        return Finding(
            name=self.title,
            grade=Grade.FAIL if wrong else Grade.PASS,
            value=len(wrong),
            limit=0,
            unit="mistakes",
            witness=wrong[:_TOLD_MAX],
            detail=f"{count(len(left), 'payout')} left the wallets"
            + (f"; {count(len(wrong), 'mistake')} found." if wrong else ", all signed."),
        ).doubted(doubts)


def leaving(ledger: Dump) -> list[Row]:
    """The transfers that take money from a custody wallet: those that credit it, for a wallet's money is a debit."""
    wallets = {row["account"] for row in rows_of_kind(ledger, "account") if row["kind"] == _CUSTODY}
    return [row for row in rows_of_kind(ledger, "transfer") if row["credit"] in wallets]


def mistakes(dump: Dump, left: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Everything wrong, as data; `left` are the transfers that took money from a wallet."""
    batches = {str(row["transfer"]): row for row in rows_of_kind(dump, "batch") if row["transfer"] is not None}
    manifests = {row["manifest"]: row for row in rows_of_kind(dump, "manifest")}
    required = {row["version"]: row["required"] for row in rows_of_kind(dump, "policy")}
    signers: dict[Any, set[Any]] = defaultdict(set)
    for row in rows_of_kind(dump, "signature"):
        signers[row["manifest"]].add(row["signer"])
    paid: set[Any] = set()
    for transfer in left:
        told = {"transfer": transfer["transfer"], "amount": transfer["amount"]}
        batch = batches.pop(str(transfer["transfer"]), None)
        if transfer["kind"] != _PAYOUT or batch is None:
            yield {"wrong": "left the wallet without a batch", **told}
            continue
        told["batch"] = batch["batch"]
        manifest = manifests.get(batch["manifest"])
        if batch["batch"] in paid:
            yield {"wrong": "batch paid twice", **told}
        paid.add(batch["batch"])
        if batch["total"] != transfer["amount"] or transfer["credit"] != f"{_CUSTODY}-{batch['wallet']}":
            yield {"wrong": "paid another amount or from another wallet", "total": batch["total"], **told}
        if manifest is None or manifest["batch"] != batch["batch"]:
            yield {"wrong": "paid without a manifest of its own", **told}
        elif len(signers[batch["manifest"]]) < required.get(manifest["policy_version"], 1 << 31):
            yield {"wrong": "paid with too few signers", "signers": sorted(signers[batch["manifest"]]), **told}
    for batch in batches.values():
        yield {"wrong": "called paid without a transfer", "batch": batch["batch"], "transfer": batch["transfer"]}
