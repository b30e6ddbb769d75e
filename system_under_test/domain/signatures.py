"""Ed25519 signatures (RFC 8032): keys are 32 raw bytes, signatures 64.

By OpenSSL's one-shot calls on raw keys, EVP_DigestSign and EVP_DigestVerify; see `openssl` for how and why.
"""

import ctypes
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from system_under_test.domain import openssl

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_NAME: Final = "Ed25519"
_ED25519: Final = 1087
"""OpenSSL's number for the algorithm, NID_ED25519."""


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
        public, size = ctypes.create_string_buffer(KEY_BYTES), ctypes.c_size_t(KEY_BYTES)
        openssl.require(openssl.library().EVP_PKEY_get_raw_public_key(key, public, ctypes.byref(size)), _NAME)
        return public.raw


def sign(private_key: bytes, message: bytes) -> bytes:
    """The signature of `message`, always the same one; raises as `public_key` does."""
    library = openssl.library()
    with _key("EVP_PKEY_new_raw_private_key", private_key) as key, openssl.digest_context() as context:
        signature, size = ctypes.create_string_buffer(SIGNATURE_BYTES), ctypes.c_size_t(SIGNATURE_BYTES)
        openssl.require(library.EVP_DigestSignInit(context, None, None, None, key), _NAME)
        openssl.require(library.EVP_DigestSign(context, signature, ctypes.byref(size), message, len(message)), _NAME)
        return signature.raw


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of the private key signed exactly `message`; whatever is malformed is no signature of it.

    Raises:
        PlatformError: this Python's OpenSSL cannot be used.
    """
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    library = openssl.library()
    with _key("EVP_PKEY_new_raw_public_key", public_key) as key, openssl.digest_context() as context:
        openssl.require(library.EVP_DigestVerifyInit(context, None, None, None, key), _NAME)
        answer = library.EVP_DigestVerify(context, signature, len(signature), message, len(message))
        return openssl.succeeded(answer)


@contextmanager
def _key(constructor: str, raw: bytes) -> Iterator[int]:
    if len(raw) != KEY_BYTES:
        raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(raw)}")
    pointer = getattr(openssl.library(), constructor)(_ED25519, None, raw, len(raw))
    openssl.require(int(pointer is not None), _NAME)
    with openssl.freed_key(pointer) as key:
        yield key
