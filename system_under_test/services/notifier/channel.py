"""What a way to reach customers offers. A further one is a module with these two classes, named in `main.channels`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from system_under_test.domain.notices import Plan


class Reason(StrEnum):
    """Why a notice was not sent, or why nobody knows."""

    UNREACHABLE = "unreachable"  # no connection to the provider
    REFUSED = "refused"  # the provider said no, for now or for good
    ADDRESS = "address"  # the provider refuses this address for good
    GONE = "gone"  # the address is none any more
    LOST = "lost"  # the connection was lost before the provider could have taken the notice
    UNANSWERED = "unanswered"  # handed over, and no answer: the provider may have taken it
    UNEXPECTED = "unexpected"  # an error that nobody foresaw: a fault of ours


class Result(StrEnum):
    """What became of a try."""

    SENT = "sent"
    REFUSED = "refused"  # certainly not sent
    UNKNOWN = "unknown"  # perhaps sent
    ADDRESS_REFUSED = "address_refused"  # certainly not sent, and the next try will hardly fare better
    GONE = "gone"  # certainly not sent, and never will be
    NOT_TRIED = "not_tried"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one notice; `reason` is None where nothing failed, `detail` is for people.

    `wait_s` is for how long the provider asked to be left alone, 0 where it did not; `error` is one that nobody
    foresaw.
    """

    result: Result
    reason: Reason | None = None
    detail: str = ""
    wait_s: float = 0.0
    error: Exception | None = None


SENT: Final = Outcome(result=Result.SENT)
NOT_TRIED: Final = Outcome(result=Result.NOT_TRIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A notice that is ours to send until its claim runs out; `number` is the claim's token.

    `failures` are all tries that failed, `refusals` those of them that were for the address.
    """

    id: int
    number: int
    failures: int
    account: str
    address: str
    plan: Plan
    refusals: int = 0


class ProviderError(Exception):
    """The provider cannot be reached, or takes nothing at all now."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Connection(Protocol):
    """A connection to a provider, used by one thread at a time."""

    @property
    def usable(self) -> bool:
        """Whether a notice can be tried on it now."""

    def open(self) -> None:
        """Connects, within a limit of time.

        Raises:
            ProviderError: that is not possible now.
        """

    def send(self, claim: Claim) -> Outcome:
        """Tries one notice, within a limit of time; never raises for what the provider or the network does."""

    def abort(self) -> None:
        """Ends what another thread is waiting for in one of the others."""

    def close(self) -> None:
        """Takes leave of the provider, or just goes where that is not possible."""


class Channel(Protocol):
    """A way to reach customers; `name` is the channel's word in the outbox."""

    @property
    def name(self) -> str:
        """As in `notice.channel`."""

    @property
    def one_provider(self) -> bool:
        """Whether all notices go to the same provider, so that one that fails is a reason to try none."""

    def connection(self) -> Connection:
        """A new connection, not open yet."""
