"""A process's private key in a file of its own: made at the first start, then only read.

    holdfast-key-1            what this is
    9d61b19d...               the private key, in hexadecimal
    d75a9801...               its public key, by which damage is noticed

Readable by its owner only. The file appears whole or not at all, and is never written over: a key that was enrolled
somewhere is worth more than the convenience of a new one.
"""

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from system_under_test.domain import p256, signatures
from system_under_test.settings import PlatformError


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """What a key is for: the title of its file, how one is drawn, and how its public key is worked out."""

    title: str
    generate: Callable[[], bytes]
    public_key: Callable[[bytes], bytes]


ED25519: Final = Algorithm(title="holdfast-key-1", generate=signatures.generate, public_key=signatures.public_key)
P256: Final = Algorithm(title="holdfast-p256-key-1", generate=p256.generate, public_key=p256.public_key)
_SIZE_MAX_BYTES: Final = 1024
_MODE: Final = 0o600


def open_key(path: Path, algorithm: Algorithm = ED25519) -> bytes:
    """The private key that `path` holds; drawn and kept there first where there is none.

    Raises:
        PlatformError: the file is damaged, or others than its owner may read or change it; says what to do.
        OSError: it cannot be read or made.
    """
    if not path.exists():
        _make(path, algorithm)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
            raise PlatformError(
                f"{path}: a private key that others may have read or replaced (expected a file of our own with mode"
                f" 0600, got {stat.filemode(status.st_mode)} of user {status.st_uid}); have it revoked, move the file"
                " away and start again: a new key is made"
            )
        return _read(path, file.read(_SIZE_MAX_BYTES), algorithm)


def _read(path: Path, content: bytes, algorithm: Algorithm) -> bytes:
    try:
        title, private, public = content.decode("ascii").splitlines()
        key = bytes.fromhex(private)
        whole = title == algorithm.title and algorithm.public_key(key).hex() == public
    except ValueError:  # of the text, its lines, its digits or its key; their content is not to be repeated
        whole = False
    if not whole:
        raise PlatformError(
            f"{path}: the private key is damaged; bring the file back from a copy, or have the key rotated, move the"
            " file away and start again: a new key is made"
        )
    return key


def _make(path: Path, algorithm: Algorithm) -> None:
    key = algorithm.generate()
    # The name is random, so that what a killed start left is no obstacle; `link` refuses to replace a file.
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{algorithm.title}\n{key.hex()}\n{algorithm.public_key(key).hex()}\n")
            file.flush()
            os.fsync(descriptor)
        path.hardlink_to(partial)
    except FileExistsError:
        return  # another process was faster: its key is the one
    finally:
        partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
