"""Passwords are kept as scrypt hashes: `scrypt$LOG2N$R$P$SALT$HASH`, salt and hash in hexadecimal.

N = 2^13, r = 8, p = 1 takes 8 MiB and about 20 ms of one core. A bank would take 2^17; this lets a small machine
log in hundreds of customers within seconds. The parameters stand in the text, so hashes made with others stay valid.
"""

import hashlib
import hmac
from typing import Final

LOG2_N: Final = 13
_R: Final = 8
_P: Final = 1
_HASH_BYTES: Final = 32
_MEMORY_MAX_BYTES: Final = 64 * 1024 * 1024


def hash_password(password: str, *, salt: bytes, log2_n: int = LOG2_N) -> str:
    """The text to store for `password`; `salt` is 16 random bytes."""
    digest = _scrypt(password, salt=salt, log2_n=log2_n, r=_R, p=_P)
    return f"scrypt${log2_n}${_R}${_P}${salt.hex()}${digest.hex()}"


def verify_password(password: str, stored: str) -> bool:
    """Whether `password` is the one that `stored` was made of; takes the same time either way.

    Raises:
        ValueError: `stored` is no such text.
    """
    scheme, log2_n, r, p, salt, digest = stored.split("$")
    if scheme != "scrypt":
        raise ValueError(f"expected a hash of the scheme scrypt, got {scheme!r}")
    found = _scrypt(password, salt=bytes.fromhex(salt), log2_n=int(log2_n), r=int(r), p=int(p))
    return hmac.compare_digest(found, bytes.fromhex(digest))


def _scrypt(password: str, *, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=1 << log2_n, r=r, p=p, maxmem=_MEMORY_MAX_BYTES, dklen=_HASH_BYTES
    )
