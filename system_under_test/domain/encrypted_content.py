"""Encrypted content of HTTP, `aes128gcm` (RFC 8188).

salt, 16 bytes | record size, 4 | length of the key's id, 1 | the key's id | records
record: text | 2 in the last one, 1 in the others | zeros   encrypted, with its tag of 16 bytes
"""

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from system_under_test.domain import p256

SALT_BYTES: Final = 16
OVERHEAD_BYTES: Final = 1 + p256.TAG_BYTES
"""What a record is longer than its text."""
_HEAD: Final = struct.Struct(f">{SALT_BYTES}sIB")
_MORE, _LAST = b"\x01", b"\x02"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a content says before its records, and the records."""

    salt: bytes
    record_bytes: int
    key_id: bytes
    records: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A part of the text, and how many zeros follow it."""

    text: bytes
    padding_bytes: int = 0


def seal(records: Sequence[Record], *, secret: bytes, salt: bytes, key_id: bytes, record_bytes: int) -> bytes:
    """The content; `secret` is the input keying material, and may be used once with a salt.

    Raises:
        ValueError: a record is too large, one before the last is not of the full size, or there is none.
    """
    sizes = [len(record.text) + record.padding_bytes + OVERHEAD_BYTES for record in records]
    if not sizes or any(size != record_bytes for size in sizes[:-1]) or sizes[-1] > record_bytes:
        raise ValueError(f"expected records of {record_bytes} bytes, the last one perhaps shorter, got {sizes}")
    key, first_nonce = _keys(secret, salt)
    content = _HEAD.pack(salt, record_bytes, len(key_id)) + key_id
    for number, record in enumerate(records):
        delimiter = _LAST if number == len(records) - 1 else _MORE
        text = record.text + delimiter + bytes(record.padding_bytes)
        content += p256.encrypt(key, _nonce(first_nonce, number), text)
    return content


def read_head(content: bytes) -> Head | None:
    """The content taken apart; None where it has another form."""
    if len(content) < _HEAD.size:
        return None
    salt, record_bytes, id_bytes = _HEAD.unpack_from(content)
    end = _HEAD.size + id_bytes
    if record_bytes <= OVERHEAD_BYTES or len(content) < end + OVERHEAD_BYTES:
        return None
    return Head(salt=salt, record_bytes=record_bytes, key_id=content[_HEAD.size : end], records=content[end:])


def unseal(head: Head, *, secret: bytes) -> bytes | None:
    """The text; None where it was encrypted under another secret, was changed, or is not complete."""
    key, first_nonce = _keys(secret, head.salt)
    text = b""
    starts = range(0, len(head.records), head.record_bytes)
    for number, start in enumerate(starts):
        padded = p256.decrypt(key, _nonce(first_nonce, number), head.records[start : start + head.record_bytes])
        part = (padded or b"").rstrip(b"\0")
        if part[-1:] != (_LAST if number == len(starts) - 1 else _MORE):
            return None
        text += part[:-1]
    return text


def derive(secret: bytes, *, salt: bytes, info: bytes, size: int) -> bytes:
    """HKDF with SHA-256 (RFC 5869) for at most 32 bytes, which take one round."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:size]


def _keys(secret: bytes, salt: bytes) -> tuple[bytes, bytes]:
    key = derive(secret, salt=salt, info=b"Content-Encoding: aes128gcm\0", size=p256.CIPHER_KEY_BYTES)
    return key, derive(secret, salt=salt, info=b"Content-Encoding: nonce\0", size=p256.NONCE_BYTES)


def _nonce(first: bytes, number: int) -> bytes:
    return (int.from_bytes(first, "big") ^ number).to_bytes(p256.NONCE_BYTES, "big")
