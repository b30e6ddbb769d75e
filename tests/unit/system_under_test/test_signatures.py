"""Ed25519 as RFC 8032 has it: its vectors come out, and nothing but the exact message of the exact key is accepted."""

import ctypes
import resource
import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.domain import openssl, signatures
from system_under_test.settings import PlatformError

# RFC 8032, section 7.1: secret key, public key, message, signature.
VECTORS = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
    "TEST SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        (
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
            "454d4423643ce80e2a9ac94fa54ca49f"
        ),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
            "3dca179c138ac17ad9bef1177331a704"
        ),
    ),
}
# A signature takes as long as the machine is busy.
_UNTIMED = settings(deadline=None)
PRIVATE = bytes(range(32))
PUBLIC = signatures.public_key(PRIVATE)


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_standard_come_out(name: str) -> None:
    """Public key and signature of each vector, and its verification."""
    private, public, message, signature = (bytes.fromhex(text) for text in VECTORS[name])
    assert signatures.public_key(private) == public
    assert signatures.sign(private, message) == signature
    assert signatures.verify(public, message, signature)


@_UNTIMED
@given(message=st.binary(max_size=200), bit=st.integers(min_value=0), what=st.sampled_from(["key", "message", "both"]))
def test_one_bit_elsewhere_is_refused(message: bytes, bit: int, what: str) -> None:
    """Flips one bit of the message, of the signature or of the public key: refused; untouched: accepted."""
    signature = signatures.sign(PRIVATE, message)
    assert signatures.verify(PUBLIC, message, signature)
    if message and what != "key":
        assert not signatures.verify(PUBLIC, _flipped(message, bit), signature)
    assert not signatures.verify(PUBLIC, message, _flipped(signature, bit))
    assert not signatures.verify(_flipped(PUBLIC, bit), message, signature)


def _flipped(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    return bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(data))


@_UNTIMED
@given(key=st.binary(max_size=80), message=st.binary(max_size=20), signature=st.binary(max_size=130))
def test_what_is_malformed_is_no_signature(key: bytes, message: bytes, signature: bytes) -> None:
    """Keys and signatures of any length and content: refused, never an error."""
    assert not signatures.verify(key, message, signature)


def test_two_keys_are_never_the_same_and_do_not_fit_each_other() -> None:
    """Two drawn keys: different, and the signature of one is none of the other."""
    one, other = signatures.generate(), signatures.generate()
    assert one != other
    assert not signatures.verify(signatures.public_key(other), b"m", signatures.sign(one, b"m"))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_private_key_of_another_size_is_named(size: int) -> None:
    """Signs with keys of the wrong size: an error that tells both sizes."""
    with pytest.raises(ValueError, match=f"32 bytes, got {size}"):
        signatures.sign(b"x" * size, b"m")


def test_a_failure_leaves_no_error_behind_for_ssl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses a signature, then asks for an algorithm that there is not: its list of errors is empty each time."""
    last = openssl.library().ERR_peek_error
    last.restype = ctypes.c_ulong
    assert not signatures.verify(PUBLIC, b"m", b"\xff" * 64)
    assert last() == 0
    monkeypatch.setattr(signatures, "_ED25519", 999_999)
    with pytest.raises(PlatformError, match="refuses Ed25519"):
        signatures.sign(PRIVATE, b"m")
    assert last() == 0
    assert ssl.create_default_context() is not None


def test_signing_keeps_no_memory() -> None:
    """10,000 signatures and verifications: memory grows by less than 1 MB (a leaked key is 200 bytes or more)."""
    for _ in range(1_000):
        signatures.verify(PUBLIC, b"m", signatures.sign(PRIVATE, b"m"))
    before = _resident_bytes()
    for _ in range(10_000):
        signatures.verify(PUBLIC, b"m", signatures.sign(PRIVATE, b"m"))
    assert _resident_bytes() - before < 1_000_000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def test_a_python_without_a_usable_openssl_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for functions that no library has: an error that says what is needed and where to get it."""
    monkeypatch.setattr(openssl, "_FUNCTIONS", (("EVP_of_the_future", None, ()),))
    openssl.library.cache_clear()
    try:
        with pytest.raises(PlatformError, match=r"need OpenSSL 1\.1\.1 or newer.*install OpenSSL"):
            signatures.sign(PRIVATE, b"m")
    finally:
        openssl.library.cache_clear()
