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
    from metrics.faults import Fault

Row = Mapping[str, Any]
_CUSTODY: Final = "custody"
_PAYOUT: Final = "payout"
_TOLD_MAX: Final = 5
_UNDER_WAY_NS: Final = 2_000_000_000
"""What enough signers signed before they were gone is paid within this time."""


@CHECKERS.register("custody")
@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """At least `min_payouts` payouts, each of one batch, its amount, under a manifest of enough distinct signers.

    The manifest was in force when it was paid, and a signer counts with a key that was the signer's under the
    manifest's policy. Batches of one wallet share no redemption. Nothing else takes money from a wallet. That
    signatures are those of the keys is the target's own audit.

    As a goal, at least `min_paid_during` were paid while `during` was in force; and none while `none_during` was, from
    2 s after its effect was proven until its heal began. Both name a kind of fault, or one fault by its id (`kill-2`).
    """

    min_payouts: Annotated[int, Field(ge=1)] = 1
    dump: str = "payouts"
    ledger: str = "ledger"
    during: str | None = None
    min_paid_during: Annotated[int, Field(ge=1)] | None = None
    none_during: str | None = None

    def __post_init__(self) -> None:
        if (self.during is None) != (self.min_paid_during is None):
            raise ValueError("name both during and min_paid_during, or neither")

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
        found: list[Row | str] = [*self._goal(evidence), *self._pause(evidence)]
        wrong = [*(one for one in found if not isinstance(one, str)), *mistakes(dump, left)]
        doubts = [one for one in found if isinstance(one, str)]
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

    def _goal(self, evidence: "Evidence") -> Iterator[str]:
        """Why it is not shown that payouts went on, if it was asked for."""
        if self.during is None or self.min_paid_during is None:
            return
        end_ns = evidence.phases.get("faults", (0, 0))[1]
        spans = [(fault.effect_ns, fault.healed_ns or end_ns) for fault in _proven(evidence, self.during)]
        paid = len(_paid_within(evidence, self.dump, spans))
        if paid < self.min_paid_during:
            yield f"only {count(paid, 'payout')} of at least {self.min_paid_during:,} paid during {self.during}"

    def _pause(self, evidence: "Evidence") -> Iterator[Row | str]:
        """Payouts that were made when there could be none, if it was asked for; else why that is not shown."""
        if self.none_during is None:
            return
        spans = [
            (fault.effect_ns + _UNDER_WAY_NS, fault.heal_begun_ns)
            for fault in _proven(evidence, self.none_during)
            if fault.effect_ns is not None and fault.heal_begun_ns is not None
        ]
        if not any(start_ns < end_ns for start_ns, end_ns in spans) or evidence.wall_ahead_ns is None:
            yield f"{self.none_during} was never proven in force for more than 2 s, or the run has no clock anchor"
        for batch in _paid_within(evidence, self.dump, spans):
            yield {"wrong": f"paid during {self.none_during}", "batch": batch["batch"], "paid_at": batch["paid_at"]}


def _proven(evidence: "Evidence", name: str) -> "list[Fault]":
    return [one for one in evidence.injected if name in (one.name, one.fault_id) and one.effect_ns is not None]


def _paid_within(evidence: "Evidence", dump: str, spans: "Sequence[tuple[int | None, int]]") -> list[Row]:
    """The batches that were paid in one of these times, [start, end) in monotonic ns; none without a clock anchor."""
    ahead_ns = evidence.wall_ahead_ns
    if ahead_ns is None:
        return []
    return [
        row
        for row in rows_of_kind(evidence.dumps[dump], "batch")
        if row["paid_at"] is not None
        and any((start or 0) <= round(row["paid_at"] * 1e9) - ahead_ns < end for start, end in spans)
    ]


def leaving(ledger: Dump) -> list[Row]:
    """The transfers that take money from a custody wallet: those that credit it, for a wallet's money is a debit."""
    wallets = {row["account"] for row in rows_of_kind(ledger, "account") if row["kind"] == _CUSTODY}
    return [row for row in rows_of_kind(ledger, "transfer") if row["credit"] in wallets]


def mistakes(dump: Dump, left: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Everything wrong, as data; `left` are the transfers that took money from a wallet."""
    batches = {str(row["transfer"]): row for row in rows_of_kind(dump, "batch") if row["transfer"] is not None}
    manifests = {row["manifest"]: row for row in rows_of_kind(dump, "manifest")}
    required = {row["version"]: row["required"] for row in rows_of_kind(dump, "policy")}
    signers = _signers(dump, manifests)
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
            continue
        if manifest["status"] != "paid" or not batch["paid_at"] < manifest["expires_at"]:
            yield {"wrong": "paid under a manifest that was not in force", "status": manifest["status"],
                   "expires_at": manifest["expires_at"], "paid_at": batch["paid_at"], **told}  # fmt: skip
        if len(signers[batch["manifest"]]) < required.get(manifest["policy_version"], 1 << 31):
            yield {"wrong": "paid with too few signers", "signers": sorted(signers[batch["manifest"]]), **told}
    for batch in batches.values():
        yield {"wrong": "called paid without a transfer", "batch": batch["batch"], "transfer": batch["transfer"]}
    yield from _shared(rows_of_kind(dump, "batch"))


def _signers(dump: Dump, manifests: Mapping[Any, Row]) -> dict[Any, set[Any]]:
    """Manifest -> those who signed it with a key that was theirs under its policy; revoked keys have ended too."""
    keys = {row["public_key"]: row for row in rows_of_kind(dump, "key")}
    signers: dict[Any, set[Any]] = defaultdict(set)
    for row in rows_of_kind(dump, "signature"):
        key, manifest = keys.get(row["public_key"]), manifests.get(row["manifest"])
        if key is None or manifest is None or key["signer"] != row["signer"]:
            continue
        version = manifest["policy_version"]
        if key["since"] <= version and (key["until"] is None or version < key["until"]):
            signers[row["manifest"]].add(row["signer"])
    return signers


def _shared(batches: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Batches of one wallet whose ranges of the queue overlap: a redemption could be paid by both."""
    newest: dict[Any, Row] = {}
    for batch in sorted(batches, key=lambda row: row["first_seq"]):
        before = newest.get(batch["wallet"])
        if before is not None and batch["first_seq"] <= before["last_seq"]:
            yield {"wrong": "two batches share redemptions", "batch": batch["batch"], "other": before["batch"],
                   "first_seq": batch["first_seq"], "last_seq": before["last_seq"]}  # fmt: skip
        if before is None or batch["last_seq"] > before["last_seq"]:
            newest[batch["wallet"]] = batch
