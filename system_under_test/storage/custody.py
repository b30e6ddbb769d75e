"""The ways to custody's tables: what signers may do, what settlement may do, and how rows become values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from system_under_test.domain.custody import Entry, Key, Manifest, Policy, Signature
from system_under_test.settings import PlatformError
from system_under_test.storage.database import Database

CURRENT: Final = "current"
STORED: Final = "stored"
PAID: Final = "paid"
CLOSED: Final = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A manifest that waits for signatures, as it is stored: its fields, its bytes, its list, the policy in force."""

    manifest: Manifest
    canonical: bytes
    entries: tuple[Entry, ...]
    policy_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A manifest with as many signatures as are required, not verified yet; `paid` when its batch has been."""

    manifest: Manifest
    signatures: tuple[Signature, ...]
    paid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Batches by what they wait for, and the age of the oldest unpaid one in wall seconds, 0 without one."""

    waiting: int
    signed: int
    paid: int
    oldest_age_s: float


class SignerDesk:
    """What a signer's role may do; failures are those of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enrol(self, public_key: bytes) -> str:
        """How the key stands, enrolled now where the seat was vacant: CURRENT, `revoked` or `replaced`.

        Raises:
            PlatformError: the database's role is no signer's.
        """
        try:
            row = await self._database.row("select enrol_key($1) as standing", public_key)
        except asyncpg.InsufficientPrivilegeError as error:
            raise PlatformError(
                f"DATABASE_URL: its role may not sign ({error}); each signer has a role of its own, such as"
                " savings_signer_1"
            ) from error
        return str(row["standing"])

    async def pending(self, limit: int, *, set_aside: Sequence[bytes]) -> list[Pending]:
        """The oldest manifests that this signer has not signed, without those whose nonces are `set_aside`."""
        rows = await self._database.rows("select * from pending_manifests($1, $2)", limit, list(set_aside))
        return [
            Pending(
                manifest=manifest_of(row),
                canonical=row["canonical"],
                entries=tuple(
                    Entry(seq=seq, account=account, amount=amount, wallet=wallet)
                    for seq, account, amount, wallet in zip(
                        row["seqs"], row["accounts"], row["amounts"], row["wallets"], strict=True
                    )
                ),
                policy_version=row["policy_in_force"],
            )
            for row in rows
        ]

    async def push(self, manifest: Manifest, public_key: bytes, value: bytes) -> str:
        """Stores this signer's signature: STORED, or why not: `again`, `key`, `gone`."""
        row = await self._database.row(
            "select sign_manifest($1, $2, $3, $4) as outcome", manifest.batch, manifest.nonce, public_key, value
        )
        return str(row["outcome"])


class PayoutDesk:
    """What settlement's role may do with custody, under its lease; failures are those of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def propose(self, token: int) -> int:
        """Gathers what was settled into batches; gives the number of manifests made."""
        row = await self._database.row("select propose_payouts($1) as made", token)
        return int(row["made"])

    async def signed(self) -> list[Signed]:
        """The manifests to decide on."""
        rows = await self._database.rows("select * from signed_manifests()")
        return [Signed(manifest=manifest_of(row), signatures=signatures_of(row), paid=row["paid"]) for row in rows]

    async def policy(self) -> Policy:
        """The policy in force."""
        row = await self._database.row("select * from custody_keys()")
        return Policy(version=row["version"], required=row["required"], keys=keys_of(row))

    async def pay(self, token: int, manifest: Manifest, signers: Sequence[str]) -> str:
        """Pays the manifest's batch: PAID, or why not: CLOSED, or a `Reason`."""
        row = await self._database.row(
            "select pay_out($1, $2, $3, $4) as outcome", token, manifest.batch, manifest.nonce, list(signers)
        )
        return str(row["outcome"])

    async def figures(self) -> Figures:
        """How the batches stand."""
        row = await self._database.row("select * from payout_figures()")
        return Figures(
            waiting=row["waiting"], signed=row["signed"], paid=row["paid"], oldest_age_s=row["oldest_age_seconds"]
        )


def manifest_of(row: Any) -> Manifest:
    """The manifest whose columns `row` has."""
    return Manifest(
        batch=row["batch"],
        wallet=row["wallet"],
        digest=row["digest"],
        count=row["count"],
        total=row["total"],
        head=row["head"],
        policy_version=row["policy_version"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        nonce=row["nonce"],
        encoding=row["encoding"],
    )


def signatures_of(row: Any) -> tuple[Signature, ...]:
    """The signatures under `row`'s manifest."""
    columns = (row["signers"] or (), row["public_keys"] or (), row["batches"] or (), row["signatures"] or ())
    return tuple(
        Signature(signer=signer, public_key=public_key, batch=batch, nonce=row["nonce"], value=value)
        for signer, public_key, batch, value in zip(*columns, strict=True)
    )


def keys_of(row: Any) -> tuple[Key, ...]:
    """Every key there ever was."""
    columns = (row["signers"], row["public_keys"], row["since"], row["until"], row["revoked"])
    return tuple(
        Key(signer=signer, public_key=public_key, since=since, until=until, revoked=revoked)
        for signer, public_key, since, until, revoked in zip(*columns, strict=True)
    )
