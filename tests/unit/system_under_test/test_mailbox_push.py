"""The mailbox as a push service keeps its subscriptions, and takes what the standards say is a message."""

import json
import stat
from pathlib import Path

import pytest

from system_under_test.domain.web_push import Receiver, decode64, encrypt, new_sender
from system_under_test.services.mailbox.push import Message, malformed, read_message
from system_under_test.services.mailbox.subscriptions import FILE, Subscriptions
from system_under_test.settings import PlatformError

GOOD = {"Content-Encoding": "aes128gcm", "TTL": "60", "Topic": "window-7", "Urgency": "normal"}


def test_subscriptions_outlive_the_process_and_stay_secret(tmp_path: Path) -> None:
    """Three made, one removed, opened again: as before; the file is for its owner alone, half a line is forgotten."""
    with Subscriptions(tmp_path) as subscriptions:
        one, two, three = subscriptions.make(3)
        assert subscriptions.remove(two.id)
        assert not subscriptions.remove(two.id)
        assert not subscriptions.remove("nobody")
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("a", encoding="ascii") as file:
        file.write('{"id": "half')
    with Subscriptions(tmp_path) as subscriptions:
        assert subscriptions.get(one.id) == one
        assert subscriptions.get(three.id) == three
        removed = subscriptions.get(two.id)
        assert removed is not None
        assert removed.removed
        assert subscriptions.get("half") is None
        subscriptions.make(1)
    assert len(path.read_text(encoding="ascii").splitlines()) == 5


def test_a_damaged_file_is_named_and_not_repeated(tmp_path: Path) -> None:
    """A line of something else: an error that names it, without what it says."""
    (tmp_path / FILE).write_text('{"private_key": "secret"}\n', encoding="ascii")
    with pytest.raises(PlatformError, match=r"subscriptions\.ndjson:1: not a line of this mailbox") as refused:
        Subscriptions(tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, None),
        ({"TTL": "soon"}, 400),
        ({"TTL": ""}, 400),
        ({"TTL": "-1"}, 400),
        ({"Topic": "x" * 33}, 400),
        ({"Topic": "a b"}, 400),
        ({"Urgency": "now"}, 400),
        ({"Content-Encoding": "gzip"}, 415),
    ],
)
def test_a_message_has_the_headers_of_the_standard(change: dict[str, str], status: int | None) -> None:
    """Each header of RFC 8030 missing or wrong: refused; one byte more than has to be taken: too large."""
    refusal = malformed(GOOD | change, bytes(4096))
    assert (None if refusal is None else refusal.status) == status
    large = malformed(GOOD | change, bytes(4097))
    assert large is not None
    assert large.status == 413


def test_only_what_a_device_can_read_has_a_name(tmp_path: Path) -> None:
    """A message for the device, one for another, and texts that are no notice."""
    with Subscriptions(tmp_path) as subscriptions:
        own, other = subscriptions.make(2)
    receiver = Receiver(public_key=decode64(own.public_key), auth=decode64(own.auth))
    body = encrypt(json.dumps({"id": "window-7", "title": "Planned"}).encode(), receiver, new_sender())
    assert read_message(own, body) == Message(id="window-7", title="Planned")
    assert read_message(other, body) == Message(id=None, title="")
    for text in (b"", b"x", b"[]", b'{"id": 5}'):
        assert read_message(own, encrypt(text, receiver, new_sender())).id is None
