"""A process's private Ed25519 key in a file of its own: made at the first start, then only read.

    holdfast-key-1            what this is
    9d61b19d...               the private key, in hexadecimal
    d75a9801...               its public key, by which damage is noticed

Readable by its owner only. The file appears whole or not at all, and is never written over: a key that was enrolled
somewhere is worth more than the convenience of a new one.
"""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from system_under_test.domain.signatures import KEY_BYTES, generate, public_key
from system_under_test.settings import PlatformError

_TITLE: Final = "holdfast-key-1"
_SIZE_MAX_BYTES: Final = 1024
_MODE: Final = 0o600


def open_key(path: Path) -> bytes:
    """The private key that `path` holds; drawn and kept there first where there is none.

    Raises:
        PlatformError: the file is damaged, or others than its owner may read or change it; says what to do.
        OSError: it cannot be read or made.
    """
    if not path.exists():
        _make(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
            raise PlatformError(
                f"{path}: a private key that others may have read or replaced (expected a file of our own with mode"
                f" 0600, got {stat.filemode(status.st_mode)} of user {status.st_uid}); have it revoked, move the file"
                " away and start again: a new key is made"
            )
        return _read(path, file.read(_SIZE_MAX_BYTES))


def _read(path: Path, content: bytes) -> bytes:
    try:
        title, private, public = content.decode("ascii").splitlines()
        key = bytes.fromhex(private)
        whole = title == _TITLE and len(key) == KEY_BYTES and public_key(key).hex() == public
    except ValueError:  # of the text, its lines or its digits; their content is not to be repeated
        whole = False
    if not whole:
        raise PlatformError(
            f"{path}: the private key is damaged; bring the file back from a copy, or have the key rotated, move the"
            " file away and start again: a new key is made"
        )
    return key


def _make(path: Path) -> None:
    key = generate()
    # The name is random, so that what a killed start left is no obstacle; `link` refuses to replace a file.
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{_TITLE}\n{key.hex()}\n{public_key(key).hex()}\n")
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
