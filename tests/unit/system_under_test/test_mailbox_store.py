"""What the mailbox keeps: every arrival, once as effective, over any number of its own deaths."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.services.mailbox.store import FILE, MailStore, read_headers
from system_under_test.settings import PlatformError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def mail(message_id: str, subject: str = "hello") -> bytes:
    """A mail with these headers."""
    return f"Message-ID: {message_id}\r\nSubject: {subject}\r\n\r\ntext\r\n".encode()


def test_the_same_message_again_is_a_duplicate_and_a_line_of_the_file(tmp_path: Path) -> None:
    """One message twice to one recipient and once to another: three lines, two effective, one duplicate."""
    with MailStore(tmp_path) as store:
        for recipient in ("a@x", "a@x", "b@x"):
            store.keep([recipient], mail("<1@x>"), NOW)
        assert (store.received, store.effective, store.duplicates) == (3, 2, 1)
        assert [kept.message_id for kept in store.to("a@x")] == ["<1@x>"]
        assert store.to("nobody@x") == []
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text(encoding="utf-8").splitlines()]
    assert [line["duplicate"] for line in lines] == [False, True, False]
    assert lines[0] == {
        "recipient": "a@x",
        "message_id": "<1@x>",
        "subject": "hello",
        "received_at": "2030-01-01T00:00:00.000000+00:00",
        "duplicate": False,
    }


def test_a_mail_to_several_is_one_for_each_and_one_for_whoever_is_named_twice(tmp_path: Path) -> None:
    """Three recipients, two of them the same: two effective mails, no duplicate."""
    with MailStore(tmp_path) as store:
        store.keep(["a@x", "b@x", "a@x"], mail("<1@x>"), NOW)
        assert (store.effective, store.duplicates) == (2, 0)


def test_mails_without_a_message_id_are_never_duplicates(tmp_path: Path) -> None:
    """The same content twice: both count."""
    with MailStore(tmp_path) as store:
        for _ in range(2):
            store.keep(["a@x"], b"Subject: x\r\n\r\n", NOW)
        assert (store.effective, store.duplicates) == (2, 0)


def test_a_mailbox_that_died_while_writing_goes_on_where_it_was(tmp_path: Path) -> None:
    """A file with a torn last line: what was whole is known again, the torn one may come again, the file is whole."""
    with MailStore(tmp_path) as store:
        store.keep(["a@x"], mail("<1@x>"), NOW)
        store.keep(["a@x"], mail("<2@x>"), NOW)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-7])
    with MailStore(tmp_path) as store:
        assert store.effective == 1
        store.keep(["a@x"], mail("<1@x>"), NOW)
        store.keep(["a@x"], mail("<2@x>"), NOW)
        assert (store.effective, store.duplicates) == (2, 1)
    assert len([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]) == 3


def test_a_damaged_file_is_not_taken_over(tmp_path: Path) -> None:
    """A line that is not ours: refused, naming file and line, and nothing is changed."""
    path = tmp_path / FILE
    path.write_text('{"recipient": 1}\n', encoding="utf-8")
    with pytest.raises(PlatformError, match=r"mails\.ndjson:1: not a line of this mailbox .*move the file away"):
        MailStore(tmp_path)
    assert path.read_text(encoding="utf-8") == '{"recipient": 1}\n'


def test_the_newest_come_last(tmp_path: Path) -> None:
    """Three mails to two people, asked for two: the last two by time."""
    with MailStore(tmp_path) as store:
        for number, recipient in enumerate(("a@x", "b@x", "a@x")):
            store.keep([recipient], mail(f"<{number}@x>"), NOW.replace(second=number))
        assert [kept.message_id for kept in store.newest(2)] == ["<1@x>", "<2@x>"]
        assert store.newest(0) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"subject: a\r\nMESSAGE-ID:<1@x>\r\n\r\n", ("<1@x>", "a")),
        (b"Subject: a long\r\n one, folded\r\n\r\nMessage-ID: <no@x>\r\n", (None, "a long one, folded")),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n", (None, "Grüße")),
        (b"Subject: =?nonsense?q?x?=\r\n\r\n", (None, "=?nonsense?q?x?=")),
        (b"\r\nSubject: in the body\r\n", (None, "")),
        (b"", (None, "")),
    ],
)
def test_headers_are_read_as_a_reader_would(content: bytes, expected: tuple[str | None, str]) -> None:
    """Case, folding, encoded words, and headers that are not there."""
    assert read_headers(content) == expected


@settings(deadline=None)
@given(
    st.binary(max_size=300) | st.binary(max_size=100).map(lambda rest: b"Subject: =?utf-8?b?" + rest + b"?=\r\n\r\n")
)
def test_no_headers_are_too_strange_to_be_written_down(content: bytes) -> None:
    """Arbitrary bytes: a subject of one line, and both parts can be written as JSON."""
    message_id, subject = read_headers(content)
    assert "\n" not in subject
    assert json.loads(json.dumps([message_id, subject])) == [message_id, subject]
