"""Ed25519 signatures (RFC 8032): keys are 32 raw bytes, signatures 64.

Python's standard library has no signatures, but the `ssl` module of every Python that can fetch a package brings
OpenSSL with it, which has them. Asking that one through `ctypes` costs this one file; a cryptography package would
cost a compiled dependency for four calls. Nothing else in the platform knows how it is done: either can replace the
other.

The calls used are OpenSSL's one-shot ones (1.1.1 and newer): EVP_DigestSign and EVP_DigestVerify on raw keys.
"""

import _ssl
import ctypes
import ctypes.util
import functools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from system_under_test.settings import PlatformError

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_ED25519: Final = 1087
"""OpenSSL's number for the algorithm, NID_ED25519."""
_POINTER, _BYTES, _SIZE, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
_SIZE_POINTER = ctypes.POINTER(_SIZE)
_FUNCTIONS: Final = (
    ("EVP_PKEY_new_raw_private_key", _POINTER, (_INT, _POINTER, _BYTES, _SIZE)),
    ("EVP_PKEY_new_raw_public_key", _POINTER, (_INT, _POINTER, _BYTES, _SIZE)),
    ("EVP_PKEY_get_raw_public_key", _INT, (_POINTER, _BYTES, _SIZE_POINTER)),
    ("EVP_PKEY_free", None, (_POINTER,)),
    ("EVP_MD_CTX_new", _POINTER, ()),
    ("EVP_MD_CTX_free", None, (_POINTER,)),
    ("EVP_DigestSignInit", _INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    ("EVP_DigestSign", _INT, (_POINTER, _BYTES, _SIZE_POINTER, _BYTES, _SIZE)),
    ("EVP_DigestVerifyInit", _INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    ("EVP_DigestVerify", _INT, (_POINTER, _BYTES, _SIZE, _BYTES, _SIZE)),
    ("ERR_clear_error", None, ()),
)


def generate() -> bytes:
    """A new private key; any 32 random bytes are one."""
    return secrets.token_bytes(KEY_BYTES)


def public_key(private_key: bytes) -> bytes:
    """The public key that belongs to `private_key`.

    Raises:
        ValueError: not 32 bytes.
        PlatformError: this Python's OpenSSL cannot be used.
    """
    with _key("EVP_PKEY_new_raw_private_key", private_key) as key:
        public, size = ctypes.create_string_buffer(KEY_BYTES), _SIZE(KEY_BYTES)
        _done(_openssl().EVP_PKEY_get_raw_public_key(key, public, ctypes.byref(size)))
        return public.raw


def sign(private_key: bytes, message: bytes) -> bytes:
    """The signature of `message`, always the same one; raises as `public_key` does."""
    with _key("EVP_PKEY_new_raw_private_key", private_key) as key, _context() as context:
        signature, size = ctypes.create_string_buffer(SIGNATURE_BYTES), _SIZE(SIGNATURE_BYTES)
        _done(_openssl().EVP_DigestSignInit(context, None, None, None, key))
        _done(_openssl().EVP_DigestSign(context, signature, ctypes.byref(size), message, len(message)))
        return signature.raw


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of the private key signed exactly `message`; whatever is malformed is no signature of it.

    Raises:
        PlatformError: this Python's OpenSSL cannot be used.
    """
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    with _key("EVP_PKEY_new_raw_public_key", public_key) as key, _context() as context:
        _done(_openssl().EVP_DigestVerifyInit(context, None, None, None, key))
        answer: int = _openssl().EVP_DigestVerify(context, signature, len(signature), message, len(message))
        # What a refusal may leave in this thread's list of errors would look like an error of Python's own `ssl`.
        _openssl().ERR_clear_error()
        return answer == 1


@functools.cache
def _openssl() -> ctypes.CDLL:
    # The extension module's handle finds what it is linked to; where `ssl` is built into Python, that is the program.
    for name in (getattr(_ssl, "__file__", None), ctypes.util.find_library("crypto")):
        library = ctypes.CDLL(name)
        if all(hasattr(library, function) for function, _, _ in _FUNCTIONS):
            for function, result, arguments in _FUNCTIONS:
                getattr(library, function).restype = result
                getattr(library, function).argtypes = arguments
            return library
    raise PlatformError(
        f"Ed25519 needs OpenSSL 1.1.1 or newer: neither this Python's own ({_ssl.OPENSSL_VERSION}) nor a libcrypto of"
        " this machine offers it; install OpenSSL (libssl3 on Debian and Ubuntu) or use another Python"
    )


@contextmanager
def _key(constructor: str, raw: bytes) -> Iterator[int]:
    if len(raw) != KEY_BYTES:
        raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(raw)}")
    key = _there(getattr(_openssl(), constructor)(_ED25519, None, raw, len(raw)))
    try:
        yield key
    finally:
        _openssl().EVP_PKEY_free(key)


@contextmanager
def _context() -> Iterator[int]:
    context = _there(_openssl().EVP_MD_CTX_new())
    try:
        yield context
    finally:
        _openssl().EVP_MD_CTX_free(context)


def _there(pointer: int | None) -> int:
    _done(pointer is not None)
    return pointer or 0


def _done(answer: int) -> None:
    if answer != 1:
        _openssl().ERR_clear_error()
        raise PlatformError(
            f"{_ssl.OPENSSL_VERSION} refuses Ed25519; is it restricted to other algorithms by its configuration?"
        )
