"""The audit of every payout: that it was owed, listed once, approved by enough signers, and paid exactly so.

It starts from the transfers and from the redemptions themselves. Digest, bytes and signatures are worked out anew;
nothing is taken over from the process that paid.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from system_under_test.domain.custody import Manifest, Policy, Refusal, decide
from system_under_test.storage.custody import keys_of, manifest_of, signatures_of
from system_under_test.storage.problem import Problem

_BATCHES_AT_ONCE: Final = 50
"""Some 1.5 s of lists to be worked out anew."""
_NUMBER_MAX: Final = (1 << 63) - 1


async def audit(connection: Any, *, after: int = 0) -> list[Problem]:
    """What is wrong with the payouts of the batches numbered beyond `after`; an empty list when nothing is.

    Looking at a part only makes sense beyond a batch up to which all had been paid when it was last looked at.

    `connection` needs the rights of the auditor or of maintenance. Signatures count by the policy that the manifest
    was made under, so a key revoked later does not spoil what it approved before.
    """
    keys = keys_of(await connection.fetchrow("select * from custody_keys()"))
    policies = {
        row["version"]: Policy(version=row["version"], required=row["required"], keys=keys)
        for row in await connection.fetch("select * from audit_policies()")
    }
    progress = await connection.fetch("select * from audit_progress()")
    newest = max(row["newest"] for row in progress)
    problems: list[Problem] = []
    while after < _NUMBER_MAX:
        # The last part is open: it holds payouts of batches that do not exist.
        last = after + _BATCHES_AT_ONCE if after + _BATCHES_AT_ONCE < newest else _NUMBER_MAX
        for row in await connection.fetch("select * from audit_payouts($1, $2)", after, last):
            problems += _problems(row, policies)
        after = last
    for row in progress:
        if row["unlisted"] is not None:
            expected = f"nothing passed over up to redemption {row['considered']}"
            found = f"redemption {row['unlisted']}, settled and in no batch"
            problems.append(Problem(table="payout_progress", key=row["wallet"], expected=expected, found=found))
    return problems


def _problems(row: Any, policies: Mapping[int, Policy]) -> Iterator[Problem]:
    if row["batch_wallet"] is None:
        found = f"batch {row['number']}, which does not exist"
        yield Problem(table="transfer", key=str(row["transfer_seq"]), expected="a payout of a batch", found=found)
        return
    yield from _wrong_place(row)
    if row["transfer"] is None and row["transfer_seq"] is None:
        return
    yield from _wrong_transfer(row)
    if row["nonce"] is None:
        expected = f"the manifest under which transfer {row['transfer_seq']} paid batch {row['number']}"
        yield Problem(table="manifest", key="none", expected=expected, found="no manifest")
        return
    yield from _wrong_manifest(row, manifest_of(row), policies)


def _wrong_place(row: Any) -> Iterator[Problem]:
    if row["unlisted"] is not None:
        expected = f"a batch of its wallet before batch {row['number']}"
        yield Problem(table="outcome", key=str(row["unlisted"]), expected=expected, found="settled and in no batch")
    if row["first_seq"] <= row["after_seq"]:
        expected = f"redemptions after {row['after_seq']}, the last of the batch before"
        yield Problem(
            table="payout_batch",
            key=str(row["number"]),
            expected=expected,
            found=f"redemptions from {row['first_seq']}",
        )
    ends = (row["first_seq"], row["last_seq"])
    listed = (row["list_first"], row["list_last"])
    if ends != listed:
        yield Problem(
            table="payout_batch",
            key=str(row["number"]),
            expected=f"redemptions {ends[0]} to {ends[1]}",
            found=f"settled ones from {listed[0]} to {listed[1]}",
        )


def _wrong_transfer(row: Any) -> Iterator[Problem]:
    wallet = row["batch_wallet"]
    expected = {
        "number": row["transfer"],
        "debit": f"payable-{wallet}",
        "credit": f"custody-{wallet}",
        "amount": row["list_total"],
    }
    found = {"number": row["transfer_seq"], "debit": row["debit"], "credit": row["credit"], "amount": row["amount"]}
    for field, value in expected.items():
        if found[field] != value:
            key = row["transfer_seq"] if row["transfer_seq"] is not None else row["transfer"]
            said = f"{field} {value} as the payout of batch {row['number']}"
            yield Problem(table="transfer", key=str(key), expected=said, found=f"{field} {found[field]}")
            return


def _wrong_manifest(row: Any, manifest: Manifest, policies: Mapping[int, Policy]) -> Iterator[Problem]:
    key = manifest.nonce.hex()
    expected = {
        "batch": row["number"],
        "wallet": row["batch_wallet"],
        "count": row["list_count"],
        "total": row["list_total"],
        "digest": row["list_digest"].hex(),
        "status": "paid",
        "bytes": row["canonical"].hex(),
    }
    try:
        canonical = manifest.canonical().hex()
    except ValueError as error:
        canonical = f"none: {error}"
    found = {
        "batch": manifest.batch,
        "wallet": manifest.wallet,
        "count": manifest.count,
        "total": manifest.total,
        "digest": manifest.digest.hex(),
        "status": row["status"],
        "bytes": canonical,
    }
    for field, value in expected.items():
        if found[field] != value:
            said = f"{field} {value}, as the redemptions of batch {row['number']} have it"
            yield Problem(table="manifest", key=key, expected=said, found=f"{field} {found[field]}")
            return
    policy = policies.get(manifest.policy_version)
    if policy is None:
        yield Problem(
            table="manifest", key=key, expected="a policy that there was", found=f"policy {manifest.policy_version}"
        )
        return
    if row["recorded_at"] is None:
        return  # named already: the transfer is missing
    decision = decide(manifest, signatures_of(row), policy, row["recorded_at"], ())
    if isinstance(decision, Refusal):
        said = f"{policy.required} signatures that hold when batch {row['number']} was paid"
        yield Problem(table="signature", key=key, expected=said, found=f"{decision.reason}: {decision.detail}")
