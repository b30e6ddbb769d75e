"""Notices by web push (RFC 8030): one POST each to the push service that the customer's browser chose.

connect -> POST -> answer       201, 202: taken        404, 410: no such subscription any more
            |       |           429, 503: not now, perhaps with a time; other services are not kept waiting for it
            |       '--- a loss from here on: perhaps sent
            '----------- a loss up to here: certainly not

Each connection carries one message, so that whatever a service sends beyond its answer cannot be taken for the answer
to another message.
"""

import http.client
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from system_under_test.domain.notices import push_text, topic
from system_under_test.domain.push import Address, Host, may_be_sent_to, ttl_s
from system_under_test.domain.web_push import authorization, encrypt, new_sender
from system_under_test.services.notifier.channel import SENT, Claim, Outcome, Reason, Result

NAME: Final = "push"
RETRY_AFTER_MOST_S: Final = 300.0
"""A service that wants to be left alone for longer is asked again nevertheless: a notice has to be in time."""
UNREACHABLE_FOR_S: Final = 0.5
"""For how long a service that could not be reached is not tried."""
_TOKEN_S: Final = 12 * 3600
_TOKEN_LEFT_S: Final = 6 * 3600
_ORIGINS_MAX: Final = 256
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_TAKEN: Final = range(200, 300)
_GONE: Final = frozenset({404, 410})
# Of the subscription or the message, not of the service as a whole: a redirection is one, because it is not followed.
_ADDRESS_AT_FAULT: Final = frozenset({*range(300, 400), 400, 403, 405, 413, 414, 415, 422})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A service that is left alone until `until_s` on the monotonic clock, and what it had said."""

    until_s: float
    outcome: Outcome


@dataclass(slots=True, kw_only=True)
class Push:
    """The channel; `private_key` signs for us, `subject` says where we can be reached, `hosts` may be sent to."""

    private_key: bytes
    subject: str
    hosts: tuple[Host, ...]
    timeout_s: float
    name: str = NAME
    _tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tokens: dict[str, tuple[str, float]] = field(default_factory=dict)
    _rests: dict[str, Rest] = field(default_factory=dict)

    def connection(self) -> "PushConnection":
        """A connection that has nothing to open: which service it is for, each message says."""
        return PushConnection(self)

    def open(self, service: SplitResult) -> http.client.HTTPConnection:
        """A connection to a push service, not connected yet."""
        host, port = service.hostname or "", service.port
        if service.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self.timeout_s)

    def authorization(self, origin: str, now_s: float) -> str:
        """The header for a service; signed anew twice a day."""
        with self._lock:
            header, expires_s = self._tokens.get(origin, ("", 0.0))
            # A clock that was set back must not leave a token that ends too far ahead.
            if not _TOKEN_LEFT_S < expires_s - now_s <= _TOKEN_S:
                _forget_some(self._tokens)
                expires_s = float(int(now_s) + _TOKEN_S)
                header = authorization(
                    self.private_key, audience=origin, expires_s=int(expires_s), subject=self.subject
                )
                self._tokens[origin] = header, expires_s
            return header

    def resting(self, origin: str) -> Outcome | None:
        """What a service had said that is to be left alone now; None where it is not."""
        rest = self._rests.get(origin)
        return rest.outcome if rest is not None and time.monotonic() < rest.until_s else None

    def leave_alone(self, origin: str, outcome: Outcome, for_s: float) -> Outcome:
        """Notes that a service is not to be tried for a while; gives the outcome."""
        with self._lock:
            _forget_some(self._rests)
            self._rests[origin] = Rest(until_s=time.monotonic() + for_s, outcome=outcome)
        return outcome


class PushConnection:
    """One message after the other, each to its own service on a connection of its own."""

    def __init__(self, channel: Push) -> None:
        self._channel = channel
        self._client: http.client.HTTPConnection | None = None
        self._aborted = False

    @property
    def usable(self) -> bool:
        """Until it is told to end: no service is in the way of another."""
        return not self._aborted

    def open(self) -> None:
        """Does nothing: a service is connected to when there is a message for it."""

    def send(self, claim: Claim) -> Outcome:
        """Sends one message, under the name that it has at every try."""
        if not claim.address:
            return Outcome(result=Result.GONE, reason=Reason.GONE, detail="no longer subscribed")
        address = Address.read(claim.address)
        if address is None or not may_be_sent_to(address.endpoint, self._channel.hosts):
            detail = "not an endpoint of a push service in PUSH_HOSTS"
            return Outcome(result=Result.ADDRESS_REFUSED, reason=Reason.ADDRESS, detail=detail)
        service = urlsplit(address.endpoint)
        origin = f"{service.scheme}://{service.netloc}"
        resting = self._channel.resting(origin)
        if resting is not None:
            return resting
        try:
            body = encrypt(push_text(claim.plan, account=claim.account), address.receiver, new_sender())
        except ValueError as error:
            return Outcome(result=Result.ADDRESS_REFUSED, reason=Reason.ADDRESS, detail=str(error))
        self._client = client = self._channel.open(service)
        try:
            return self._post(client, service, origin, claim, body)
        finally:
            client.close()
            self._client = None

    def abort(self) -> None:
        """Shuts the socket down under whoever waits for it."""
        self._aborted = True
        client = self._client
        waiting: socket.socket | None = None if client is None else client.sock
        if waiting is not None:
            with suppress(OSError):
                waiting.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Nothing is left open between two messages."""

    def _post(
        self, client: http.client.HTTPConnection, service: SplitResult, origin: str, claim: Claim, body: bytes
    ) -> Outcome:
        try:
            client.connect()
        except OSError as error:
            outcome = Outcome(result=Result.REFUSED, reason=Reason.UNREACHABLE, detail=f"{origin}: {error}")
            return self._channel.leave_alone(origin, outcome, UNREACHABLE_FOR_S)
        now = datetime.now(UTC)
        headers = {
            "Authorization": self._channel.authorization(origin, now.timestamp()),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(ttl_s(claim.plan.planned_end, now)),
            "Topic": topic(claim.plan),
            "Urgency": "normal",
            "Connection": "close",
        }
        path = service.path + (f"?{service.query}" if service.query else "")
        try:
            client.request("POST", path, body, headers)
            response = client.getresponse()
        except (OSError, http.client.HTTPException) as error:
            detail = f"{origin}: {str(error) or type(error).__name__}"
            return Outcome(result=Result.UNKNOWN, reason=Reason.UNANSWERED, detail=detail)
        return self._read(response, origin)

    def _read(self, response: http.client.HTTPResponse, origin: str) -> Outcome:
        status, detail = response.status, f"{origin}: {response.status} {response.reason}"[:300]
        if status in _TAKEN:
            return SENT
        if status in _GONE:
            return Outcome(result=Result.GONE, reason=Reason.GONE, detail=detail)
        if status in _ADDRESS_AT_FAULT:
            return Outcome(result=Result.ADDRESS_REFUSED, reason=Reason.ADDRESS, detail=detail)
        wait_s = _wait_s(response.headers.get("Retry-After", ""))
        outcome = Outcome(result=Result.REFUSED, reason=Reason.REFUSED, detail=detail, wait_s=wait_s)
        return self._channel.leave_alone(origin, outcome, wait_s) if wait_s else outcome


def _forget_some(of_origins: dict[str, Any]) -> None:
    # Customers choose the origins, among those that are allowed: there may be any number.
    if len(of_origins) >= _ORIGINS_MAX:
        of_origins.clear()


def _wait_s(retry_after: str) -> float:
    # A date is possible too; push services give seconds, and without any the usual wait does.
    return min(float(retry_after), RETRY_AFTER_MOST_S) if _SECONDS.fullmatch(retry_after) else 0.0
