"""Money is a whole number of minor units, 10^`SCALE` of which are one unit; an order moves at most 10^12 of them.

No deposit is taken that would leave an account with more than `ACCOUNT_MAX`. Interest may go beyond it.
"""

from typing import Annotated, Final

from pydantic import Field

SCALE: Final = 2
AMOUNT_MAX: Final = 10**12
ACCOUNT_MAX: Final = 10**16

# Strict: `true`, "5", 5.0 and 5.5 are no amounts, however close they come.
Amount = Annotated[int, Field(strict=True, ge=1, le=AMOUNT_MAX, description="whole minor units", examples=[500])]
