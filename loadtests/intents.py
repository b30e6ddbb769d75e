"""What each arrival is to do: a function of the seed and its number alone, whoever serves it and whatever came before.

arrival 17, seed 42 -> deposit of 4,211 under key 5f0c...
"""

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DEPOSIT: Final = "deposit"
REDEEM: Final = "redeem"
BALANCE: Final = "balance"

WEIGHTS: Final[Mapping[str, int]] = {DEPOSIT: 4, REDEEM: 3, BALANCE: 3}
DEPOSIT_RANGE: Final = (100, 10_000)
REDEEM_RANGE: Final = (1, 100)
"""Minor units. Deposits bring in fifty times what redemptions take, so funds suffice for any length of run."""

_KEYS: Final = uuid.UUID("6f1d3c52-0b1e-4b6a-9a57-3d5f0c8e2a41")
"""Any constant: the name space of the keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One intended operation; `amount` is in minor units, 0 for a read, and `key` the Idempotency-Key of an effect."""

    f: str
    amount: int = 0
    key: str | None = None


def intend(
    seed: int,
    writer: int,
    number: int,
    *,
    run_id: str = "",
    weights: Mapping[str, int] = WEIGHTS,
    redeem: tuple[int, int] = REDEEM_RANGE,
) -> Intent:
    """What arrival `number` of load process `writer` does.

    Only the key depends on `run_id` too: a second run with the same seed against a target that stayed up asks for
    new effects, instead of being given the stored answers of the first.
    """
    rng = random.Random(f"{seed}/{writer}/{number}")  # noqa: S311  # to be repeated, not to be secret
    f = rng.choices(tuple(weights), tuple(weights.values()))[0]
    if f == BALANCE:
        return Intent(f=f)
    amount = rng.randint(*(DEPOSIT_RANGE if f == DEPOSIT else redeem))
    return Intent(f=f, amount=amount, key=str(uuid.uuid5(_KEYS, f"{run_id}/{seed}/{writer}/{number}")))


def repeats(seed: int, writer: int, number: int, *, ratio: float = 0.1) -> bool:
    """Whether arrival `number` is an order sent again, as clients do that have lost an answer."""
    return random.Random(f"{seed}/{writer}/{number}/again").random() < ratio  # noqa: S311  # to be repeated
