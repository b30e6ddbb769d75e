"""Notices by web push (RFC 8030): one POST each to the push service that the customer's browser chose.

connect -> POST -> answer       201, 202: taken        404, 410: no such subscription any more
            |       |           429, 5xx: not now, perhaps with a time; other services are not kept waiting for it
            |       |           others:   not this subscription; after some tries it is given up
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
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from system_under_test.domain.notices import push_text, retry_after_s, topic
from system_under_test.domain.push import Address, Host, may_be_sent_to, ttl_s
from system_under_test.domain.web_push import authorization, encrypt, new_sender
from system_under_test.services.notifier.channel import SENT, Claim, Outcome, Reason, Result
from system_under_test.services.notifier.limit import Limit, dial, shut
from system_under_test.services.notifier.line import FAILURES_IN_A_ROW

NAME: Final = "push"
RETRY_AFTER_MOST_S: Final = 300.0
"""A service that wants to be left alone for longer is asked again nevertheless: a notice has to be in time."""
UNREACHABLE_FOR_S: Final = 0.5
"""For how long a service that could not be reached is not tried."""
MESSAGE_ANSWERS: Final = 3
"""The longest that one message may take, from connecting to the end of the answer, in timeouts."""
_TOKEN_S: Final = 12 * 3600
_TOKEN_LEFT_S: Final = 6 * 3600
_ORIGINS_MAX: Final = 256
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_TAKEN: Final = range(200, 300)
_GONE: Final = frozenset({404, 410})
# Not now; 5xx besides. All else is of the subscription or the message, not of the service as a whole: a redirection,
# because it is not followed; 401 and 403, because the subscription may be for another key than ours.
_OF_THE_SERVICE: Final = frozenset({Result.SENT, Result.REFUSED, Result.UNKNOWN})
_BUSY: Final = frozenset({408, 421, 425, 429})
_NO_SUCH_HOST: Final = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


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
    one_provider: bool = False
    _tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tokens: dict[str, tuple[str, float]] = field(default_factory=dict)
    _rests: dict[str, Rest] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)

    def connection(self) -> "PushConnection":
        """A connection that has nothing to open: which service it is for, each message says."""
        return PushConnection(self)

    def open(self, service: SplitResult) -> http.client.HTTPConnection:
        """A connection to a push service, not connected yet."""
        host, port = service.hostname or "", service.port
        if service.scheme == "https":
            return _Encrypted(host, port, timeout_s=self.timeout_s, tls=self._tls)
        return _Plain(host, port, timeout_s=self.timeout_s)

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

    def concluded(self, origin: str, outcome: Outcome) -> Outcome:
        """Notes what a message to a service came to, after which that one may have to be left alone; gives it back.

        It is when it asks for it, when it cannot be reached, and when it failed too often in a row: longer each time.
        """
        if outcome.result not in _OF_THE_SERVICE:
            return outcome
        with self._lock:
            if outcome.result is Result.SENT:
                self._failures.pop(origin, None)
                return outcome
            _forget_some(self._failures)
            self._failures[origin] = failures = self._failures.get(origin, 0) + 1
            too_many = failures + 1 - FAILURES_IN_A_ROW
            for_s = max(
                outcome.wait_s,
                UNREACHABLE_FOR_S if outcome.reason is Reason.UNREACHABLE else 0.0,
                retry_after_s(too_many, jitter_ratio=0.0) if too_many > 0 else 0.0,
            )
            if for_s:
                _forget_some(self._rests)
                self._rests[origin] = Rest(until_s=time.monotonic() + for_s, outcome=_not_even_tried(outcome))
        return outcome


class _Plain(http.client.HTTPConnection):
    def __init__(self, host: str, port: int | None, *, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = dial(self.host, self.port, within_s=self._timeout_s)


class _Encrypted(_Plain):
    default_port = http.client.HTTPS_PORT

    def __init__(self, host: str, port: int | None, *, timeout_s: float, tls: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout_s=timeout_s)
        self._tls = tls

    def connect(self) -> None:
        super().connect()
        # In two steps, so that the handshake happens on a socket that is known and can be shut down.
        self.sock = encrypted = self._tls.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        encrypted.do_handshake()


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
            return _address_refused("not an endpoint of a push service in PUSH_HOSTS")
        service = urlsplit(address.endpoint)
        origin = f"{service.scheme}://{service.netloc}"
        resting = self._channel.resting(origin)
        if resting is not None:
            return resting
        try:
            body = encrypt(push_text(claim.plan, account=claim.account), address.receiver, new_sender())
        except ValueError as error:
            return _address_refused(str(error))
        self._client = client = self._channel.open(service)
        try:
            with Limit(MESSAGE_ANSWERS * self._channel.timeout_s, lambda: shut(client.sock)):
                outcome = self._post(client, service, origin, claim, body)
        finally:
            client.close()
            self._client = None
        return self._channel.concluded(origin, outcome)

    def abort(self) -> None:
        """Shuts the socket down under whoever waits for it."""
        self._aborted = True
        client = self._client
        if client is not None:
            shut(client.sock)

    def close(self) -> None:
        """Nothing is left open between two messages."""

    def _post(
        self, client: http.client.HTTPConnection, service: SplitResult, origin: str, claim: Claim, body: bytes
    ) -> Outcome:
        try:
            client.connect()
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_HOST:
                return _address_refused(f"{origin}: {error}")
            return Outcome(result=Result.REFUSED, reason=Reason.UNREACHABLE, detail=f"{origin}: {error}")
        except ValueError as error:  # a name that the name service cannot have
            return _address_refused(f"{origin}: {error}")
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
            client.putrequest("POST", path)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                client.putheader(name, value)
        except (ValueError, http.client.HTTPException) as error:  # a path that HTTP cannot carry; nothing was sent yet
            return _address_refused(f"{origin}: {error}")
        try:
            client.endheaders(body)
            response = client.getresponse()
        except (OSError, http.client.HTTPException) as error:
            detail = f"{origin}: {str(error) or type(error).__name__}"
            return Outcome(result=Result.UNKNOWN, reason=Reason.UNANSWERED, detail=detail)
        return _read(response, origin)


def _read(response: http.client.HTTPResponse, origin: str) -> Outcome:
    status, detail = response.status, f"{origin}: {response.status} {response.reason}"[:300]
    if status in _TAKEN:
        return SENT
    if status in _GONE:
        return Outcome(result=Result.GONE, reason=Reason.GONE, detail=detail)
    if status in _BUSY or status // 100 == 5:
        wait_s = _wait_s(response.headers.get("Retry-After", ""))
        return Outcome(result=Result.REFUSED, reason=Reason.REFUSED, detail=detail, wait_s=wait_s)
    return _address_refused(detail)


def _address_refused(detail: str) -> Outcome:
    return Outcome(result=Result.ADDRESS_REFUSED, reason=Reason.ADDRESS, detail=detail)


def _not_even_tried(outcome: Outcome) -> Outcome:
    # Of a message that is kept back, it is certain that nobody took it.
    reason = Reason.REFUSED if outcome.reason is Reason.UNANSWERED else outcome.reason
    return replace(outcome, result=Result.REFUSED, reason=reason)


def _forget_some(of_origins: dict[str, Any]) -> None:
    # Customers choose the origins, among those that are allowed: there may be any number.
    if len(of_origins) >= _ORIGINS_MAX:
        of_origins.clear()


def _wait_s(retry_after: str) -> float:
    # A date is possible too; push services give seconds, and without any the usual wait does.
    return min(float(retry_after), RETRY_AFTER_MOST_S) if _SECONDS.fullmatch(retry_after) else 0.0
