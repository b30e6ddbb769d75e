"""The subscriptions that the mailbox's push service has made, with the private keys that customers' devices would keep.

    {"id": "2f9c...", "private_key": "...", "auth": "...", "removed": false}

One line for each, and one more when it is removed; base64url. The file is for its owner alone.
"""

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from system_under_test.domain import p256
from system_under_test.domain.web_push import AUTH_BYTES, decode64, encode64
from system_under_test.settings import PlatformError

FILE: Final = "subscriptions.ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """One subscription; a removed one is known as such."""

    id: str
    private_key: str
    auth: str
    removed: bool = False

    @property
    def public_key(self) -> str:
        """What messages are encrypted for, in base64url."""
        return encode64(p256.public_key(decode64(self.private_key)))


class Subscriptions:
    """The file and what it says."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._known: dict[str, Subscribed] = {}
        self._load()
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def get(self, name: str) -> Subscribed | None:
        """The subscription of this id, removed or not."""
        return self._known.get(name)

    def make(self, count: int) -> Sequence[Subscribed]:
        """So many new ones, written before they are given."""
        made = [
            Subscribed(
                id=secrets.token_urlsafe(18),
                private_key=encode64(p256.generate()),
                auth=encode64(secrets.token_bytes(AUTH_BYTES)),
            )
            for _ in range(count)
        ]
        self._write(made)
        return made

    def remove(self, name: str) -> bool:
        """Removes one; False where there is none."""
        found = self._known.get(name)
        if found is None or found.removed:
            return False
        self._write([replace(found, removed=True)])
        return True

    def _write(self, subscriptions: Sequence[Subscribed]) -> None:
        lines = "".join(json.dumps(asdict(one), separators=(",", ":")) + "\n" for one in subscriptions).encode()
        written = os.write(self._file, lines)
        if written != len(lines):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"{self._path}: only {written} of {len(lines)} bytes could be written")
        self._known |= {one.id: one for one in subscriptions}

    def _load(self) -> None:
        if not self._path.exists():
            return
        whole = 0
        with self._path.open("rb+") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # its writer was killed: nobody was told of it
                    break
                try:
                    one = Subscribed(**json.loads(line))
                except (ValueError, TypeError) as error:
                    # Not what the line says: it may be a key.
                    raise PlatformError(
                        f"{self._path}:{number}: not a line of this mailbox; move the file away"
                    ) from error
                self._known[one.id] = one
                whole += len(line)
            file.truncate(whole)
