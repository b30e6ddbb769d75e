"""Payouts of what was settled, proposed and paid once enough signers approved: a part of the settlement process.

    step: propose -> manifests that enough signed -> verify each signature -> pay_out (the database checks the rest)

With too few signers up, batches wait, at most eight of a wallet, and nothing else does.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

from prometheus_client import Counter, Gauge

from system_under_test.domain.custody import Accepted, Reason, decide
from system_under_test.services.service import Service
from system_under_test.storage.custody import CLOSED, PAID, PayoutDesk, Signed
from system_under_test.storage.lease import Lease

_REST_S: Final = 0.05
_FIGURES_EVERY_S: Final = 0.5
_STATES: Final = ("waiting", "signed", "paid")


class Payouts:
    """Moves payouts on; a task beside the settling, so that whatever payouts wait for, settling does not."""

    def __init__(self, service: Service, lease: Lease) -> None:
        self._service = service
        self._lease = lease
        self._desk = PayoutDesk(service.database)
        self._next_figures_s = -float("inf")
        # What was counted and logged already: a refused manifest is looked at again until it is replaced.
        self._refused: set[tuple[bytes, str]] = set()
        registry = service.registry
        self._batches = Gauge(
            "savings_payout_batches",
            "Batches: waiting for signatures, signed but not paid, paid. Told by the active process.",
            ("state",),
            registry=registry,
        )
        self._paid = Counter("savings_payouts", "Batches that this process paid.", registry=registry)
        self._refusals = Counter(
            "savings_payout_refusals", "Signed manifests that were not paid.", ("reason",), registry=registry
        )
        self._oldest = Gauge(
            "savings_payout_oldest_unpaid_age_seconds", "Since the oldest unpaid batch was made.", registry=registry
        )
        for state in _STATES:
            self._batches.labels(state)
        for reason in Reason:
            self._refusals.labels(reason)

    async def run(self) -> None:
        """Takes step after step; runs until cancelled, at any point: what was not answered is found out again."""
        while True:
            rest_s = 0.0 if await self.step() else _REST_S
            await asyncio.sleep(rest_s)

    async def step(self) -> int:
        """Does what can be done now, if the lease is ours; gives how many manifests were made and batches paid."""
        token = self._lease.token
        if token is None:
            self._forget_figures()
            return 0
        return await self._service.ask(lambda: self._step(token), work="payouts", otherwise=0)

    async def _step(self, token: int) -> int:
        made = await self._desk.propose(token)
        if made:
            self._service.log.info("payouts.proposed", manifests=made)
        paid = 0
        signed = await self._desk.signed()
        if signed:
            policy = await self._desk.policy()
            for each in signed:
                batches = {each.manifest.batch} if each.paid else set()
                decision = decide(each.manifest, each.signatures, policy, datetime.now(tz=UTC), batches)
                if isinstance(decision, Accepted):
                    paid += await self._pay(token, each, decision)
                else:
                    self._refuse(each, decision.reason, decision.detail)
        self._refused &= {(each.manifest.nonce, reason) for each in signed for reason in Reason}
        await self._tell_figures()
        return made + paid

    async def _pay(self, token: int, signed: Signed, decision: Accepted) -> int:
        manifest = signed.manifest
        outcome = await self._desk.pay(token, manifest, decision.signers)
        if outcome == PAID:
            self._paid.inc()
            self._service.log.info(
                "payout.paid",
                batch=manifest.batch,
                wallet=manifest.wallet,
                count=manifest.count,
                total=manifest.total,
                signers=decision.signers,
            )
            return 1
        if outcome != CLOSED:  # in a window payouts wait as settlement does
            self._refuse(signed, Reason(outcome), "refused by the database")
        return 0

    def _refuse(self, signed: Signed, reason: Reason, detail: str) -> None:
        if (signed.manifest.nonce, reason) not in self._refused:
            self._refused.add((signed.manifest.nonce, reason))
            self._refusals.labels(reason).inc()
            self._service.log.error("payout.refused", batch=signed.manifest.batch, reason=reason, problem=detail)

    async def _tell_figures(self) -> None:
        if time.monotonic() < self._next_figures_s:
            return
        figures = await self._desk.figures()
        for state, count in zip(_STATES, (figures.waiting, figures.signed, figures.paid), strict=True):
            self._batches.labels(state).set(count)
        self._oldest.set(figures.oldest_age_s)
        self._next_figures_s = time.monotonic() + _FIGURES_EVERY_S

    def _forget_figures(self) -> None:
        for state in _STATES:
            self._batches.labels(state).set(0)
        self._oldest.set(0)
