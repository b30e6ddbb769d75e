"""Custody's rules: what two signers approved is paid once, and nothing else ever is."""

import dataclasses
import hashlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from system_under_test.domain import signatures
from system_under_test.domain.custody import (
    Accepted,
    Entry,
    Key,
    Manifest,
    Policy,
    Reason,
    Refusal,
    Signature,
    decide,
    digest_of,
    objection,
)

# A signature takes as long as the machine is busy.
_UNTIMED: Final = settings(deadline=None)
NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRIVATE: Final = {name: hashlib.sha256(name.encode()).digest() for name in ("one", "two", "three", "one again")}
PUBLIC: Final = {name: signatures.public_key(key) for name, key in PRIVATE.items()}
ENTRIES: Final = (
    Entry(seq=7, account="c-000002", amount=500, wallet="a"),
    Entry(seq=9, account="c-000004", amount=1, wallet="a"),
)
MANIFEST: Final = Manifest(
    batch=3,
    wallet="a",
    digest=digest_of(ENTRIES),
    count=2,
    total=501,
    head=44,
    policy_version=4,
    created_at=NOW - timedelta(seconds=1),
    expires_at=NOW + timedelta(minutes=5),
    nonce=b"n" * 16,
)
POLICY: Final = Policy(
    version=4,
    required=2,
    keys=tuple(
        Key(signer=name, public_key=PUBLIC[name], since=since) for name, since in (("one", 2), ("two", 3), ("three", 4))
    ),
)


def _sign(name: str, manifest: Manifest = MANIFEST, *, key: str = "") -> Signature:
    key = key or name
    return Signature(
        signer=name,
        public_key=PUBLIC[key],
        batch=manifest.batch,
        nonce=manifest.nonce,
        value=signatures.sign(PRIVATE[key], manifest.canonical()),
    )


def _ended(name: str, *, until: int, revoked: bool) -> Policy:
    keys = tuple(
        dataclasses.replace(key, until=until, revoked=revoked) if key.signer == name else key for key in POLICY.keys
    )
    return dataclasses.replace(POLICY, keys=keys)


BOTH: Final = (_sign("one"), _sign("two"))
_alter = dataclasses.replace
OTHER: Final = _alter(MANIFEST, batch=4, nonce=b"o" * 16)

REFUSED: dict[str, tuple[Reason, Callable[[], Any]]] = {
    "nobody signed": (Reason.TOO_FEW, lambda: decide(MANIFEST, (), POLICY, NOW, ())),
    "one signed": (Reason.TOO_FEW, lambda: decide(MANIFEST, BOTH[:1], POLICY, NOW, ())),
    "the same signer twice": (Reason.SAME_SIGNER, lambda: decide(MANIFEST, (BOTH[0], BOTH[0]), POLICY, NOW, ())),
    "one key under two names": (
        Reason.UNKNOWN_KEY,
        lambda: decide(MANIFEST, (BOTH[0], _alter(BOTH[0], signer="two")), POLICY, NOW, ()),
    ),
    "a stranger's key": (
        Reason.UNKNOWN_KEY,
        lambda: decide(MANIFEST, (BOTH[0], _sign("two", key="one again")), POLICY, NOW, ()),
    ),
    "a revoked key": (
        Reason.REVOKED_KEY,
        lambda: decide(MANIFEST, BOTH, _ended("two", until=4, revoked=True), NOW, ()),
    ),
    "a key below the policy version": (
        Reason.OUTDATED_KEY,
        lambda: decide(MANIFEST, BOTH, _ended("two", until=4, revoked=False), NOW, ()),
    ),
    "a key of a later policy": (
        Reason.UNKNOWN_KEY,
        lambda: decide(
            _alter(MANIFEST, policy_version=3),
            [_sign(name, _alter(MANIFEST, policy_version=3)) for name in ("one", "three")],
            _alter(POLICY, version=3),
            NOW,
            (),
        ),
    ),
    "an altered manifest": (Reason.ALTERED, lambda: decide(_alter(MANIFEST, total=502), BOTH, POLICY, NOW, ())),
    "an altered signature": (
        Reason.ALTERED,
        lambda: decide(MANIFEST, (BOTH[0], _alter(BOTH[1], value=bytes(64))), POLICY, NOW, ()),
    ),
    "used before": (Reason.REUSED, lambda: decide(MANIFEST, BOTH, POLICY, NOW, {3})),
    "expired": (Reason.EXPIRED, lambda: decide(MANIFEST, BOTH, POLICY, MANIFEST.expires_at, ())),
    "signatures for another batch": (
        Reason.ANOTHER_BATCH,
        lambda: decide(OTHER, BOTH, POLICY, NOW, ()),
    ),
    "signatures for another batch, relabelled": (
        Reason.ALTERED,
        lambda: decide(OTHER, [_alter(each, batch=4, nonce=b"o" * 16) for each in BOTH], POLICY, NOW, ()),
    ),
    "signatures for an earlier manifest": (
        Reason.ANOTHER_MANIFEST,
        lambda: decide(_alter(MANIFEST, nonce=b"o" * 16), BOTH, POLICY, NOW, ()),
    ),
    "an earlier policy": (Reason.POLICY, lambda: decide(MANIFEST, BOTH, _alter(POLICY, version=5), NOW, ())),
    "an unknown encoding": (Reason.ENCODING, lambda: decide(_alter(MANIFEST, encoding=2), BOTH, POLICY, NOW, ())),
    "three required": (Reason.TOO_FEW, lambda: decide(MANIFEST, BOTH, _alter(POLICY, required=3), NOW, ())),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_manifest_is_refused_with_its_reason(what: str) -> None:
    """Each forbidden case: refused, with the reason that belongs to it, and a sentence that names the batch."""
    reason, attempt = REFUSED[what]
    refusal = attempt()
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert "batch" in refusal.detail


def test_two_distinct_current_signers_are_enough_whatever_else_is_there() -> None:
    """Two good ones, in any company of bad ones: accepted, and the good ones are named."""
    company = (BOTH[0], _alter(BOTH[1], value=bytes(64)), _sign("three", OTHER), _sign("two", key="one again"))
    assert decide(MANIFEST, BOTH, POLICY, NOW, {1, 2}) == Accepted(signers=("one", "two"))
    assert decide(MANIFEST, (*company, *BOTH), POLICY, NOW, ()) == Accepted(signers=("one", "two"))


def test_a_policy_of_one_signer_cannot_be_made() -> None:
    """Fewer than two required, or one key for two signers: refused at construction."""
    with pytest.raises(ValueError, match="requires 1 signers; expected at least 2"):
        _alter(POLICY, required=1)
    with pytest.raises(ValueError, match="has a key twice"):
        _alter(POLICY, keys=(*POLICY.keys, Key(signer="four", public_key=PUBLIC["one"], since=1)))


numbers = st.integers(min_value=-(2**63), max_value=2**63 - 1) | st.integers(min_value=0, max_value=3)
moments = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis wants naive limits
texts = st.text(st.characters(codec="utf-8"), max_size=5)
manifests = st.builds(
    Manifest,
    batch=numbers,
    wallet=texts,
    digest=st.binary(min_size=32, max_size=32),
    count=numbers,
    total=numbers,
    head=numbers,
    policy_version=numbers,
    created_at=moments,
    expires_at=moments,
    nonce=st.binary(min_size=16, max_size=16),
    encoding=st.integers(min_value=-(2**15), max_value=2**15 - 1),
)


@_UNTIMED
@given(manifest=manifests)
def test_canonical_bytes_can_be_read_back(manifest: Manifest) -> None:
    """Reads the bytes back with a reader of the test's own: the same manifest, so no two share their bytes."""
    raw = manifest.canonical()
    assert raw.startswith(b"savings custody payout manifest\0")
    encoding, batch, length = struct.unpack_from(">hqh", raw, 32)
    wallet_end = 44 + length
    count, total, head, policy_version, created_us, expires_us = struct.unpack_from(">6q", raw, wallet_end + 32)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    read = Manifest(
        batch=batch,
        wallet=raw[44:wallet_end].decode(),
        digest=raw[wallet_end : wallet_end + 32],
        count=count,
        total=total,
        head=head,
        policy_version=policy_version,
        created_at=epoch + timedelta(microseconds=created_us),
        expires_at=epoch + timedelta(microseconds=expires_us),
        nonce=raw[wallet_end + 80 :],
        encoding=encoding,
    )
    assert read == manifest


@_UNTIMED
@given(one=manifests, other=manifests, field=st.sampled_from([field.name for field in dataclasses.fields(Manifest)]))
def test_one_field_changed_changes_the_bytes(one: Manifest, other: Manifest, field: str) -> None:
    """Gives a manifest one field of another: other bytes unless the fields are the same."""
    changed = _alter(one, **{field: getattr(other, field)})
    assert (changed.canonical() == one.canonical()) == (getattr(one, field) == getattr(other, field))


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": b"short"},
        {"nonce": b"short"},
        {"total": 2**63},
        {"wallet": "a" * 40_000},
        {"created_at": datetime(2026, 3, 1)},  # noqa: DTZ001 - a time without a zone is the point
    ],
)
def test_what_has_no_canonical_bytes_is_an_error(wrong: dict[str, Any]) -> None:
    """Fields that do not fit the encoding: a ValueError, never bytes of another meaning."""
    with pytest.raises(ValueError, match=r"expected|has more than"):
        _alter(MANIFEST, **wrong).canonical()


entries = st.lists(
    st.builds(
        Entry,
        seq=st.integers(min_value=0, max_value=2),
        account=st.text("ab\0", max_size=3),
        amount=st.integers(min_value=1, max_value=2),
        wallet=st.just("a"),
    ),
    max_size=4,
)


@_UNTIMED
@given(one=entries, other=entries)
def test_two_lists_share_a_digest_only_when_they_are_the_same(one: list[Entry], other: list[Entry]) -> None:
    """Lists of a tiny alphabet, so that a boundary between fields that can move would show: equal only when equal."""
    assert (digest_of(one) == digest_of(other)) == (one == other)


@_UNTIMED
@given(other=manifests, field=st.sampled_from([field.name for field in dataclasses.fields(Manifest)]))
def test_a_manifest_altered_after_it_was_signed_is_never_paid(other: Manifest, field: str) -> None:
    """Gives the signed manifest one field of an arbitrary one: refused."""
    assume(getattr(other, field) != getattr(MANIFEST, field))
    altered = _alter(MANIFEST, **{field: getattr(other, field)})
    labelled = [_alter(each, batch=altered.batch, nonce=altered.nonce) for each in BOTH]
    assert isinstance(decide(altered, BOTH, POLICY, NOW, ()), Refusal)
    assert isinstance(decide(altered, labelled, POLICY, NOW, ()), Refusal)


OBJECTIONABLE: dict[str, tuple[str, Manifest, tuple[Entry, ...]]] = {
    "encoding": ("encoding is 2", _alter(MANIFEST, encoding=2), ENTRIES),
    "policy": ("under policy 3", _alter(MANIFEST, policy_version=3), ENTRIES),
    "future": ("in the future", _alter(MANIFEST, created_at=NOW + timedelta(seconds=6)), ENTRIES),
    "expired": ("has expired", _alter(MANIFEST, expires_at=NOW), ENTRIES),
    "too long": ("lasts longer", _alter(MANIFEST, expires_at=NOW + timedelta(hours=1)), ENTRIES),
    "empty": ("0 entries", MANIFEST, ()),
    "order": ("strict order", MANIFEST, ENTRIES[::-1]),
    "twice": ("strict order", MANIFEST, (ENTRIES[0], ENTRIES[0])),
    "another wallet": ("redemption 9 is not of wallet a", MANIFEST, (ENTRIES[0], _alter(ENTRIES[1], wallet="b"))),
    "count": ("says 3 payouts", _alter(MANIFEST, count=3), ENTRIES),
    "total": ("add up to 500", _alter(MANIFEST, total=500), ENTRIES),
    "another account": ("digest", MANIFEST, (ENTRIES[0], _alter(ENTRIES[1], account="c-000006"))),
    "nothing": ("not positive", MANIFEST, (ENTRIES[0], _alter(ENTRIES[1], amount=0))),
    "nonce": ("nonce of 16", _alter(MANIFEST, nonce=b""), ENTRIES),
}


@pytest.mark.parametrize("what", OBJECTIONABLE)
def test_a_signer_objects(what: str) -> None:
    """Each thing that is wrong with a manifest or its list: named."""
    said, manifest, listed = OBJECTIONABLE[what]
    canonical = b"" if what == "nonce" else manifest.canonical()
    problem = objection(manifest, canonical, listed, policy_version=4, now=NOW)
    assert problem is not None
    assert said in problem


def test_a_signer_has_nothing_against_a_true_manifest_and_something_against_other_bytes() -> None:
    """The manifest with its own bytes: no objection; with those of another: an objection."""
    assert objection(MANIFEST, MANIFEST.canonical(), ENTRIES, policy_version=4, now=NOW) is None
    said = objection(MANIFEST, OTHER.canonical(), ENTRIES, policy_version=4, now=NOW)
    assert said == "its stored bytes are not what its fields say"


class Custody(RuleBasedStateMachine):
    """Signers sign, lose and change keys, time passes, anybody mixes up what there is; payments are judged by memory.

    The machine remembers who really signed which bytes with which key, and accepts a payment by counting that memory.
    """

    NAMES = ("one", "two", "three")

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.drawn = 0
        self.policy = Policy(version=1, required=2, keys=())
        self.private: dict[bytes, bytes] = {}
        self.manifests: list[Manifest] = []
        self.signed: list[Signature] = []
        self.truth: set[tuple[str, bytes, bytes, bytes]] = set()
        self.paid: dict[int, Manifest] = {}

    def _current(self, name: str) -> Key | None:
        return next((key for key in self.policy.keys if key.signer == name and key.until is None), None)

    def _end(self, name: str, *, revoked: bool) -> tuple[Key, ...]:
        version = self.policy.version + 1
        return tuple(
            _alter(key, until=version, revoked=revoked) if key.signer == name and key.until is None else key
            for key in self.policy.keys
        )

    @rule(name=st.sampled_from(NAMES))
    def enrol_or_rotate(self, name: str) -> None:
        self.drawn += 1
        private = hashlib.sha256(f"{self.drawn}".encode()).digest()
        public = signatures.public_key(private)
        self.private[public] = private
        version = self.policy.version + 1
        keys = (*self._end(name, revoked=False), Key(signer=name, public_key=public, since=version))
        self.policy = _alter(self.policy, version=version, keys=keys)

    @rule(name=st.sampled_from(NAMES))
    def revoke(self, name: str) -> None:
        if self._current(name):
            self.policy = _alter(self.policy, version=self.policy.version + 1, keys=self._end(name, revoked=True))

    @rule(batch=st.integers(min_value=1, max_value=3), total=st.integers(min_value=1, max_value=3))
    def propose(self, batch: int, total: int) -> None:
        self.drawn += 1
        manifest = _alter(
            MANIFEST,
            batch=batch,
            total=total,
            policy_version=self.policy.version,
            created_at=self.now,
            expires_at=self.now + timedelta(seconds=3),
            nonce=self.drawn.to_bytes(16, "big"),
        )
        self.manifests.append(manifest)

    @precondition(lambda self: self.manifests and self.policy.keys)
    @rule(data=st.data())
    def sign(self, data: st.DataObject) -> None:
        manifest = data.draw(st.sampled_from(self.manifests))
        key = data.draw(st.sampled_from(self.policy.keys))
        value = signatures.sign(self.private[key.public_key], manifest.canonical())
        self.truth.add((key.signer, key.public_key, manifest.canonical(), value))
        self.signed.append(
            Signature(
                signer=key.signer, public_key=key.public_key, batch=manifest.batch, nonce=manifest.nonce, value=value
            )
        )

    @precondition(lambda self: self.signed and self.manifests)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def forge(self, data: st.DataObject, name: str) -> None:
        manifest = data.draw(st.sampled_from(self.manifests))
        signature = data.draw(st.sampled_from(self.signed))
        key = data.draw(st.sampled_from(self.policy.keys))
        kind = data.draw(st.sampled_from(["another manifest", "another name", "another key", "nothing"]))
        self.signed.append(
            {
                "another manifest": _alter(signature, batch=manifest.batch, nonce=manifest.nonce),
                "another name": _alter(signature, signer=name),
                "another key": _alter(signature, signer=key.signer, public_key=key.public_key),
                "nothing": _alter(signature, value=bytes(64)),
            }[kind]
        )

    @rule(seconds=st.integers(min_value=0, max_value=2))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.manifests)
    @rule(data=st.data(), alter=st.booleans())
    def pay(self, data: st.DataObject, alter: bool) -> None:  # noqa: FBT001 - Hypothesis gives it by name
        manifest = data.draw(st.sampled_from(self.manifests))
        manifest = _alter(manifest, total=manifest.total + 1) if alter else manifest
        decision = decide(manifest, self.signed, self.policy, self.now, self.paid)
        current = {(key.signer, key.public_key) for key in self.policy.keys if key.until is None}
        approving = {
            each.signer
            for each in self.signed
            if (each.signer, each.public_key, manifest.canonical(), each.value) in self.truth
            and (each.signer, each.public_key) in current
            and (each.batch, each.nonce) == (manifest.batch, manifest.nonce)
        }
        payable = (
            len(approving) >= 2
            and manifest.batch not in self.paid
            and self.now < manifest.expires_at
            and manifest.policy_version == self.policy.version
        )
        assert isinstance(decision, Accepted) == payable, decision
        if isinstance(decision, Accepted):
            assert set(decision.signers) == approving
            self.paid[manifest.batch] = manifest

    @invariant()
    def nothing_is_paid_that_was_not_proposed(self) -> None:
        assert all(manifest in self.manifests for manifest in self.paid.values())


TestCustody = Custody.TestCase
TestCustody.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
