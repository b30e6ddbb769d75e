"""What the mailbox has received: every arrival a line of NDJSON, the effective ones in memory, by recipient.

    {"recipient": "saver-000001@savings.example", "message_id": "<...>", "subject": "...",
     "received_at": "2030-01-01T09:00:00.000000+00:00", "duplicate": false}

A mail that arrives again, for the same recipient with the same Message-ID, is a duplicate; a mail without one never is.
"""

import email.errors
import email.header
import email.parser
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from system_under_test.settings import PlatformError

FILE: Final = "mails.ndjson"
PUSHES_FILE: Final = "pushes.ndjson"
"""Messages of web push, in the same form: to a subscription, with the names and titles that they had inside."""
_HEADERS = email.parser.BytesHeaderParser()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One mail to one recipient; `received_at` is wall time."""

    recipient: str
    message_id: str | None
    subject: str
    received_at: str
    duplicate: bool


class MailStore:
    """The file and what it says. What `keep` has returned from is in the file, whatever becomes of this process."""

    def __init__(self, folder: Path, file: str = FILE) -> None:
        self._path = folder / file
        self._effective: dict[str, list[Mail]] = {}
        self._known: set[tuple[str, str]] = set()
        self.duplicates = 0
        self.received = 0
        self._load()
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    @property
    def effective(self) -> int:
        """How many mails are not duplicates."""
        return self.received - self.duplicates

    def keep(self, recipients: Sequence[str], content: bytes, received_at: datetime) -> None:
        """Writes the mail, one line for each recipient."""
        message_id, subject = read_headers(content)
        self.record(recipients, message_id=message_id, subject=subject, received_at=received_at)

    def record(self, recipients: Sequence[str], *, message_id: str | None, subject: str, received_at: datetime) -> None:
        """Writes what was received, one line for each recipient."""
        mails = [
            Mail(
                recipient=recipient,
                message_id=message_id,
                subject=subject,
                received_at=received_at.isoformat(timespec="microseconds"),
                duplicate=message_id is not None and (recipient, message_id) in self._known,
            )
            for recipient in dict.fromkeys(recipients)
        ]
        lines = "".join(json.dumps(asdict(mail), separators=(",", ":")) + "\n" for mail in mails).encode()
        written = os.write(self._file, lines)
        if written != len(lines):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"{self._path}: only {written} of {len(lines)} bytes could be written")
        for mail in mails:
            self._remember(mail)

    def to(self, recipient: str) -> list[Mail]:
        """The effective mails of one recipient, oldest first."""
        return list(self._effective.get(recipient, ()))

    def newest(self, limit: int) -> list[Mail]:
        """The last effective mails of all recipients, by time of arrival."""
        mails = (mail for mails in self._effective.values() for mail in mails)
        return sorted(mails, key=lambda mail: mail.received_at)[max(0, self.effective - limit) :]

    def _load(self) -> None:
        if not self._path.exists():
            return
        whole = 0
        with self._path.open("rb+") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # its writer was killed: nobody was told that it had been taken
                    break
                try:
                    self._remember(Mail(**json.loads(line)))
                except (ValueError, TypeError) as error:
                    raise PlatformError(
                        f"{self._path}:{number}: not a line of this mailbox ({error}); move the file away"
                    ) from error
                whole += len(line)
            file.truncate(whole)

    def _remember(self, mail: Mail) -> None:
        self.received += 1
        if mail.duplicate:
            self.duplicates += 1
            return
        if mail.message_id is not None:
            self._known.add((mail.recipient, mail.message_id))
        self._effective.setdefault(mail.recipient, []).append(mail)


def read_headers(content: bytes) -> tuple[str | None, str]:
    """Message-ID, None where there is none, and subject, as a reader would see it."""
    head, _, _ = content.partition(b"\r\n\r\n")
    headers = _HEADERS.parsebytes(head)
    message_id = str(headers.get("Message-ID", "")).strip()
    subject = str(headers.get("Subject", ""))
    # What cannot be decoded (an unknown character set, say) stays as it came.
    with suppress(ValueError, LookupError, email.errors.MessageError):
        subject = str(email.header.make_header(email.header.decode_header(subject)))
    return message_id or None, " ".join(subject.split())
