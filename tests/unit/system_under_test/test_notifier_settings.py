"""Wrong settings of notifier and mailbox are named, all at once."""

from pathlib import Path

import pytest

from system_under_test.domain.push import Host, may_be_sent_to
from system_under_test.services.mailbox.main import MailboxSettings
from system_under_test.services.notifier.main import NotifierSettings, SmtpServer
from system_under_test.services.portal.server import PortalSettings
from system_under_test.settings import ConfigurationError, read_settings

GIVEN = {
    "HOLDFAST_PORT": "20002",
    "DATABASE_URL": "postgresql://savings_notifier:secret@127.0.0.1:20001/savings",
    "SMTP_URL": "smtp://127.0.0.1:2525",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GIVEN, "HOLDFAST_DATA_DIR", str(tmp_path))


def test_any_smtp_server_can_be_named() -> None:
    """By address or by name."""
    assert read_settings(NotifierSettings, GIVEN).smtp == SmtpServer(host="127.0.0.1", port=2525)
    named = read_settings(NotifierSettings, GIVEN | {"SMTP_URL": "smtp://mail.savings.example:25/"})
    assert named.smtp == SmtpServer(host="mail.savings.example", port=25)


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:2525", "http://127.0.0.1:2525", "smtp://127.0.0.1", "smtp://:25", "smtp://x:0", "smtp://x:65536"),
        *("smtp://x:-1", "smtp://x:port", "smtp://user:secret@x:25", "smtp://x:25/path", "smtp://x y:25"),
    ],
)
def test_what_is_no_smtp_address_is_refused_and_not_repeated(url: str) -> None:
    """Each: one problem that shows how it should look; the address itself, which may hold a password, is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings(NotifierSettings, GIVEN | {"SMTP_URL": url})
    assert caught.value.problems == ("SMTP_URL: expected an address such as smtp://127.0.0.1:2525",)


@pytest.mark.parametrize("sender", ["nobody", "a@b\r\nBcc: c@d", "Savings <a@b>", "a b@c"])
def test_a_sender_that_could_break_a_header_is_refused(sender: str) -> None:
    """Each is named."""
    with pytest.raises(ConfigurationError, match="NOTICE_SENDER"):
        read_settings(NotifierSettings, GIVEN | {"NOTICE_SENDER": sender})


def test_a_claim_has_to_outlast_a_try() -> None:
    """Ten answers' time is enough, less is not."""
    enough = {"SMTP_TIMEOUT_SECONDS": "2", "PUSH_TIMEOUT_SECONDS": "2", "NOTICE_CLAIM_SECONDS": "20"}
    assert read_settings(NotifierSettings, GIVEN | enough).claim_s == 20
    for name in ("SMTP", "PUSH"):
        with pytest.raises(ConfigurationError, match=f"has to be at least 10 times {name}_TIMEOUT_SECONDS"):
            read_settings(NotifierSettings, GIVEN | enough | {f"{name}_TIMEOUT_SECONDS": "2.1"})


def test_nothing_is_pushed_anywhere_until_it_is_said_where() -> None:
    """Notifier and portal without PUSH_HOSTS: no host at all, not even this machine."""
    portal = {name: GIVEN[name] for name in ("HOLDFAST_PORT", "DATABASE_URL")}
    assert read_settings(NotifierSettings, GIVEN).push_hosts == ()
    assert read_settings(PortalSettings, portal).push_hosts == ()
    assert not may_be_sent_to("http://127.0.0.1:2580/a", ())


def test_the_push_services_that_may_be_sent_to_are_a_list() -> None:
    """A host, one with a port, all below one; what is none is named."""
    settings = read_settings(NotifierSettings, GIVEN | {"PUSH_HOSTS": "push.example.net, *.example.org,127.0.0.1:2580"})
    assert settings.push_hosts == (
        Host(name="push.example.net", port=None, below=False),
        Host(name="example.org", port=None, below=True),
        Host(name="127.0.0.1", port=2580, below=False),
    )
    for wrong in ("push.example.net,", "https://push.example.net", "*", "x:0", "x:65536", "a@b", "a b"):
        with pytest.raises(ConfigurationError, match="PUSH_HOSTS: expected a host as push"):
            read_settings(NotifierSettings, GIVEN | {"PUSH_HOSTS": wrong})


def test_the_mailbox_needs_two_ports_and_a_folder(tmp_path: Path) -> None:
    """All three are named when they are missing; the folder has to exist."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings(MailboxSettings, {})
    assert caught.value.problems == (
        "HOLDFAST_PORT is not set",
        "HOLDFAST_PORT_SMTP is not set",
        "HOLDFAST_DATA_DIR is not set",
    )
    with pytest.raises(ConfigurationError, match="expected a folder that exists"):
        read_settings(
            MailboxSettings,
            {"HOLDFAST_PORT": "1", "HOLDFAST_PORT_SMTP": "2", "HOLDFAST_DATA_DIR": str(tmp_path / "none")},
        )
