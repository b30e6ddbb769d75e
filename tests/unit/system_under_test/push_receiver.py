"""A push message's receiver of its own kind: P-256, AES-128 and GCM worked out in plain Python from their standards.

Slow, open to whoever measures its time, and for tests alone: it shares nothing with what it judges but the standards.
"""

import hashlib
import hmac
from functools import reduce

# FIPS 186-5 / SEC 2: y^2 = x^3 - 3x + B modulo P, the base point.
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int]
GCM = 0xE1 << 120


def add(one: Point | None, other: Point | None) -> Point | None:
    """The sum of two points; None is the point at infinity."""
    if one is None or other is None:
        return one or other
    (x, y), (u, v) = one, other
    if x == u and (y + v) % P == 0:
        return None
    slope = (3 * x * x - 3) * pow(2 * y, -1, P) if one == other else (v - y) * pow(u - x, -1, P)
    w = (slope * slope - x - u) % P
    return w, (slope * (x - w) - y) % P


def times(number: int, point: Point) -> Point:
    """The point added to itself so many times."""
    total: Point | None = None
    doubled: Point | None = point
    while number:
        if number & 1:
            total = add(total, doubled)
        doubled = add(doubled, doubled)
        number >>= 1
    assert total is not None
    return total


def written(point: Point) -> bytes:
    """The point uncompressed."""
    return b"\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def read(point: bytes) -> Point:
    """The point of 65 bytes, which has to be one."""
    x, y = int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:65], "big")
    assert len(point) == 65
    assert point[0] == 4
    assert (y * y - x * x * x + 3 * x - B) % P == 0
    return x, y


def _double(byte: int) -> int:
    return byte << 1 ^ (0x11B if byte & 0x80 else 0)


def _multiplied(one: int, other: int) -> int:
    """In the field of AES."""
    product = 0
    while other:
        product ^= one if other & 1 else 0
        one, other = _double(one), other >> 1
    return product


def _substituted(byte: int) -> int:
    inverse = next((other for other in range(256) if _multiplied(byte, other) == 1), 0)
    turned = [((inverse << turn | inverse >> (8 - turn)) & 0xFF) for turn in range(5)]
    return reduce(int.__xor__, turned) ^ 0x63


BOX = bytes(map(_substituted, range(256)))
DOUBLES = bytes(_double(byte) & 0xFF for byte in range(256))


def round_keys(key: bytes) -> list[bytes]:
    """The eleven keys of AES-128."""
    words = [key[start : start + 4] for start in range(0, 16, 4)]
    constant = 1
    while len(words) < 44:
        word = words[-1]
        if len(words) % 4 == 0:
            word = bytes(BOX[byte] for byte in word[1:] + word[:1])
            word = bytes((word[0] ^ constant, *word[1:]))
            constant = _double(constant)
        words.append(bytes(a ^ b for a, b in zip(words[-4], word, strict=True)))
    return [b"".join(words[start : start + 4]) for start in range(0, 44, 4)]


def cipher_block(keys: list[bytes], block: bytes) -> bytes:
    """One block encrypted."""
    state = bytes(a ^ b for a, b in zip(block, keys[0], strict=True))
    for number, key in enumerate(keys[1:], start=1):
        # Row r of the four columns is turned left by r.
        moved = [BOX[state[(place + 4 * (place % 4)) % 16]] for place in range(16)]
        if number < 10:
            mixed: list[int] = []
            for start in range(0, 16, 4):
                a, b, c, d = moved[start : start + 4]
                together = a ^ b ^ c ^ d
                pairs = ((a, b), (b, c), (c, d), (d, a))
                mixed += [one ^ together ^ DOUBLES[one ^ other] for one, other in pairs]
            moved = mixed
        state = bytes(a ^ b for a, b in zip(moved, key, strict=True))
    return state


def _hashed(subkey: int, data: bytes) -> int:
    """GHASH."""
    total = 0
    for start in range(0, len(data), 16):
        block = total ^ int.from_bytes(data[start : start + 16], "big")
        total, factor = 0, subkey
        for bit in range(127, -1, -1):
            total ^= factor if block >> bit & 1 else 0
            factor = factor >> 1 ^ (GCM if factor & 1 else 0)
    return total


def decrypted(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    """The text of AES-128-GCM; None where the tag does not fit."""
    keys, text = round_keys(key), sealed[:-16]
    padded = text + bytes(-len(text) % 16) + (0).to_bytes(8, "big") + (8 * len(text)).to_bytes(8, "big")
    subkey = int.from_bytes(cipher_block(keys, bytes(16)), "big")
    mask = int.from_bytes(cipher_block(keys, nonce + b"\0\0\0\1"), "big")
    if (_hashed(subkey, padded) ^ mask).to_bytes(16, "big") != sealed[-16:]:
        return None
    blocks = range(-(-len(text) // 16))
    stream = b"".join(cipher_block(keys, nonce + (number + 2).to_bytes(4, "big")) for number in blocks)
    return bytes(a ^ b for a, b in zip(text, stream[: len(text)], strict=True))


def received(body: bytes, *, private_key: int, auth: bytes) -> bytes | None:
    """The text of a push message (RFC 8291, section 3.4; RFC 8188, section 2); None where it is not for this one."""
    salt, record_bytes, id_bytes = body[:16], int.from_bytes(body[16:20], "big"), body[20]
    sender, record = body[21 : 21 + id_bytes], body[21 + id_bytes :]
    assert len(record) <= record_bytes
    shared = times(private_key, read(sender))[0].to_bytes(32, "big")
    own = written(times(private_key, BASE))
    agreed = hmac.new(auth, shared, hashlib.sha256).digest()
    secret = hmac.new(agreed, b"WebPush: info\0" + own + sender + b"\1", hashlib.sha256).digest()
    drawn = hmac.new(salt, secret, hashlib.sha256).digest()
    key = hmac.new(drawn, b"Content-Encoding: aes128gcm\0\1", hashlib.sha256).digest()[:16]
    nonce = hmac.new(drawn, b"Content-Encoding: nonce\0\1", hashlib.sha256).digest()[:12]
    padded = decrypted(key, nonce, record)
    if padded is None:
        return None
    text = padded.rstrip(b"\0")
    assert text[-1:] == b"\2"
    return text[:-1]
