"""Notices by e-mail, over SMTP.

connect -> EHLO -> (MAIL -> RCPT -> DATA -> content)...  -> QUIT
                    |______________________|  |________ a loss from here on: perhaps sent
                              |________________________ a loss up to here: certainly not
"""

import re
import smtplib
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from system_under_test.domain.notices import Plan, compose, message_id
from system_under_test.services.notifier.channel import SENT, Claim, Outcome, ProviderError, Reason, Result
from system_under_test.services.notifier.limit import Limit, dial, shut

NAME: Final = "email"
# The longest that connecting and saying hello may take, a mail, and a goodbye, in answers of the provider.
OPEN_ANSWERS: Final = 2
MAIL_ANSWERS: Final = 3
_QUIT_ANSWERS: Final = 1
# What goes into a header as it is: nothing that could end one, or the command that carries it.
_ADDRESS: Final = re.compile(r"[!-;=?-~]{1,200}@[0-9A-Za-z.-]{1,253}")
_PLANS_KEPT: Final = 16
# In seven bits, so that no server has to offer more; subjects are not folded, because readers differ in unfolding.
_POLICY: Final = SMTP.clone(cte_type="7bit", max_line_length=998)


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """The channel: a provider's address, the sender that mails come from, and how long each answer may take.

    Connecting takes two answers' time at most, a mail three, however the provider spreads it.
    """

    host: str
    port: int
    sender: str
    timeout_s: float
    name: str = NAME
    one_provider: bool = True

    def connection(self) -> "EmailConnection":
        """A connection that is not open yet."""
        return EmailConnection(self)


class _Client(smtplib.SMTP):
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return dial(host, port, within_s=timeout)


class EmailConnection:
    """One connection to the provider, for one mail after the other."""

    def __init__(self, channel: Email) -> None:
        self._channel = channel
        self._domain = channel.sender.rpartition("@")[2]
        # The own name is given: smtplib would ask the name service for it, which may take long.
        self._client = _Client(local_hostname=self._domain, timeout=channel.timeout_s)
        self._usable = False

    def open(self) -> None:
        """Connects and says hello.

        Raises:
            ProviderError: unreachable, or it does not want to talk now.
        """
        host, port = self._channel.host, self._channel.port
        try:
            with Limit(OPEN_ANSWERS * self._channel.timeout_s, self.abort):
                code, text = self._client.connect(host, port)
                if code != 220:
                    raise ProviderError(Reason.REFUSED, f"greeted with {_said(code, text)}")
                self._client.ehlo_or_helo_if_needed()
        except smtplib.SMTPResponseException as error:
            raise ProviderError(Reason.REFUSED, f"EHLO: {_said(error.smtp_code, error.smtp_error)}") from error
        except (OSError, smtplib.SMTPException) as error:
            raise ProviderError(Reason.UNREACHABLE, f"{host}:{port}: {error}") from error
        self._usable = True

    @property
    def usable(self) -> bool:
        """Whether the conversation is where a new mail can begin."""
        return self._usable

    def send(self, claim: Claim) -> Outcome:
        """Sends one mail, under the Message-ID that it has at every try."""
        if _ADDRESS.fullmatch(claim.address) is None:
            return Outcome(result=Result.ADDRESS_REFUSED, reason=Reason.ADDRESS, detail="not an address for SMTP")
        content = render(claim, sender=self._channel.sender, domain=self._domain, now=datetime.now(UTC))
        with Limit(MAIL_ANSWERS * self._channel.timeout_s, self.abort):
            return self._deliver(claim, content)

    def _deliver(self, claim: Claim, content: bytes) -> Outcome:
        handed_over = False
        try:
            refused = self._envelope(claim.address)
            if refused is not None:
                return refused
            handed_over = True
            code, text = self._client.data(content)
        except smtplib.SMTPDataError as error:  # refused the command DATA: there was no content
            return self._give_up(f"DATA: {_said(error.smtp_code, error.smtp_error)}")
        except (OSError, smtplib.SMTPException) as error:
            self._usable = False
            result, reason = (Result.UNKNOWN, Reason.UNANSWERED) if handed_over else (Result.REFUSED, Reason.LOST)
            return Outcome(result=result, reason=reason, detail=str(error))
        if code == 250:
            return SENT
        detail = f"content: {_said(code, text)}"
        # The provider took the content off the wire and refused it: the next mail may begin, unless it said goodbye.
        return self._give_up(detail) if code == 421 else _refused(detail)

    def abort(self) -> None:
        """Shuts the socket down under whoever waits for it."""
        self._usable = False
        shut(self._client.sock)

    def close(self) -> None:
        """QUIT where the conversation is in order; the socket is closed in any case."""
        with suppress(OSError, smtplib.SMTPException), Limit(_QUIT_ANSWERS * self._channel.timeout_s, self.abort):
            if self._usable:
                self._client.quit()
        self._client.close()

    def _envelope(self, address: str) -> Outcome | None:
        """Says from whom and to whom; what came of it where that was refused."""
        code, text = self._client.mail(self._channel.sender)
        if code != 250:
            return self._give_up(f"MAIL: {_said(code, text)}")
        code, text = self._client.rcpt(address)
        if code in (250, 251):
            return None
        detail = f"RCPT: {_said(code, text)}"
        if code == 421:
            return self._give_up(detail)
        if self._client.rset()[0] != 250:
            self._usable = False
        if code // 100 == 5:
            return Outcome(result=Result.ADDRESS_REFUSED, reason=Reason.ADDRESS, detail=detail)
        return _refused(detail)

    def _give_up(self, detail: str) -> Outcome:
        """For an answer that concerns every mail, or that fits no question: the conversation cannot go on."""
        self._usable = False
        return _refused(detail)


def render(claim: Claim, *, sender: str, domain: str, now: datetime) -> bytes:
    """The mail as it goes over the wire; only its first lines differ from customer to customer."""
    identity = message_id(claim.plan, account=claim.account, channel=NAME, domain=domain)
    own = f"To: {claim.address}\r\nMessage-ID: {identity}\r\nDate: {format_datetime(now)}\r\n"
    return own.encode("ascii") + _common(claim.plan, sender)


@lru_cache(maxsize=_PLANS_KEPT)
def _common(plan: Plan, sender: str) -> bytes:
    text = compose(plan)
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["Subject"] = text.subject
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.body)
    return message.as_bytes()


def _refused(detail: str) -> Outcome:
    return Outcome(result=Result.REFUSED, reason=Reason.REFUSED, detail=detail)


def _said(code: int, text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {said}"[:300]
