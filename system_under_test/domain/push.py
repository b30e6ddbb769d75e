"""Where customers want to be told by web push: subscriptions as browsers write them, and services that may be used."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from system_under_test.domain.web_push import Receiver, decode64, encode64

ENDPOINT_MAX: Final = 1024
_HOST_MAX: Final = 253
# As the name service has it: labels of 1 to 63 characters.
_LABEL: Final = r"[0-9a-z]([0-9a-z-]{0,61}[0-9a-z])?"
_NAME: Final = rf"{_LABEL}(\.{_LABEL})*"
# https, or http to this machine; no user, no fragment, nothing that could end a line.
ENDPOINT_PATTERN: Final = (
    rf"^(https://{_NAME}|http://127\.0\.0\.1)(:[1-9][0-9]{{0,4}})?"
    r"/[0-9A-Za-z._~:/?\[\]@!$&'()*+,;=%-]*$"
)
P256DH_PATTERN: Final = r"^B[A-P][0-9A-Za-z_-]{84}[AEIMQUYcgkosw048]$"
AUTH_PATTERN: Final = r"^[0-9A-Za-z_-]{21}[AQgw]$"
TTL_LEAST_S: Final = 24 * 3600
TTL_MOST_S: Final = 28 * 24 * 3600
_HOST: Final = re.compile(rf"(?P<any>\*\.)?(?P<host>{_NAME})(:(?P<port>[1-9][0-9]{{0,4}}))?")
_PORTS: Final = {"https": 443, "http": 80}


class Keys(BaseModel):
    """What a message for the subscriber is encrypted with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    p256dh: Annotated[
        str, Field(strict=True, pattern=P256DH_PATTERN, description="a public key of P-256, 65 bytes in base64url")
    ]
    auth: Annotated[str, Field(strict=True, pattern=AUTH_PATTERN, description="16 bytes in base64url")]


class Subscription(BaseModel):
    """A push subscription, as `PushSubscription.toJSON()` gives it in a browser."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: Annotated[
        str,
        Field(
            strict=True,
            max_length=ENDPOINT_MAX,
            pattern=ENDPOINT_PATTERN,
            description="where the push service takes messages; one of those that this platform sends to",
        ),
    ]
    expirationTime: Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)] | None = Field(  # noqa: N815 - the browsers' word
        default=None, description="not used: a push service says when a subscription is over"
    )
    keys: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host that may be sent to, or with `below` every host below it; `port` None is any."""

    name: str
    port: int | None
    below: bool

    @classmethod
    def read(cls, text: str) -> Self:
        """One as it is configured: `push.example.net`, `*.example.net`, `127.0.0.1:2580`.

        Raises:
            ValueError: it is none of these.
        """
        match = _HOST.fullmatch(text)
        if match is None or int(match["port"] or 1) > 65535 or len(match["host"]) > _HOST_MAX:
            raise ValueError(f"expected a host as push.example.net, *.example.net or 127.0.0.1:2580, got {text!r}")
        port = int(match["port"]) if match["port"] else None
        return cls(name=match["host"], port=port, below=match["any"] is not None)

    def holds(self, name: str, port: int) -> bool:
        """Whether it is, or contains, that host and port."""
        named = name.endswith(f".{self.name}") if self.below else name == self.name
        return named and self.port in (None, port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A subscription as the outbox keeps it: where to send, and for whom."""

    endpoint: str
    receiver: Receiver

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The address out of `endpoint p256dh auth`; None where `text` is none."""
        parts = text.split(" ")
        if len(parts) != 3 or re.fullmatch(ENDPOINT_PATTERN.removesuffix("$"), parts[0]) is None:
            return None
        try:
            receiver = Receiver(public_key=decode64(parts[1]), auth=decode64(parts[2]))
        except ValueError:
            return None
        return cls(endpoint=parts[0], receiver=receiver)

    def written(self) -> str:
        """As `read` takes it."""
        return f"{self.endpoint} {encode64(self.receiver.public_key)} {encode64(self.receiver.auth)}"


def may_be_sent_to(endpoint: str, hosts: tuple[Host, ...]) -> bool:
    """Whether the endpoint is at one of `hosts`: customers name it, and must not make us ask whatever they like."""
    parts = urlsplit(endpoint)
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError:  # a port beyond 65535
        return False
    name = parts.hostname or ""
    return len(name) <= _HOST_MAX and any(host.holds(name, port) for host in hosts)


def read_hosts(text: str) -> tuple[Host, ...]:
    """The hosts of a list with commas.

    Raises:
        ValueError: one of them is none; names it.
    """
    return tuple(Host.read(part.strip()) for part in text.split(","))


PushHosts = Annotated[tuple[Host, ...], BeforeValidator(read_hosts)]
"""A setting that lists them."""


def ttl_s(planned_end: datetime, now: datetime) -> int:
    """How long a push service is to keep a notice for a device that is not there: until the window is over.

    At least a day, at most four weeks: business time may be elsewhere than wall time, which alone push services know.
    """
    return round(min(max((planned_end - now).total_seconds(), TTL_LEAST_S), TTL_MOST_S))
