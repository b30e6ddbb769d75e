"""A notice as a mail, and what becomes of it at a provider that says, or leaves unsaid, anything at all."""

import email.parser
import email.policy
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system_under_test.domain.notices import Plan, compose
from system_under_test.services.notifier.channel import Claim, Outcome, ProviderError, Reason, Result
from system_under_test.services.notifier.email import Email, EmailConnection, render
from system_under_test.services.notifier.line import FAILURES_IN_A_ROW, Line
from tests.unit.system_under_test.dripping import dripping
from tests.unit.system_under_test.smtp_script import CLOSE, GOOD, SILENCE, Script, scripted

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PLAN = Plan(window=7, revision=2, kind="planned", planned_start=NOW, planned_end=NOW, reason="new disks")
CLAIM = Claim(id=1, number=1, failures=0, account="c-000001", address="a.saver@savings.example", plan=PLAN)
LONG_S = 5.0
SHORT_S = 0.2
HELLO, (MAIL, RCPT, DATA, TAKEN) = GOOD[:2], GOOD[2:]


def channel(script: Script, *, timeout_s: float = LONG_S) -> Email:
    """The channel to that server."""
    return Email(host="127.0.0.1", port=script.port, sender="notices@savings.example", timeout_s=timeout_s)


@contextmanager
def connected(script: Script, *, timeout_s: float = LONG_S) -> Iterator[EmailConnection]:
    """An open connection to that server, in the end hung up and closed."""
    connection = channel(script, timeout_s=timeout_s).connection()
    try:
        connection.open()
        yield connection
    finally:
        connection.abort()
        connection.close()


@settings(deadline=None)
@given(reason=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_mail_says_to_everybody_what_was_composed(reason: str) -> None:
    """Any reason: parsed back, the mail has each header once, and subject and body are those that were composed."""
    plan = replace(PLAN, reason=reason)
    content = render(replace(CLAIM, plan=plan), sender="notices@savings.example", domain="savings.example", now=NOW)
    assert content.isascii()
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert all(len(line) <= 998 for line in content.split(b"\r\n"))
    parsed = email.parser.BytesParser(policy=email.policy.default).parsebytes(content)
    assert parsed["To"] == "a.saver@savings.example"
    assert parsed["From"] == "notices@savings.example"
    assert parsed["Message-ID"] == "<window-7.revision-2.c-000001.email@savings.example>"
    assert parsed["Date"].datetime == NOW
    assert len(parsed.keys()) == len(set(parsed.keys()))
    text = compose(plan)
    assert parsed["Subject"] == text.subject
    assert parsed.get_content().replace("\r\n", "\n") == text.body


@pytest.mark.parametrize(
    "address",
    [
        *("", "nobody", "a@", "@b", "a b@x", "a@b>", "<a@b", "grüße@x.example", "a@x.example\r\nBcc: b@x.example"),
        *("a@x.example\n", "a\0@x.example", "a" * 300 + "@x.example", "a@[127.0.0.1]"),
    ],
)
def test_an_address_that_could_break_the_mail_is_never_sent_to(address: str) -> None:
    """Addresses that are none, or would end a header or a command: refused before a word is said."""
    with scripted(HELLO) as script, connected(script) as connection:
        outcome = connection.send(replace(CLAIM, address=address))
    assert (outcome.result, outcome.reason) == (Result.ADDRESS_REFUSED, Reason.ADDRESS)
    assert script.heard == [["ehlo"]]


ANSWERS: dict[str, tuple[tuple[str, ...], Result, Reason | None, bool]] = {
    "taken": ((MAIL, RCPT, DATA, TAKEN), Result.SENT, None, True),
    "the sender is refused": (("451 later",), Result.REFUSED, Reason.REFUSED, False),
    "the recipient is refused for now": ((MAIL, "451 later", "250 reset"), Result.REFUSED, Reason.REFUSED, True),
    "the recipient is refused for good": (
        (MAIL, "550 unknown", "250 reset"),
        Result.ADDRESS_REFUSED,
        Reason.ADDRESS,
        True,
    ),
    "the recipient is refused with a goodbye": ((MAIL, "421 bye"), Result.REFUSED, Reason.REFUSED, False),
    "the command DATA is refused": ((MAIL, RCPT, "451 later"), Result.REFUSED, Reason.REFUSED, False),
    "the content is refused": ((MAIL, RCPT, DATA, "554 spam"), Result.REFUSED, Reason.REFUSED, True),
    "the content is refused with a goodbye": ((MAIL, RCPT, DATA, "421 bye"), Result.REFUSED, Reason.REFUSED, False),
    "gone at MAIL": ((CLOSE,), Result.REFUSED, Reason.LOST, False),
    "gone at RCPT": ((MAIL, CLOSE), Result.REFUSED, Reason.LOST, False),
    "gone at DATA": ((MAIL, RCPT, CLOSE), Result.UNKNOWN, Reason.UNANSWERED, False),
    "gone after the content": ((MAIL, RCPT, DATA, CLOSE), Result.UNKNOWN, Reason.UNANSWERED, False),
    "silent at MAIL": ((SILENCE,), Result.REFUSED, Reason.LOST, False),
    "silent after the content": ((MAIL, RCPT, DATA, SILENCE), Result.UNKNOWN, Reason.UNANSWERED, False),
    "MAIL answered twice": ((f"{MAIL}|{MAIL}", RCPT, DATA), Result.REFUSED, Reason.REFUSED, False),
    "no SMTP at all": (("HTTP/1.1 400 Bad Request",), Result.REFUSED, Reason.REFUSED, False),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_every_answer_says_whether_the_notice_may_have_been_sent(what: str) -> None:
    """A server that answers so: certainly sent, certainly not, or perhaps; and whether the connection can go on."""
    answers, result, reason, usable = ANSWERS[what]
    timeout_s = SHORT_S if SILENCE in answers else LONG_S
    with scripted((*HELLO, *answers)) as script, connected(script, timeout_s=timeout_s) as connection:
        outcome = connection.send(CLAIM)
        assert (outcome.result, outcome.reason, connection.usable) == (result, reason, usable)


def test_an_answer_given_twice_never_counts_for_the_next_notice() -> None:
    """The first mail is said to be taken, twice: the second is certainly not sent, the connection given up."""
    second = replace(CLAIM, id=2, account="c-000002")
    answers = (*HELLO, MAIL, RCPT, DATA, f"{TAKEN}|{TAKEN}", MAIL, RCPT, DATA)
    with scripted(answers) as script, connected(script) as connection:
        assert connection.send(CLAIM).result is Result.SENT
        assert connection.send(second).result is Result.REFUSED
        assert not connection.usable
    assert len(script.contents) == 1


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (("421 too many",), Reason.REFUSED),
        (("220 here", "502 what", "502 what"), Reason.REFUSED),
        ((CLOSE,), Reason.UNREACHABLE),
        (("220 here", CLOSE), Reason.UNREACHABLE),
        ((SILENCE,), Reason.UNREACHABLE),
    ],
)
def test_a_provider_that_does_not_want_to_talk_is_told_from_one_that_is_away(
    answers: tuple[str, ...], reason: Reason
) -> None:
    """Each way not to be greeted: an error with its reason, and no socket is left open."""
    timeout_s = SHORT_S if SILENCE in answers else LONG_S
    with (
        scripted(answers) as script,
        pytest.raises(ProviderError) as caught,
        connected(script, timeout_s=timeout_s) as connection,
    ):
        assert not connection.usable, "never reached"
    assert caught.value.reason is reason


def test_a_greeting_that_drips_holds_nothing_up() -> None:
    """A byte each 50 ms, each well within the timeout: given up after two timeouts, as a provider that is away."""
    with dripping(b"220 ") as port:
        connection = Email(host="127.0.0.1", port=port, sender="a@b.example", timeout_s=0.2).connection()
        with pytest.raises(ProviderError) as caught:
            connection.open()
        connection.close()
    assert caught.value.reason is Reason.UNREACHABLE


def test_a_server_whose_name_cannot_be_is_a_provider_that_fails() -> None:
    """A label of 64 characters: an error with a reason, as for any other provider, and not the process's end."""
    nobody = Email(host=f"{'a' * 64}.example", port=25, sender="a@b.example", timeout_s=LONG_S)
    with pytest.raises(ProviderError, match="label") as caught:
        Line(nobody, threading.Event()).connect()
    assert caught.value.reason is Reason.UNEXPECTED


def test_a_reply_to_a_mail_that_drips_holds_nothing_up() -> None:
    """Greeted at once, and a byte each 50 ms after that: given up after three timeouts, certainly not sent."""
    with dripping(b"220 here\r\n250 here\r\n250 ") as port:
        connection = Email(host="127.0.0.1", port=port, sender="a@b.example", timeout_s=0.2).connection()
        connection.open()
        outcome = connection.send(CLAIM)
        connection.close()
    assert (outcome.result, outcome.reason) == (Result.REFUSED, Reason.LOST)


def send(script: Script, count: int, *, until_s: float = float("inf")) -> tuple[list[Result], ProviderError | None]:
    """Sends that many claims on one line: what became of each, and what the provider had against it."""
    claims = [replace(CLAIM, id=number, account=f"c-{number}") for number in range(count)]
    line = Line(channel(script), threading.Event())
    line.connect()
    sent = line.send(claims, until_s=until_s)
    line.hang_up()
    line.close()
    assert [claim for claim, _ in sent.outcomes] == claims
    return [outcome.result for _, outcome in sent.outcomes], sent.problem


ONE = (MAIL, RCPT, DATA, TAKEN)


def test_a_connection_that_had_worked_is_replaced_within_the_batch() -> None:
    """Lost after the second content: that one is unknown, and the third goes out on a second connection."""
    with scripted((*HELLO, *ONE, MAIL, RCPT, DATA, CLOSE), (*HELLO, *ONE)) as script:
        results, problem = send(script, 3)
    assert results == [Result.SENT, Result.UNKNOWN, Result.SENT]
    assert problem is None
    assert [len(heard) for heard in script.heard] == [9, 5]


def test_a_connection_that_never_worked_ends_the_batch() -> None:
    """Lost at the first mail: the others are not tried, and there is no second connection."""
    with scripted((*HELLO, CLOSE), (*HELLO, *ONE)) as script:
        results, problem = send(script, 3)
    assert results == [Result.REFUSED, Result.NOT_TRIED, Result.NOT_TRIED]
    assert problem is not None
    assert problem.reason is Reason.LOST
    assert len(script.heard) == 1


def test_a_provider_that_refuses_everything_is_left_alone() -> None:
    """More mails than it may refuse in a row: the rest is not tried."""
    refusal = (MAIL, "451 later", "250 reset")
    with scripted((*HELLO, *refusal * (FAILURES_IN_A_ROW + 5))) as script:
        results, problem = send(script, FAILURES_IN_A_ROW + 5)
    assert results == [Result.REFUSED] * FAILURES_IN_A_ROW + [Result.NOT_TRIED] * 5
    assert problem is not None
    assert problem.reason is Reason.REFUSED


def test_no_notice_is_begun_when_its_claim_has_run_out() -> None:
    """A batch whose time is over: nothing is said about any of it."""
    with scripted(HELLO) as script:
        results, problem = send(script, 3, until_s=time.monotonic())
    assert (results, problem) == ([Result.NOT_TRIED] * 3, None)
    assert script.heard == [["ehlo"]]


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        ((SILENCE,), None),
        (("220 here", SILENCE), None),
        ((*HELLO, SILENCE), Result.REFUSED),
        ((*HELLO, MAIL, RCPT, DATA, SILENCE), Result.UNKNOWN),
    ],
)
def test_hanging_up_ends_any_wait_for_an_answer(answers: tuple[str, ...], result: Result | None) -> None:
    """A server that falls silent at one point, and a minute's patience: hung up, the try ends at once and says how."""
    with scripted(answers) as script:
        connection = channel(script, timeout_s=60).connection()
        outcomes: list[Outcome | None] = []

        def work() -> None:
            try:
                connection.open()
                outcomes.append(connection.send(CLAIM))
            except ProviderError:
                outcomes.append(None)

        thread = threading.Thread(target=work)
        thread.start()
        while not script.silent.wait(0.01):
            assert thread.is_alive()
        connection.abort()
        thread.join(10)
        connection.close()
    assert [outcome and outcome.result for outcome in outcomes] == [result]
