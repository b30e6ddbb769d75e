"""Who may move a custody wallet's money: a batch of payouts under a manifest that enough signers signed.

    settled redemptions -> batch (an ordered list) -> manifest (canonical bytes) -> signatures -> decide -> transfer

A manifest says everything that a signature is meant to approve, and its bytes say it in one way only: fixed order,
fixed widths, lengths in front of texts, and a prefix that no other signed thing here begins with. It is good for one
batch, once, until it expires, under the policy of its version.
"""

import hashlib
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from system_under_test.domain.signatures import verify

ENCODING: Final = 1
BATCH_MAX: Final = 5_000
REQUIRED_MIN: Final = 2
"""Below two there would be one person who can move money."""
LIFETIME_MAX: Final = timedelta(minutes=15)
NONCE_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_MANIFEST_PREFIX: Final = b"savings custody payout manifest\0"
_LIST_PREFIX: Final = b"savings custody payout list\0"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One redemption to be paid: its place in the queue, whose it is, how much, and whose wallet it comes from."""

    seq: int
    account: str
    amount: int
    wallet: str


def digest_of(entries: Sequence[Entry]) -> bytes:
    """SHA-256 over (seq, account, amount) of each entry, in this order; the wallet stands in the manifest."""
    digest = hashlib.sha256(_LIST_PREFIX)
    for entry in entries:
        digest.update(struct.pack(">q", entry.seq) + _text(entry.account) + struct.pack(">q", entry.amount))
    return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What signers approve: `count` payouts of `total` minor units from `wallet`, listed by `digest`.

    `head` is the newest transfer when it was made; `nonce` tells two manifests of one batch apart.
    """

    batch: int
    wallet: str
    digest: bytes
    count: int
    total: int
    head: int
    policy_version: int
    created_at: datetime
    expires_at: datetime
    nonce: bytes
    encoding: int = ENCODING

    def canonical(self) -> bytes:
        """The bytes that are signed: different for any two different manifests.

        Raises:
            ValueError: a field cannot be encoded; digest and nonce have 32 and 16 bytes, times a zone.
        """
        if len(self.digest) != _DIGEST_BYTES or len(self.nonce) != NONCE_BYTES:
            raise ValueError(
                f"expected a digest of 32 and a nonce of 16 bytes, got {len(self.digest)}, {len(self.nonce)}"
            )
        numbers = (self.count, self.total, self.head, self.policy_version)
        try:
            return b"".join(
                (
                    _MANIFEST_PREFIX,
                    struct.pack(">hq", self.encoding, self.batch),
                    _text(self.wallet),
                    self.digest,
                    struct.pack(">6q", *numbers, _microseconds(self.created_at), _microseconds(self.expires_at)),
                    self.nonce,
                )
            )
        except struct.error as error:
            raise ValueError(f"a number of the manifest of batch {self.batch} has more than 64 bits") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A signer's public key, which counts from policy version `since` until before `until`; None is for ever."""

    signer: str
    public_key: bytes
    since: int
    until: int | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`required` distinct signers out of those whose keys are current at `version`; earlier keys are kept."""

    version: int
    required: int
    keys: tuple[Key, ...]

    def __post_init__(self) -> None:
        if self.required < REQUIRED_MIN:
            raise ValueError(
                f"policy {self.version} requires {self.required} signers; expected at least {REQUIRED_MIN}"
            )
        if len({key.public_key for key in self.keys}) < len(self.keys):
            raise ValueError(f"policy {self.version} has a key twice: one signer could count as two")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """`value`, as `signer` gave it with `public_key`, for the manifest of `batch` with this `nonce`."""

    signer: str
    public_key: bytes
    batch: int
    nonce: bytes
    value: bytes


class Reason(StrEnum):
    """Why a manifest is not paid, or a signature does not count."""

    ENCODING = "encoding"
    REUSED = "reused"
    EXPIRED = "expired"
    POLICY = "policy"
    SAME_SIGNER = "same_signer"
    UNKNOWN_KEY = "unknown_key"
    REVOKED_KEY = "revoked_key"
    OUTDATED_KEY = "outdated_key"
    ANOTHER_BATCH = "another_batch"
    ANOTHER_MANIFEST = "another_manifest"
    ALTERED = "altered"
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The batch may be paid: these signers approved it."""

    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The batch stays unpaid, and why."""

    reason: Reason
    detail: str


def decide(
    manifest: Manifest, signatures: Sequence[Signature], policy: Policy, now: datetime, already_paid: Collection[int]
) -> Accepted | Refusal:
    """Whether the manifest's batch may be paid `now`; `already_paid` are the batches that have been.

    A signature that does not count harms nobody as long as enough others do; where they do not, the first one's
    reason is given.
    """
    refusal = _refuse_manifest(manifest, policy, now, already_paid)
    if refusal is not None:
        return refusal
    signers: list[str] = []
    refused: list[Refusal] = []
    for signature in signatures:
        refusal = _refuse_signature(signature, manifest, policy, signers)
        if refusal is None:
            signers.append(signature.signer)
        else:
            refused.append(refusal)
    if len(signers) >= policy.required:
        return Accepted(signers=tuple(signers))
    if refused:
        return refused[0]
    detail = f"the manifest of batch {manifest.batch} has {len(signers)} signatures of {policy.required}"
    return Refusal(reason=Reason.TOO_FEW, detail=detail)


def _refuse_manifest(
    manifest: Manifest, policy: Policy, now: datetime, already_paid: Collection[int]
) -> Refusal | None:
    about = f"the manifest of batch {manifest.batch}"
    checks = (
        (manifest.encoding == ENCODING, Reason.ENCODING, f"has encoding {manifest.encoding}; known is {ENCODING}"),
        (manifest.batch not in already_paid, Reason.REUSED, "has been used: the batch is paid"),
        (now < manifest.expires_at, Reason.EXPIRED, f"expired at {manifest.expires_at.isoformat()}"),
        (
            manifest.policy_version == policy.version,
            Reason.POLICY,
            f"was made under policy {manifest.policy_version}; in force is {policy.version}",
        ),
    )
    return next((Refusal(reason=reason, detail=f"{about} {why}") for holds, reason, why in checks if not holds), None)


def _refuse_signature(
    signature: Signature, manifest: Manifest, policy: Policy, signers: Collection[str]
) -> Refusal | None:
    key = next((key for key in policy.keys if key.public_key == signature.public_key), None)
    known = key is not None and key.signer == signature.signer and key.since <= policy.version
    ended = key is not None and key.until is not None and key.until <= policy.version
    revoked = ended and key is not None and key.revoked
    checks = (
        (known, Reason.UNKNOWN_KEY, f"has a key that is none of theirs under policy {policy.version}"),
        (not revoked, Reason.REVOKED_KEY, "has a key that was revoked"),
        (not ended, Reason.OUTDATED_KEY, f"has a key below policy {policy.version}: it was replaced"),
        (signature.batch == manifest.batch, Reason.ANOTHER_BATCH, f"was made for batch {signature.batch}"),
        (signature.nonce == manifest.nonce, Reason.ANOTHER_MANIFEST, "was made for another manifest of it"),
        (signature.signer not in signers, Reason.SAME_SIGNER, "is their second: each signer counts once"),
        (
            verify(signature.public_key, manifest.canonical(), signature.value),
            Reason.ALTERED,
            "was not made for what the manifest says now",
        ),
    )
    about = f"the signature of {signature.signer} under batch {manifest.batch}"
    return next((Refusal(reason=reason, detail=f"{about} {why}") for holds, reason, why in checks if not holds), None)


def objection(
    manifest: Manifest, canonical: bytes, entries: Sequence[Entry], *, policy_version: int, now: datetime
) -> str | None:
    """Why a signer must not sign `manifest`, whose list is `entries` and whose stored bytes are `canonical`; or None.

    Everything is worked out anew from the entries; nothing that the manifest says about them is believed.
    """
    seqs = [entry.seq for entry in entries]
    foreign = next((entry for entry in entries if entry.wallet != manifest.wallet), None)
    checks = (
        (manifest.encoding == ENCODING, f"its encoding is {manifest.encoding}, known is {ENCODING}"),
        (manifest.policy_version == policy_version, f"it was made under policy {manifest.policy_version}"),
        (manifest.created_at <= now + timedelta(seconds=5), "it was made in the future"),
        (now < manifest.expires_at, "it has expired"),
        (manifest.expires_at - manifest.created_at <= LIFETIME_MAX, f"it lasts longer than {LIFETIME_MAX}"),
        (0 < len(entries) <= BATCH_MAX, f"its list has {len(entries)} entries, expected 1 to {BATCH_MAX}"),
        (seqs == sorted(set(seqs)), "its list is not in strict order of the queue"),
        (all(entry.amount > 0 for entry in entries), "an amount of its list is not positive"),
        (foreign is None, f"redemption {foreign and foreign.seq} is not of wallet {manifest.wallet}"),
        (len(entries) == manifest.count, f"it says {manifest.count} payouts, its list has {len(entries)}"),
        (sum(entry.amount for entry in entries) == manifest.total, f"its list does not add up to {manifest.total}"),
        (digest_of(entries) == manifest.digest, "its digest is not that of its list"),
    )
    for holds, problem in checks:
        if not holds:
            return problem
    try:
        return None if manifest.canonical() == canonical else "its stored bytes are not what its fields say"
    except ValueError as error:
        return str(error)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">h", len(raw)) + raw


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with a zone, got {moment.isoformat()}")
    return (moment - _EPOCH) // _MICROSECOND
