"""The OpenSSL that Python itself is linked with, asked through `ctypes`: the few calls that the platform's keys need.

Python's standard library has no signatures and no ciphers, but the `ssl` module of every Python that can fetch packages
brings OpenSSL with it, which has them. Asking that one costs this file and its callers, `signatures` and `p256`; a
cryptography package would cost a compiled dependency. Nothing else in the platform knows how it is done.

All calls are of the EVP interface and the same in OpenSSL 1.1.1 and 3.
"""

import _ssl
import ctypes
import ctypes.util
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from system_under_test.settings import PlatformError

_POINTER, _BYTES, _SIZE, _INT, _LONG = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_long
_SIZE_POINTER, _INT_POINTER = ctypes.POINTER(_SIZE), ctypes.POINTER(_INT)
_BYTES_POINTER = ctypes.POINTER(_BYTES)
_FUNCTIONS: Final = (
    # Keys.
    ("EVP_PKEY_new_raw_private_key", _POINTER, (_INT, _POINTER, _BYTES, _SIZE)),
    ("EVP_PKEY_new_raw_public_key", _POINTER, (_INT, _POINTER, _BYTES, _SIZE)),
    ("EVP_PKEY_get_raw_public_key", _INT, (_POINTER, _BYTES, _SIZE_POINTER)),
    ("d2i_AutoPrivateKey", _POINTER, (_POINTER, _BYTES_POINTER, _LONG)),
    ("d2i_PUBKEY", _POINTER, (_POINTER, _BYTES_POINTER, _LONG)),
    ("i2d_PUBKEY", _INT, (_POINTER, ctypes.POINTER(_POINTER))),
    ("EVP_PKEY_free", None, (_POINTER,)),
    # Signatures.
    ("EVP_sha256", _POINTER, ()),
    ("EVP_MD_CTX_new", _POINTER, ()),
    ("EVP_MD_CTX_free", None, (_POINTER,)),
    ("EVP_DigestSignInit", _INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    ("EVP_DigestSign", _INT, (_POINTER, _BYTES, _SIZE_POINTER, _BYTES, _SIZE)),
    ("EVP_DigestVerifyInit", _INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    ("EVP_DigestVerify", _INT, (_POINTER, _BYTES, _SIZE, _BYTES, _SIZE)),
    # Agreement on a secret.
    ("EVP_PKEY_CTX_new", _POINTER, (_POINTER, _POINTER)),
    ("EVP_PKEY_CTX_free", None, (_POINTER,)),
    ("EVP_PKEY_derive_init", _INT, (_POINTER,)),
    ("EVP_PKEY_derive_set_peer", _INT, (_POINTER, _POINTER)),
    ("EVP_PKEY_derive", _INT, (_POINTER, _BYTES, _SIZE_POINTER)),
    # Ciphers.
    ("EVP_aes_128_gcm", _POINTER, ()),
    ("EVP_CIPHER_CTX_new", _POINTER, ()),
    ("EVP_CIPHER_CTX_free", None, (_POINTER,)),
    ("EVP_CIPHER_CTX_ctrl", _INT, (_POINTER, _INT, _INT, _POINTER)),
    ("EVP_CipherInit_ex", _INT, (_POINTER, _POINTER, _POINTER, _BYTES, _BYTES, _INT)),
    ("EVP_CipherUpdate", _INT, (_POINTER, _BYTES, _INT_POINTER, _BYTES, _INT)),
    ("EVP_CipherFinal_ex", _INT, (_POINTER, _BYTES, _INT_POINTER)),
    ("ERR_clear_error", None, ()),
)


@functools.cache
def library() -> ctypes.CDLL:
    """The library, its functions typed.

    Raises:
        PlatformError: neither this Python nor this machine has one that can be used.
    """
    # The extension module's handle finds what it is linked to; where `ssl` is built into Python, that is the program.
    for name in (getattr(_ssl, "__file__", None), ctypes.util.find_library("crypto")):
        found = ctypes.CDLL(name)
        if all(hasattr(found, function) for function, _, _ in _FUNCTIONS):
            for function, result, arguments in _FUNCTIONS:
                getattr(found, function).restype = result
                getattr(found, function).argtypes = arguments
            return found
    raise PlatformError(
        f"signatures need OpenSSL 1.1.1 or newer: neither this Python's own ({_ssl.OPENSSL_VERSION}) nor a libcrypto of"
        " this machine offers what is asked of it; install OpenSSL (libssl3 on Debian and Ubuntu) or use another Python"
    )


def succeeded(answer: int) -> bool:
    """Whether a call did what was asked; of a refusal nothing is left behind.

    What it may leave in this thread's list of errors would look like an error of Python's own `ssl`.
    """
    if answer != 1:
        library().ERR_clear_error()
    return answer == 1


@contextmanager
def digest_context() -> Iterator[int]:
    """A context to sign or verify with."""
    with _freed(library().EVP_MD_CTX_new(), library().EVP_MD_CTX_free) as context:
        yield context


@contextmanager
def cipher_context() -> Iterator[int]:
    """A context to encrypt or decrypt with."""
    with _freed(library().EVP_CIPHER_CTX_new(), library().EVP_CIPHER_CTX_free) as context:
        yield context


@contextmanager
def agreement_context(key: int) -> Iterator[int]:
    """A context for `key` to agree on a secret with another's public key."""
    with _freed(library().EVP_PKEY_CTX_new(key, None), library().EVP_PKEY_CTX_free) as context:
        yield context


@contextmanager
def freed_key(pointer: int | None) -> Iterator[int]:
    """The key behind `pointer`, freed at the end.

    Raises:
        PlatformError: it is null.
    """
    with _freed(pointer, library().EVP_PKEY_free) as key:
        yield key


def require(answer: int, what: str) -> None:
    """Nothing, for a call that did what it always does.

    Raises:
        PlatformError: it refused `what`, which it can only by its configuration.
    """
    if not succeeded(answer):
        raise PlatformError(
            f"{_ssl.OPENSSL_VERSION} refuses {what}; is it restricted to other algorithms by its configuration?"
        )


@contextmanager
def _freed(pointer: int | None, free: Callable[[int], None]) -> Iterator[int]:
    require(int(pointer is not None), "a key or memory for one")
    try:
        yield pointer or 0
    finally:
        free(pointer or 0)
