"""One of custody's signers: pulls manifests, works everything in them out anew, signs, and pushes its signature.

    pending manifest and list (pulled) -> digest, totals, bytes, policy, expiry: our own -> sign | object (logged)

Nobody can ask it to sign: it accepts no connections but for health and metrics, and its role in the database may do
nothing but read what is to be signed and store a signature in its own name. The key is made at the first start, stays
in `signer.key` of the data folder, and leaves the process in no log, metric or statement.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from prometheus_client import Counter, Gauge
from pydantic import Field

from system_under_test.domain import signatures
from system_under_test.domain.custody import LIFETIME_MAX, objection
from system_under_test.services.service import Service, ServiceSettings, run_service
from system_under_test.settings import Arguments, ExistingFolder, read_settings
from system_under_test.storage.custody import CURRENT, STORED, Pending, SignerDesk
from system_under_test.storage.key_file import open_key

KEY_FILE: Final = "signer.key"
_IDLE_S: Final = 0.1
_STANDING_EVERY_S: Final = 2.0
_AT_ONCE: Final = 4
"""Manifests pulled at once: a full one brings 5,000 entries."""
_STANDINGS: Final = {
    "current": "",
    "revoked": "this key was revoked: the operator has to rotate this signer, and its key file to be moved away",
    "replaced": "another key has this signer's seat: bring its key file back, or have the signer rotated",
}


class SignerSettings(ServiceSettings):
    """What a signer is told."""

    data_dir: ExistingFolder = Field(alias="HOLDFAST_DATA_DIR")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Signs until SIGTERM or SIGINT."""
    parser = Arguments(
        "signer",
        "A custody signer. Reads HOLDFAST_PORT (health and metrics only), HOLDFAST_INSTANCE, HOLDFAST_DATA_DIR (its key"
        f" is kept there as {KEY_FILE}), DATABASE_URL (of a signer's own role), VERSION and STATEMENT_SECONDS.",
    )
    parser.parse_args(arguments)
    settings = read_settings(SignerSettings, environment)
    private_key = open_key(Path(settings.data_dir) / KEY_FILE)
    run_service(settings, lambda service: Signer(service, private_key).work(), pool_size=2)
    return 0


class Signer:
    """Signs what it has nothing against; `work` runs until the service is to stop.

    The wall clock only says whether a manifest is good now. It may be set, back too: how long something is to last is
    counted on the steady one.
    """

    def __init__(
        self,
        service: Service,
        private_key: bytes,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._desk = SignerDesk(service.database)
        self._private_key = private_key
        self._public_key = signatures.public_key(private_key)
        self._standing = ""
        self._wall = wall
        self._steady_s = steady_s
        self._asked_s = -float("inf")
        # Objected to, for as long as any manifest lasts: neither looked at again nor in the way of others.
        self._set_aside: dict[bytes, float] = {}
        registry = service.registry
        self._signed = Counter("savings_signer_signatures", "Signatures stored.", registry=registry)
        self._objections = Counter("savings_signer_objections", "Manifests not signed.", registry=registry)
        self._current = Gauge("savings_signer_key_current", "1 while this signer's key counts.", registry=registry)

    async def work(self) -> None:
        """Looks for manifests ten times a second; without a pause while there are some."""
        while not self._service.stopping.is_set():
            if not await self._service.ask(self._round, work="signing", otherwise=0):
                await self._service.rest(_IDLE_S)

    async def _round(self) -> int:
        now_s = self._steady_s()
        await self._look_after_key(now_s)
        if self._standing != CURRENT:
            return 0
        self._set_aside = {nonce: until_s for nonce, until_s in self._set_aside.items() if until_s > now_s}
        signed = 0
        for pending in await self._desk.pending(_AT_ONCE, set_aside=tuple(self._set_aside)):
            signed += await self._consider(pending)
        return signed

    async def _look_after_key(self, now_s: float) -> None:
        if now_s - self._asked_s < _STANDING_EVERY_S and self._standing:
            return
        standing = await self._desk.enrol(self._public_key)
        self._asked_s = now_s
        if standing != self._standing:
            self._standing = standing
            self._current.set(standing == CURRENT)
            log = self._service.log.info if standing == CURRENT else self._service.log.error
            log("signer.key", standing=standing, public_key=self._public_key.hex(), problem=_STANDINGS[standing])

    async def _consider(self, pending: Pending) -> int:
        manifest, log = pending.manifest, self._service.log
        problem = objection(
            manifest,
            pending.canonical,
            pending.entries,
            policy_version=pending.policy_version,
            now=self._wall(),
        )
        if problem is not None:
            self._set_aside[manifest.nonce] = self._steady_s() + LIFETIME_MAX.total_seconds()
            self._objections.inc()
            log.error("manifest.objection", batch=manifest.batch, nonce=manifest.nonce.hex(), problem=problem)
            return 0
        value = signatures.sign(self._private_key, manifest.canonical())
        outcome = await self._desk.push(manifest, self._public_key, value)
        if outcome != STORED:
            log.warning("signature.not_stored", batch=manifest.batch, outcome=outcome)
            self._standing = ""
            return 0
        self._signed.inc()
        log.info("manifest.signed", batch=manifest.batch, wallet=manifest.wallet, total=manifest.total)
        return 1
