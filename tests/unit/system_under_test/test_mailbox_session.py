"""The receiving side of SMTP: what it takes, what it refuses, and that nothing which comes in can hurt it."""

import itertools
import smtplib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.services.mailbox.session import (
    BAD_COMMANDS,
    COMMAND_BYTES,
    CONTENT_BYTES,
    LINE_BYTES,
    RECIPIENTS,
    Closed,
    Event,
    Received,
    Reply,
    Session,
    reply,
)

ENVELOPE = b"EHLO a\r\nMAIL FROM:<s@x.example>\r\nRCPT TO:<r@x.example>\r\n"
BEGUN = ENVELOPE + b"DATA\r\n"


def never(_verb: str) -> None:
    """Refuses nothing."""


def talk(*pieces: bytes, refusal: Callable[[str], Reply | None] = never) -> list[Event]:
    """The events of a conversation that comes in these pieces."""
    session = Session(host="here", refusal=refusal)
    return [event for piece in pieces for event in session.receive(piece)]


def codes(events: list[Event]) -> list[int | str]:
    """Replies by their code, the rest by name."""
    return [event.code if isinstance(event, Reply) else type(event).__name__ for event in events]


def test_a_mail_comes_in_as_it_was_sent() -> None:
    """One whole conversation, all at once as a pipelining client sends it: envelope and content, in order."""
    events = talk(BEGUN + b"Subject: x\r\n\r\n..dot\r\n\xc3\xa9\r\n.\r\nQUIT\r\n")
    assert codes(events) == [250, 250, 250, 354, "Received", 221, "Closed"]
    assert events[4] == Received(
        sender="s@x.example", recipients=("r@x.example",), content=b"Subject: x\r\n\r\n.dot\r\n\xc3\xa9\r\n"
    )


def test_what_is_offered_is_announced() -> None:
    """EHLO names each extension; HELO none."""
    (ehlo,) = talk(b"EHLO a\r\n")
    assert isinstance(ehlo, Reply)
    assert set(ehlo.lines[1:]) == {f"SIZE {CONTENT_BYTES}", "8BITMIME", "PIPELINING", "ENHANCEDSTATUSCODES"}
    assert ehlo.encode().splitlines()[-1].startswith(b"250 ")
    assert all(line.startswith(b"250-") for line in ehlo.encode().splitlines()[:-1])
    (helo,) = talk(b"HELO a\r\n")
    assert helo == reply(250, "here")


REFUSED: dict[str, tuple[bytes, list[int]]] = {
    "an unknown command": (b"FLY\r\n", [500]),
    "an empty line": (b"\r\n", [500]),
    "binary": (bytes(range(128, 138)) + b"\r\n", [500]),
    "a control character": (b"NOOP \x00\r\n", [500]),
    "a lone LF in a command": (b"EHLO a\nMAIL FROM:<s@x>\r\n", [500]),
    "a line of the greatest length is unknown, not too long": (b"x" * (COMMAND_BYTES - 2) + b"\r\n", [500]),
    "a line too long by one": (b"NOOP " + b"x" * (COMMAND_BYTES - 6) + b"\r\nNOOP\r\n", [500, 250]),
    "a line far too long": (b"NOOP " + b"x" * 10 * COMMAND_BYTES + b"\r\nNOOP\r\n", [500, 250]),
    "EHLO without a name": (b"EHLO\r\n", [501]),
    "MAIL before EHLO": (b"MAIL FROM:<s@x>\r\n", [503]),
    "MAIL twice": (b"EHLO a\r\nMAIL FROM:<s@x>\r\nMAIL FROM:<s@x>\r\n", [250, 250, 503]),
    "MAIL without an address": (b"EHLO a\r\nMAIL FROM:s@x\r\n", [250, 501]),
    "MAIL TO": (b"EHLO a\r\nMAIL TO:<s@x>\r\n", [250, 501]),
    "MAIL with an unknown option": (b"EHLO a\r\nMAIL FROM:<s@x> SMTPUTF8\r\n", [250, 555]),
    "MAIL of a known size": (b"EHLO a\r\nMAIL FROM:<s@x> SIZE=10 BODY=8BITMIME\r\n", [250, 250]),
    "MAIL of too great a size": (b"EHLO a\r\nMAIL FROM:<s@x> SIZE=%d\r\n" % (CONTENT_BYTES + 1), [250, 552]),
    "MAIL of a size without end": (b"EHLO a\r\nMAIL FROM:<s@x> SIZE=" + b"9" * 900 + b"\r\n", [250, 555]),
    "RCPT before MAIL": (b"EHLO a\r\nRCPT TO:<r@x>\r\n", [250, 503]),
    "RCPT to nobody": (b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<>\r\n", [250, 250, 501]),
    "RCPT with a space": (b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a b@x>\r\n", [250, 250, 501]),
    "RCPT with an option": (b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<r@x> NOTIFY=NEVER\r\n", [250, 250, 555]),
    "DATA before RCPT": (b"EHLO a\r\nMAIL FROM:<>\r\nDATA\r\n", [250, 250, 503]),
    "DATA with an argument": (ENVELOPE + b"DATA now\r\n", [250, 250, 250, 501]),
    "DATA after RSET": (ENVELOPE + b"RSET\r\nDATA\r\n", [250, 250, 250, 250, 503]),
    "a lone LF in a content": (BEGUN + b"a\n.\nMAIL FROM:<evil@x>\r\n.\r\n", [250, 250, 250, 354, 554]),
    "a lone CR in a content": (BEGUN + b"a\r.\r\n.\r\n", [250, 250, 250, 354, 554]),
    "a NUL in a content": (BEGUN + b"a\0b\r\n.\r\nNOOP\r\n", [250, 250, 250, 354, 554, 250]),
    "a content line too long": (BEGUN + b"x" * LINE_BYTES + b"\r\n.\r\nNOOP\r\n", [250, 250, 250, 354, 554, 250]),
    "a content too large": (
        BEGUN + (b"x" * 900 + b"\r\n") * (CONTENT_BYTES // 900 + 1) + b".\r\nNOOP\r\n",
        [250, 250, 250, 354, 552, 250],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_gets_its_own_answer_and_the_conversation_goes_on(what: str) -> None:
    """The table, each in one piece and byte by byte (the large one in pieces of a thousand): the same codes."""
    said, expected = REFUSED[what]
    assert codes(talk(said)) == expected
    step = 1 if len(said) < 20_000 else 1_000
    assert codes(talk(*(said[start : start + step] for start in range(0, len(said), step)))) == expected


def test_a_longest_line_of_a_content_is_taken() -> None:
    """998 letters and their end, the most that the standard allows: taken whole, with a stuffed dot too."""
    line = b"x" * (LINE_BYTES - 2)
    assert codes(talk(BEGUN + line + b"\r\n.\r\n"))[-1] == "Received"
    assert codes(talk(BEGUN + b"." + b"." * (LINE_BYTES - 2) + b"\r\n.\r\n"))[-1] == "Received"


def test_too_many_bad_commands_end_the_connection() -> None:
    """One less than the limit is answered by 500; the next closes, and nothing after it is heard."""
    events = talk(b"FLY\r\n" * (BAD_COMMANDS + 5) + b"NOOP\r\n")
    assert codes(events) == [500] * (BAD_COMMANDS - 1) + [421, "Closed"]


def test_recipients_are_bounded() -> None:
    """One more than there may be: 452, and the mail goes to the others."""
    more = b"".join(b"RCPT TO:<r%d@x>\r\n" % number for number in range(RECIPIENTS))
    events = talk(ENVELOPE + more + b"DATA\r\n.\r\n")
    assert codes(events)[-3:] == [452, 354, "Received"]
    received = events[-1]
    assert isinstance(received, Received)
    assert len(received.recipients) == RECIPIENTS


@pytest.mark.parametrize(
    ("verb", "expected"),
    [("MAIL", [250, 451, 503, 503]), ("RCPT", [250, 250, 451, 503]), ("DATA", [250, 250, 250, 451])],
)
def test_what_is_to_be_refused_is_refused_and_not_done(verb: str, expected: list[int]) -> None:
    """Each of the three refused: what builds on it is out of order afterwards."""
    events = talk(BEGUN, refusal=lambda asked: reply(451, "no") if asked == verb else None)
    assert codes(events) == expected


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50) | st.sampled_from([BEGUN, b"\r\n.\r\n", b"\r\n", b"." * 1100]), max_size=20))
def test_arbitrary_bytes_never_raise_and_are_not_hoarded(pieces: list[bytes]) -> None:
    """Anything at all: events or none, and no more kept than the longest line."""
    session = Session(host="here", refusal=never)
    for piece in pieces:
        for event in session.receive(piece):
            assert isinstance(event, Reply | Received | Closed)
            if isinstance(event, Closed):
                return
        assert len(session._buffer) <= max(COMMAND_BYTES, LINE_BYTES)


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 500), max_size=8))
def test_it_does_not_matter_in_which_pieces_a_conversation_comes(content: bytes, cuts: list[int]) -> None:
    """A mail of arbitrary bytes, cut anywhere: the same events as in one piece."""
    said = BEGUN + content + b"\r\n.\r\nNOOP\r\n"
    places = [0, *sorted(cuts), len(said)]
    pieces = [said[start:end] for start, end in itertools.pairwise(places)]
    assert talk(*pieces) == talk(said)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60), max_size=20))
def test_dots_come_back_as_they_were(lines: list[str]) -> None:
    """Arbitrary lines, quoted as the standard library's client does it: received as they were."""
    content = "".join(f"{line}\r\n" for line in lines).encode()
    events = talk(BEGUN, smtplib._quote_periods(content) + b".\r\n")  # type: ignore[attr-defined]
    assert events[-1] == Received(sender="s@x.example", recipients=("r@x.example",), content=content)
