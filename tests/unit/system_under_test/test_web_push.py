"""Web push as its standards have it: their examples come out, and only the subscriber can read what is sent."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.domain import p256
from system_under_test.domain.encrypted_content import Record, derive, read_head, seal, unseal
from system_under_test.domain.notices import Plan, push_text
from system_under_test.domain.web_push import (
    TEXT_BYTES_MAX,
    Receiver,
    Sender,
    authorization,
    decode64,
    decrypt,
    encode64,
    encrypt,
    new_sender,
    read_authorization,
)
from tests.unit.system_under_test.push_receiver import BASE, read, received, times, written

# RFC 8291, section 5 and appendix A.
TEXT = b"When I grow up, I want to be a watermelon"
RECEIVER_PRIVATE = decode64("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")
RECEIVER = Receiver(
    public_key=decode64("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
    auth=decode64("BTBZMqHH6r4Tts7J_aSIgg"),
)
SENDER = Sender(
    private_key=decode64("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"), salt=decode64("DGv6ra1nlYgDCS1FRnbzlw")
)
SENDER_PUBLIC = decode64("BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8")
BODY = decode64(
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
    "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)
# RFC 8292, section 2.4.
VAPID = (
    "vapid t=eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0NTM1MjM3NjgsI"
    "nN1YiI6Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFwDXb1JrErtmysazNjjvW2L"
    "9OkSSHzvoD1oA, k=BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"
)
# What is computed takes as long as the machine is busy; the receiver in Python takes some 50 ms.
_UNTIMED = settings(deadline=None, max_examples=40)
_FEW = settings(deadline=None, max_examples=12)


def _flipped(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    return bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(data))


def test_the_example_of_message_encryption_comes_out() -> None:
    """Every value that RFC 8291 names, in appendix A's order: public key, shared secret, keying material, the body."""
    assert p256.public_key(SENDER.private_key) == SENDER_PUBLIC
    assert p256.public_key(RECEIVER_PRIVATE) == RECEIVER.public_key
    shared = p256.agree(SENDER.private_key, RECEIVER.public_key)
    assert encode64(shared) == "kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs"
    assert p256.agree(RECEIVER_PRIVATE, SENDER_PUBLIC) == shared
    info = b"WebPush: info\0" + RECEIVER.public_key + SENDER_PUBLIC
    secret = derive(shared, salt=RECEIVER.auth, info=info, size=32)
    key = derive(secret, salt=SENDER.salt, info=b"Content-Encoding: aes128gcm\0", size=16)
    nonce = derive(secret, salt=SENDER.salt, info=b"Content-Encoding: nonce\0", size=12)
    assert (encode64(key), encode64(nonce)) == ("oIhVW04MRdy2XN9CiKLxTg", "4h_95klXJ5E_qnoN")
    assert encrypt(TEXT, RECEIVER, SENDER, body_bytes=None) == BODY
    assert decrypt(BODY, private_key=RECEIVER_PRIVATE, auth=RECEIVER.auth) == TEXT


def test_the_examples_of_encrypted_content_come_out() -> None:
    """RFC 8188, section 3.1 with one record, and 3.2 with two, the first of them padded by a byte; there and back."""
    one, two = decode64("yqdlZ-tYemfogSmv7Ws5PQ"), decode64("BO3ZVPxUlnLORbVGMpbT1Q")
    whole = seal(
        [Record(text=b"I am the walrus")],
        secret=one,
        salt=decode64("I1BsxtFttlv3u_Oo94xnmw"),
        key_id=b"",
        record_bytes=4096,
    )
    assert encode64(whole) == "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg"
    parts = seal(
        [Record(text=b"I am th", padding_bytes=1), Record(text=b"e walrus")],
        secret=two,
        salt=decode64("uNCkWiNYzKTnBN9ji3-qWA"),
        key_id=b"a1",
        record_bytes=25,
    )
    assert encode64(parts) == (
        "uNCkWiNYzKTnBN9ji3-qWAAAABkCYTHOG8chz_gnvgOqdGYovxyjuqRyJFjEDyoF1Fvkj6hQPdPHI51OEUKEpgz3SsLWIqS_uA"
    )
    for content, secret, key_id in ((whole, one, b""), (parts, two, b"a1")):
        head = read_head(content)
        assert head is not None
        assert head.key_id == key_id
        assert unseal(head, secret=secret) == b"I am the walrus"
    # Without its last record it is not complete.
    head = read_head(parts[:-25])
    assert head is not None
    assert unseal(head, secret=two) is None


def test_the_receiver_of_the_tests_is_one() -> None:
    """The receiver in plain Python reads RFC 8291's example, and its keys are those of the example."""
    private = int.from_bytes(RECEIVER_PRIVATE, "big")
    assert written(times(private, BASE)) == RECEIVER.public_key
    assert received(BODY, private_key=private, auth=RECEIVER.auth) == TEXT


@_FEW
@given(text=st.binary(max_size=TEXT_BYTES_MAX), private=st.integers(1, 2**255))
def test_what_is_sent_is_read_by_a_receiver_that_shares_no_code(text: bytes, private: int) -> None:
    """Any text to any subscriber: the receiver in plain Python reads it, and so does ours."""
    receiver = Receiver(public_key=written(times(private, BASE)), auth=RECEIVER.auth)
    body = encrypt(text, receiver, new_sender())
    assert received(body, private_key=private, auth=RECEIVER.auth) == text
    assert decrypt(body, private_key=private.to_bytes(32, "big"), auth=RECEIVER.auth) == text


@_UNTIMED
@given(text=st.binary(max_size=TEXT_BYTES_MAX))
def test_every_message_has_the_same_length_and_its_own_keys(text: bytes) -> None:
    """Texts of any length: 4,096 bytes each, never the same ones, at the sender's new point of the curve."""
    one, other = (encrypt(text, RECEIVER, new_sender()) for _ in range(2))
    assert len(one) == len(other) == 4096
    assert one[:16] != other[:16]
    assert one[21:86] != other[21:86]
    assert one[86:] != other[86:]
    read(one[21:86])


@_UNTIMED
@given(text=st.binary(max_size=100), bit=st.integers(min_value=0), what=st.sampled_from(["body", "auth", "key"]))
def test_a_bit_elsewhere_or_another_secret_is_refused(text: bytes, bit: int, what: str) -> None:
    """A bit of the body, of the shared secret or of the private key flipped: nothing is read; untouched: the text."""
    body = encrypt(text, RECEIVER, new_sender())
    changed = _flipped(body, bit) if what == "body" else body
    auth = _flipped(RECEIVER.auth, bit) if what == "auth" else RECEIVER.auth
    private = _flipped(RECEIVER_PRIVATE, bit) if what == "key" else RECEIVER_PRIVATE
    assert decrypt(body, private_key=RECEIVER_PRIVATE, auth=RECEIVER.auth) == text
    # The size of a record alone means nothing while there is one: RFC 8188 does not protect it.
    if what != "body" or not 16 <= bit % (len(body) * 8) // 8 < 20:
        assert decrypt(changed, private_key=private, auth=auth) is None


@_UNTIMED
@given(body=st.binary(max_size=300))
def test_what_is_no_message_is_none(body: bytes) -> None:
    """Any bytes, also behind a right beginning: nothing is read, and nothing raised."""
    assert decrypt(body, private_key=RECEIVER_PRIVATE, auth=RECEIVER.auth) is None
    assert decrypt(BODY[:86] + body, private_key=RECEIVER_PRIVATE, auth=RECEIVER.auth) is None


def test_a_message_from_beside_the_curve_or_of_more_than_one_record_is_none() -> None:
    """The sender's point moved off the curve, and a record size that makes two records of one: nothing, no error."""
    beside = BODY[:40] + bytes((BODY[40] ^ 1,)) + BODY[41:]
    assert not p256.is_public_key(beside[21:86])
    shared = p256.agree(SENDER.private_key, RECEIVER.public_key)
    info = b"WebPush: info\0" + RECEIVER.public_key + SENDER_PUBLIC
    secret = derive(shared, salt=RECEIVER.auth, info=info, size=32)
    parts = [Record(text=TEXT[:20]), Record(text=TEXT[20:40])]
    two = seal(parts, secret=secret, salt=SENDER.salt, key_id=SENDER_PUBLIC, record_bytes=37)
    head = read_head(two)
    assert head is not None
    assert unseal(head, secret=secret) == TEXT[:40]
    for body in (beside, two):
        assert decrypt(body, private_key=RECEIVER_PRIVATE, auth=RECEIVER.auth) is None


def test_a_text_that_is_too_long_or_a_key_that_is_none_is_named() -> None:
    """One byte more than fits, and a point beside the curve: an error each; the longest text fits."""
    assert len(encrypt(bytes(TEXT_BYTES_MAX), RECEIVER, SENDER)) == 4096
    with pytest.raises(ValueError, match="3994 bytes is too long to be pushed, at most 3993"):
        encrypt(bytes(TEXT_BYTES_MAX + 1), RECEIVER, SENDER)
    with pytest.raises(ValueError, match="a point of the curve"):
        encrypt(b"x", Receiver(public_key=_flipped(RECEIVER.public_key, 500), auth=RECEIVER.auth), SENDER)


def test_the_longest_notice_fits() -> None:
    """A reason of 200 letters of four bytes each: it is still a message."""
    start = datetime(2030, 1, 1, tzinfo=UTC)
    plan = Plan(
        window=2**63 - 1,
        revision=2**31 - 1,
        kind="planned",
        planned_start=start,
        planned_end=start + timedelta(minutes=45),
        reason="\U0001f4b0" * 200,
    )
    text = push_text(plan, account="c-" + "9" * 40)
    assert len(text) < TEXT_BYTES_MAX
    assert json.loads(text)["id"] == f"window-{2**63 - 1}.revision-{2**31 - 1}.c-{'9' * 40}.push"


def test_the_example_of_identification_is_read() -> None:
    """RFC 8292's own token: signed by its key, and what it says."""
    vapid = read_authorization(VAPID)
    assert vapid is not None
    assert (vapid.audience, vapid.expires_s, vapid.subject) == (
        "https://push.example.net",
        1453523768,
        "mailto:push@example.com",
    )
    assert encode64(vapid.public_key) in VAPID


@_UNTIMED
@given(bit=st.integers(min_value=0), part=st.sampled_from([0, 1, 2, 3]))
def test_a_token_of_ours_has_the_form_and_cannot_be_changed(bit: int, part: int) -> None:
    """Head, claims, signature or key with a bit flipped: refused; untouched: read, in the form of RFC 8292."""
    header = authorization(SENDER.private_key, audience="https://push.example.net", expires_s=9, subject="mailto:a@b")
    token, key = header.removeprefix("vapid t=").split(", k=")
    parts = [*token.split("."), key]
    assert [json.loads(decode64(one)) for one in parts[:2]] == [
        {"typ": "JWT", "alg": "ES256"},
        {"aud": "https://push.example.net", "exp": 9, "sub": "mailto:a@b"},
    ]
    assert len(decode64(parts[2])) == 64
    vapid = read_authorization(header)
    assert vapid is not None
    assert vapid.public_key == SENDER_PUBLIC == decode64(key)
    parts[part] = encode64(_flipped(decode64(parts[part]), bit))
    assert read_authorization(f"vapid t={'.'.join(parts[:3])}, k={parts[3]}") is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "vapid",
        "Bearer x",
        "vapid t=a.b.c",
        "vapid t=a.b.c, k=",
        "vapid t=a.b, k=a",
        "vapid t=...., k=AAAA",
        "vapid " * 999,
    ],
)
def test_what_is_no_token_is_none(header: str) -> None:
    """Each: refused, never an error."""
    assert read_authorization(header) is None


def test_a_token_that_says_nothing_of_use_is_none() -> None:
    """Rightly signed, but by another algorithm's name, or without an audience or an end: refused."""
    key = encode64(SENDER_PUBLIC)
    for head, claims in (
        ({"alg": "none"}, {"aud": "x", "exp": 1}),
        ({"alg": "ES256"}, {"exp": 1}),
        ({"alg": "ES256"}, {"aud": "x"}),
        ({"alg": "ES256"}, {"aud": "x", "exp": "soon"}),
        ({"alg": "ES256"}, ["aud", "exp"]),
    ):
        signed = ".".join(encode64(json.dumps(part).encode()) for part in (head, claims))
        signature = encode64(p256.sign(SENDER.private_key, signed.encode()))
        assert read_authorization(f"vapid t={signed}.{signature}, k={key}") is None


@_UNTIMED
@given(data=st.binary(max_size=50))
def test_base64url_is_read_in_one_form_only(data: bytes) -> None:
    """There and back; with padding, with other letters, or with bits that mean nothing: an error."""
    text = encode64(data)
    assert decode64(text) == data
    for wrong in (text + "=", text + "!", text + " ", "A", "AB", text + "\n", "ä"):
        if wrong != text:
            with pytest.raises(ValueError, match=r"base64url|ascii"):
                decode64(wrong)
