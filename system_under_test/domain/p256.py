"""What web push needs of cryptography: the curve P-256 (FIPS 186-5) for ECDSA and ECDH, and AES-128-GCM.

A private key is its number as 32 bytes, a public key its point as 65, uncompressed (the byte 4, then x and y), a
signature r and s as 64 (the form of JWS, RFC 7518, section 3.4). By OpenSSL; see `openssl` for how and why.
"""

import ctypes
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from system_under_test.domain import openssl

PRIVATE_BYTES: Final = 32
PUBLIC_BYTES: Final = 65
SIGNATURE_BYTES: Final = 64
SECRET_BYTES: Final = 32
CIPHER_KEY_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# DER as OpenSSL reads keys: SubjectPublicKeyInfo (RFC 5480) up to the point, PrivateKeyInfo with an ECPrivateKey
# (RFC 5958, RFC 5915) without its optional public key up to the number. Both fix the curve.
_PUBLIC_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_PRIVATE_HEAD: Final = bytes.fromhex("3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420")
_DER_SIGNATURE_MAX_BYTES: Final = 72
_GET_TAG, _SET_TAG = 0x10, 0x11
"""EVP_CTRL_AEAD_GET_TAG and _SET_TAG."""
_AES: Final = "AES-128-GCM"
_ECDSA: Final = "ECDSA with P-256"


def generate() -> bytes:
    """A new private key."""
    return (secrets.randbelow(_ORDER - 1) + 1).to_bytes(PRIVATE_BYTES, "big")


def public_key(private_key: bytes) -> bytes:
    """The public key that belongs to `private_key`.

    Raises:
        ValueError: not a private key.
        PlatformError: this Python's OpenSSL cannot be used.
    """
    with _private(private_key) as key:
        encoded = ctypes.create_string_buffer(len(_PUBLIC_HEAD) + PUBLIC_BYTES)
        place = ctypes.c_void_p(ctypes.addressof(encoded))
        size = openssl.library().i2d_PUBKEY(key, None)
        openssl.require(int(size == len(encoded)), "P-256")
        openssl.library().i2d_PUBKEY(key, ctypes.byref(place))
        return encoded.raw[len(_PUBLIC_HEAD) :]


def is_public_key(public_key: bytes) -> bool:
    """Whether it is a point of the curve."""
    try:
        with _public(public_key):
            return True
    except ValueError:
        return False


def agree(private_key: bytes, public_key: bytes) -> bytes:
    """The secret that both holders of a key can compute, 32 bytes (ECDH).

    Raises:
        ValueError: one of the two is no key.
        PlatformError: this Python's OpenSSL cannot be used.
    """
    library = openssl.library()
    with _private(private_key) as own, _public(public_key) as peer, openssl.agreement_context(own) as context:
        secret, size = ctypes.create_string_buffer(SECRET_BYTES), ctypes.c_size_t(SECRET_BYTES)
        openssl.require(library.EVP_PKEY_derive_init(context), "ECDH")
        openssl.require(library.EVP_PKEY_derive_set_peer(context, peer), "ECDH with P-256")
        openssl.require(library.EVP_PKEY_derive(context, secret, ctypes.byref(size)), "ECDH with P-256")
        return secret.raw


def sign(private_key: bytes, message: bytes) -> bytes:
    """A signature of `message`, another one each time; raises as `public_key` does."""
    library = openssl.library()
    with _private(private_key) as key, openssl.digest_context() as context:
        der = ctypes.create_string_buffer(_DER_SIGNATURE_MAX_BYTES)
        size = ctypes.c_size_t(len(der))
        openssl.require(library.EVP_DigestSignInit(context, None, library.EVP_sha256(), None, key), _ECDSA)
        openssl.require(library.EVP_DigestSign(context, der, ctypes.byref(size), message, len(message)), _ECDSA)
        return _from_der(der.raw[: size.value])


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of the private key signed exactly `message`; whatever is malformed is no signature of it.

    Raises:
        PlatformError: this Python's OpenSSL cannot be used.
    """
    if len(signature) != SIGNATURE_BYTES or not is_public_key(public_key):
        return False
    library, der = openssl.library(), _to_der(signature)
    with _public(public_key) as key, openssl.digest_context() as context:
        openssl.require(library.EVP_DigestVerifyInit(context, None, library.EVP_sha256(), None, key), _ECDSA)
        return openssl.succeeded(library.EVP_DigestVerify(context, der, len(der), message, len(message)))


def encrypt(key: bytes, nonce: bytes, text: bytes) -> bytes:
    """`text` encrypted by AES-128-GCM, its tag of 16 bytes at the end; no nonce may ever be used twice with a key."""
    library, size = openssl.library(), ctypes.c_int()
    out, tag = ctypes.create_string_buffer(len(text) + TAG_BYTES), ctypes.create_string_buffer(TAG_BYTES)
    with _cipher(key, nonce, encrypting=1) as context:
        openssl.require(library.EVP_CipherUpdate(context, out, ctypes.byref(size), text, len(text)), _AES)
        openssl.require(library.EVP_CipherFinal_ex(context, tag, ctypes.byref(size)), _AES)
        openssl.require(library.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, TAG_BYTES, tag), _AES)
    return out.raw[: len(text)] + tag.raw


def decrypt(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    """What `encrypt` made `sealed` of; None where it was made otherwise, or changed since."""
    library, size, length = openssl.library(), ctypes.c_int(), len(sealed) - TAG_BYTES
    if length < 0:
        return None
    out, tag = ctypes.create_string_buffer(len(sealed)), ctypes.create_string_buffer(sealed[length:], TAG_BYTES)
    with _cipher(key, nonce, encrypting=0) as context:
        openssl.require(library.EVP_CipherUpdate(context, out, ctypes.byref(size), sealed[:length], length), _AES)
        openssl.require(library.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, TAG_BYTES, tag), _AES)
        return (
            out.raw[:length]
            if openssl.succeeded(library.EVP_CipherFinal_ex(context, out, ctypes.byref(size)))
            else None
        )


@contextmanager
def _private(raw: bytes) -> Iterator[int]:
    if len(raw) != PRIVATE_BYTES or not 0 < int.from_bytes(raw, "big") < _ORDER:
        raise ValueError("expected a private key of P-256: 32 bytes, a number from 1 to the order of the curve less 1")
    with openssl.freed_key(_read("d2i_AutoPrivateKey", _PRIVATE_HEAD + raw)) as key:
        yield key


@contextmanager
def _public(raw: bytes) -> Iterator[int]:
    pointer = _read("d2i_PUBKEY", _PUBLIC_HEAD + raw) if len(raw) == PUBLIC_BYTES and raw[0] == 4 else None
    if not openssl.succeeded(int(pointer is not None)):
        raise ValueError("expected a public key of P-256: 65 bytes, the byte 4 and a point of the curve")
    with openssl.freed_key(pointer) as key:
        yield key


def _read(function: str, der: bytes) -> int | None:
    place = ctypes.c_char_p(der)
    pointer: int | None = getattr(openssl.library(), function)(None, ctypes.byref(place), len(der))
    return pointer


@contextmanager
def _cipher(key: bytes, nonce: bytes, *, encrypting: int) -> Iterator[int]:
    if len(key) != CIPHER_KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError(f"expected a key of {CIPHER_KEY_BYTES} bytes and a nonce of {NONCE_BYTES}")
    library = openssl.library()
    with openssl.cipher_context() as context:
        openssl.require(
            library.EVP_CipherInit_ex(context, library.EVP_aes_128_gcm(), None, key, nonce, encrypting), _AES
        )
        yield context


def _from_der(der: bytes) -> bytes:
    """The numbers r and s out of a sequence of two integers, each of 32 bytes; `der` is OpenSSL's own."""
    r_end = 4 + der[3]
    numbers = der[4:r_end], der[r_end + 2 :]
    return b"".join(number.lstrip(b"\0").rjust(SIGNATURE_BYTES // 2, b"\0") for number in numbers)


def _to_der(signature: bytes) -> bytes:
    half = SIGNATURE_BYTES // 2
    encoded = b""
    for number in (signature[:half], signature[half:]):
        digits = number.lstrip(b"\0") or b"\0"
        # A leading bit would make it negative.
        digits = b"\0" + digits if digits[0] & 0x80 else digits
        encoded += bytes((2, len(digits))) + digits
    return bytes((0x30, len(encoded))) + encoded
