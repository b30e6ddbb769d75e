"""P-256 and AES-128-GCM by OpenSSL: what they promise each other, and nothing malformed is taken or left behind."""

import ctypes
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.domain import openssl, p256
from tests.unit.system_under_test.push_receiver import BASE, read, times, written

_UNTIMED = settings(deadline=None, max_examples=50)
_FEW = settings(deadline=None, max_examples=20)
PRIVATE = bytes(range(1, 33))
PUBLIC = p256.public_key(PRIVATE)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@_FEW
@given(number=st.integers(1, ORDER - 1))
def test_a_public_key_is_the_base_point_that_many_times(number: int) -> None:
    """Against plain arithmetic on the curve."""
    assert p256.public_key(number.to_bytes(32, "big")) == written(times(number, BASE))


@_UNTIMED
@given(message=st.binary(max_size=200), bit=st.integers(min_value=0))
def test_one_bit_elsewhere_is_no_signature(message: bytes, bit: int) -> None:
    """Flips one bit of the signature, of the message or of the key: refused; untouched: accepted, 64 bytes always."""
    signature = p256.sign(PRIVATE, message)
    assert len(signature) == 64
    assert p256.verify(PUBLIC, message, signature)
    assert not p256.verify(PUBLIC, message + b"x", signature)
    for changed in (signature, PUBLIC):
        place = bit % (len(changed) * 8)
        flipped = bytearray(changed)
        flipped[place // 8] ^= 1 << place % 8
        key, value = (PUBLIC, bytes(flipped)) if changed is signature else (bytes(flipped), signature)
        assert not p256.verify(key, message, value)


def test_a_signature_with_short_numbers_is_written_in_full() -> None:
    """Signs until r or s begins with a zero byte, one in 128: 64 bytes nevertheless, and accepted."""
    signatures = (p256.sign(PRIVATE, b"m") for _ in range(20_000))
    short = next(value for value in signatures if 0 in (value[0], value[32]))
    assert len(short) == 64
    assert p256.verify(PUBLIC, b"m", short)


@_UNTIMED
@given(key=st.binary(max_size=80), message=st.binary(max_size=20), signature=st.binary(max_size=80))
def test_what_is_malformed_is_no_signature(key: bytes, message: bytes, signature: bytes) -> None:
    """Keys and signatures of any length and content: refused, never an error."""
    assert not p256.verify(key, message, signature)
    assert not p256.verify(PUBLIC, message, signature[:64].ljust(64, b"\0"))


def test_both_agree_on_one_secret_and_nobody_else() -> None:
    """Two drawn keys, and a third: the same secret for the two, which is the x of the product of the two."""
    one, other, third = (p256.generate() for _ in range(3))
    secret = p256.agree(one, p256.public_key(other))
    assert secret == p256.agree(other, p256.public_key(one))
    assert secret != p256.agree(third, p256.public_key(other))
    product = times(int.from_bytes(one, "big"), read(p256.public_key(other)))
    assert int.from_bytes(secret, "big") == product[0]


@pytest.mark.parametrize("raw", [b"", bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, b"x" * 31, b"x" * 33])
def test_what_is_no_private_key_is_named(raw: bytes) -> None:
    """Zero, the order of the curve and beyond, and other sizes."""
    with pytest.raises(ValueError, match="expected a private key of P-256"):
        p256.public_key(raw)


@pytest.mark.parametrize(
    "raw",
    [b"", bytes(65), b"\x04" + bytes(64), PUBLIC[:-1], PUBLIC + b"x", b"\x05" + PUBLIC[1:], b"\x04" + b"\xff" * 64],
)
def test_what_is_no_point_of_the_curve_is_no_public_key(raw: bytes) -> None:
    """The point at infinity, points beside the curve, other forms and sizes."""
    assert not p256.is_public_key(raw)
    with pytest.raises(ValueError, match="expected a public key of P-256"):
        p256.agree(PRIVATE, raw)


@_UNTIMED
@given(text=st.binary(max_size=100), bit=st.integers(min_value=0))
def test_what_was_encrypted_cannot_be_changed(text: bytes, bit: int) -> None:
    """There and back; with one bit flipped, cut, or under another nonce: nothing."""
    key, nonce = b"k" * 16, b"n" * 12
    sealed = p256.encrypt(key, nonce, text)
    assert len(sealed) == len(text) + 16
    assert p256.decrypt(key, nonce, sealed) == text
    flipped = bytearray(sealed)
    flipped[bit % (len(sealed) * 8) // 8] ^= 1 << bit % 8
    assert p256.decrypt(key, nonce, bytes(flipped)) is None
    assert p256.decrypt(key, nonce, sealed[:-1]) is None
    assert p256.decrypt(key, b"m" * 12, sealed) is None
    assert p256.decrypt(key, nonce, sealed[:15]) is None


def test_a_key_or_nonce_of_another_size_is_named() -> None:
    """Either one byte short."""
    for key, nonce in ((b"k" * 15, b"n" * 12), (b"k" * 16, b"n" * 11)):
        with pytest.raises(ValueError, match="a key of 16 bytes and a nonce of 12"):
            p256.encrypt(key, nonce, b"x")


def test_a_refusal_leaves_no_error_behind_for_ssl() -> None:
    """A wrong signature, a point beside the curve, a wrong tag: OpenSSL's list of errors is empty each time."""
    last = openssl.library().ERR_peek_error
    last.restype = ctypes.c_ulong
    assert not p256.verify(PUBLIC, b"m", b"\xff" * 64)
    assert last() == 0
    assert not p256.is_public_key(b"\x04" + bytes(64))
    assert last() == 0
    assert p256.decrypt(b"k" * 16, b"n" * 12, bytes(20)) is None
    assert last() == 0


def test_nothing_keeps_memory() -> None:
    """500 rounds of all calls: memory grows by less than 400 kB (a leaked key is 1,000 bytes or more)."""

    def go_round() -> None:
        p256.verify(PUBLIC, b"m", p256.sign(PRIVATE, b"m"))
        p256.agree(PRIVATE, PUBLIC)
        p256.is_public_key(b"\x04" + bytes(64))
        p256.decrypt(b"k" * 16, b"n" * 12, p256.encrypt(b"k" * 16, b"n" * 12, b"x"))

    for _ in range(100):
        go_round()
    before = _resident_bytes()
    for _ in range(500):
        go_round()
    assert _resident_bytes() - before < 400_000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
