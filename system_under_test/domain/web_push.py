"""Web push: a message that only its subscriber can read (RFC 8291), and who is allowed to send it (VAPID, RFC 8292).

The one place that knows how: the functions here are all that a library such as `pywebpush` would have to replace.
"""

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

from system_under_test.domain import p256
from system_under_test.domain.encrypted_content import (
    OVERHEAD_BYTES,
    SALT_BYTES,
    Record,
    derive,
    read_head,
    seal,
    unseal,
)

AUTH_BYTES: Final = 16
BODY_BYTES: Final = 4096
"""What every push service has to take (RFC 8030, section 7.2), and what every message of ours is as long as."""
_HEAD_BYTES: Final = SALT_BYTES + 4 + 1 + p256.PUBLIC_BYTES
TEXT_BYTES_MAX: Final = BODY_BYTES - _HEAD_BYTES - OVERHEAD_BYTES
TOKEN_S_MAX: Final = 24 * 3600
"""How far ahead a token may end (RFC 8292, section 2)."""
_CREDENTIALS: Final = re.compile(r"(?i:vapid) +t=(?P<token>[A-Za-z0-9_.-]+) *, *k=(?P<key>[A-Za-z0-9_-]+) *")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Whom a message is for: the subscriber's public key (`p256dh`) and shared secret (`auth`)."""

    public_key: bytes
    auth: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What is new for each message: a private key and a salt."""

    private_key: bytes
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Vapid:
    """What a token says, and the public key of who signed it."""

    public_key: bytes
    audience: str
    expires_s: float
    subject: str


def new_sender() -> Sender:
    """A sender for one message."""
    return Sender(private_key=p256.generate(), salt=secrets.token_bytes(SALT_BYTES))


def encrypt(text: bytes, receiver: Receiver, sender: Sender, *, body_bytes: int | None = BODY_BYTES) -> bytes:
    """The body of a push message, `body_bytes` long whatever the length of `text`; without padding where that is None.

    Raises:
        ValueError: the text is too long, or the receiver's key is none.
    """
    public_key = p256.public_key(sender.private_key)
    padding_bytes = 0 if body_bytes is None else body_bytes - _HEAD_BYTES - OVERHEAD_BYTES - len(text)
    if padding_bytes < 0 or len(text) > TEXT_BYTES_MAX:
        raise ValueError(f"a message of {len(text)} bytes is too long to be pushed, at most {TEXT_BYTES_MAX}")
    return seal(
        [Record(text=text, padding_bytes=padding_bytes)],
        secret=_secret(p256.agree(sender.private_key, receiver.public_key), receiver, public_key),
        salt=sender.salt,
        key_id=public_key,
        record_bytes=BODY_BYTES,
    )


def decrypt(body: bytes, *, private_key: bytes, auth: bytes) -> bytes | None:
    """The text of a push message, for the subscriber; None where it is not for them, or was changed."""
    head = read_head(body)
    if head is None or len(head.records) > head.record_bytes or not p256.is_public_key(head.key_id):
        return None
    receiver = Receiver(public_key=p256.public_key(private_key), auth=auth)
    return unseal(head, secret=_secret(p256.agree(private_key, head.key_id), receiver, head.key_id))


def authorization(private_key: bytes, *, audience: str, expires_s: int, subject: str) -> str:
    """The header Authorization for a push service at the origin `audience`, until `expires_s` since 1970."""
    claims = {"aud": audience, "exp": expires_s, "sub": subject}
    signed = f"{_json64({'typ': 'JWT', 'alg': 'ES256'})}.{_json64(claims)}"
    signature = encode64(p256.sign(private_key, signed.encode("ascii")))
    return f"vapid t={signed}.{signature}, k={encode64(p256.public_key(private_key))}"


def read_authorization(header: str) -> Vapid | None:
    """What the header says; None where it has another form, or its signature is not that of its key.

    For whom and until when it holds is for the reader to compare.
    """
    match = _CREDENTIALS.fullmatch(header)
    parts = match["token"].split(".") if match else []
    if match is None or len(parts) != 3:
        return None
    try:
        key, signature = decode64(match["key"]), decode64(parts[2])
        head, claims = (json.loads(decode64(part)) for part in parts[:2])
    except (ValueError, RecursionError):
        return None
    if not p256.verify(key, f"{parts[0]}.{parts[1]}".encode("ascii"), signature):
        return None
    if not isinstance(head, dict) or head.get("alg") != "ES256" or not isinstance(claims, dict):
        return None
    audience, expires_s, subject = claims.get("aud"), claims.get("exp"), claims.get("sub", "")
    if not isinstance(audience, str) or not isinstance(expires_s, int | float) or not isinstance(subject, str):
        return None
    return Vapid(public_key=key, audience=audience, expires_s=float(expires_s), subject=subject)


def encode64(data: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode64(text: str) -> bytes:
    """What `encode64` made `text` of.

    Raises:
        ValueError: `text` is not of that form.
    """
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("expected base64url without padding") from error
    if encode64(data) != text:
        raise ValueError("expected base64url without padding")
    return data


def _secret(agreed: bytes, receiver: Receiver, sender_key: bytes) -> bytes:
    info = b"WebPush: info\0" + receiver.public_key + sender_key
    return derive(agreed, salt=receiver.auth, info=info, size=p256.SECRET_BYTES)


def _json64(value: dict[str, Any]) -> str:
    return encode64(json.dumps(value, separators=(",", ":")).encode("utf-8"))
