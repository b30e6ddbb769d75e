"""What clients send: log-ins, orders and the keys that make an order happen once."""

import hashlib
import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from system_under_test.domain.money import Amount

KEY_PATTERN: Final = r"^[!-~]{1,255}$"
# Enough to keep out what no database takes; whether it exists shows at the log-in.
EMAIL_PATTERN: Final = r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$"
DEVICE_PATTERN: Final = r"^[A-Za-z0-9_-]{43}$"
# One line that can be printed.
REFERENCE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
_KEY = re.compile(r"[!-~]{1,255}")


class Order(BaseModel):
    """The body of a redemption."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount: Amount

    def digest(self) -> bytes:
        """The same for two bodies that mean the same, whatever their spaces.

        What is not given is left out, so that an order has the digest that nodes of an older version gave it.
        """
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).digest()


class Deposit(Order):
    """The body of a deposit."""

    reference: (
        Annotated[
            str,
            Field(
                strict=True,
                min_length=1,
                max_length=64,
                pattern=REFERENCE_PATTERN,
                description="the customer's own words for it, one line; kept with the transfer",
            ),
        ]
        | None
    ) = None


class Credentials(BaseModel):
    """The body of a log-in.

    `device` is a secret of the device's own making: 32 random bytes in base64url, kept there and sent with each log-in.
    Where a customer has logged in before, nobody else's tries can use up the tries that they have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: Annotated[str, Field(strict=True, max_length=254, pattern=EMAIL_PATTERN)]
    password: Annotated[str, Field(strict=True, min_length=1, max_length=1024)]
    device: Annotated[str, Field(strict=True, pattern=DEVICE_PATTERN)] | None = None


def is_key(text: str) -> bool:
    """Whether `text` can be an Idempotency-Key: 1 to 255 visible ASCII characters."""
    return _KEY.fullmatch(text) is not None
