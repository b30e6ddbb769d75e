"""Subscriptions are taken as browsers write them, and only at services that may be sent to."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from system_under_test.domain.push import Address, Subscription, may_be_sent_to, read_hosts, ttl_s

P256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
KEYS = {"p256dh": P256DH, "auth": AUTH}


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABk_x-y",
        "https://fcm.googleapis.com/fcm/send/abc:APA91b",
        "https://push.example.net:8443/?token=a%2Fb&x=1",
        "http://127.0.0.1:2580/push/abc",
        "https://a/" + "x" * 1014,
        f"https://{'a' * 63}.push.example.net/x",
    ],
)
def test_what_browsers_write_is_a_subscription(endpoint: str) -> None:
    """Endpoints of several forms, with and without the time at which they end; the address goes there and back."""
    for given in ({}, {"expirationTime": None}, {"expirationTime": 1_900_000_000_000}):
        subscription = Subscription.model_validate({"endpoint": endpoint, "keys": KEYS, **given})
        text = f"{endpoint} {P256DH} {AUTH}"
        address = Address.read(text)
        assert address is not None
        assert (subscription.endpoint, address.endpoint, address.written()) == (endpoint, endpoint, text)


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "http://push.example.net/a"},
        {"endpoint": "https://user@push.example.net/a"},
        {"endpoint": "https://push.example.net"},
        {"endpoint": "https://push.example.net/a b"},
        {"endpoint": "https://push.example.net/a\r\nTopic: x"},
        {"endpoint": "https://push.example.net/a#b"},
        {"endpoint": "https://PUSH.example.net/a"},
        {"endpoint": "https://[::1]/a"},
        {"endpoint": "https://127.0.0.1.:80/a"},
        {"endpoint": "http://127.0.0.1@evil.example/a"},
        {"endpoint": "ftp://127.0.0.1/a"},
        {"endpoint": "https://a/" + "x" * 1015},
        {"endpoint": f"https://{'a' * 64}.push.example.net/x"},
        {"endpoint": "https://a..example.net/x"},
        {"endpoint": "https://a-.example.net/x"},
        {"keys": {"p256dh": P256DH}},
        {"keys": {**KEYS, "p256dh": P256DH + "="}},
        {"keys": {**KEYS, "p256dh": "A" + P256DH[1:]}},
        {"keys": {**KEYS, "auth": AUTH[:-1]}},
        {"keys": {**KEYS, "auth": AUTH[:-1] + "h"}},
        {"keys": {**KEYS, "more": "x"}},
        {"more": "x"},
        {"expirationTime": -1},
    ],
)
def test_what_is_none_is_refused(change: dict[str, object]) -> None:
    """Each: refused before anything is looked up or sent."""
    with pytest.raises(ValidationError):
        Subscription.model_validate({"endpoint": "https://push.example.net/a", "keys": KEYS, **change})


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("https://push.example.net/a", True),
        ("https://push.example.net:8443/a", True),
        ("https://x.push.example.net/a", False),
        ("https://eu.example.org/a", True),
        ("https://a.b.example.org/a", True),
        ("https://example.org/a", False),
        ("https://notexample.org/a", False),
        ("http://127.0.0.1:2580/a", True),
        ("http://127.0.0.1:2581/a", False),
        ("http://127.0.0.1/a", False),
        ("https://127.0.0.1:443/a", False),
        ("https://push.example.net:99999/a", False),
        (f"https://{'a.' * 121}example.org/x", True),
        (f"https://{'a.' * 121}a.example.org/x", False),
    ],
)
def test_only_listed_hosts_may_be_sent_to(endpoint: str, allowed: bool) -> None:  # noqa: FBT001 - a table
    """A host with any port, hosts below a domain, and one port of this machine."""
    hosts = read_hosts("push.example.net, *.example.org, 127.0.0.1:2580")
    assert may_be_sent_to(endpoint, hosts) is allowed


@pytest.mark.parametrize("text", ["", "a", "https://a/b c", f"https://a/b {P256DH}", f"https://a/b {P256DH} {AUTH} x"])
def test_what_is_no_address_is_none(text: str) -> None:
    """Parts missing, too many, or of another form."""
    assert Address.read(text) is None


def test_a_service_keeps_a_notice_until_the_window_is_over() -> None:
    """Three days ahead: three days; never less than a day, nor more than four weeks."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert ttl_s(now + timedelta(days=3), now) == 3 * 86_400
    assert ttl_s(now - timedelta(days=400), now) == 86_400
    assert ttl_s(now + timedelta(days=400), now) == 28 * 86_400
