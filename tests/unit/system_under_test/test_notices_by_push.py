"""The channel `push` against push services that answer well, badly, late, twice, and not at all."""

import http.client
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import SplitResult, urlsplit

import pytest

from system_under_test.domain import p256
from system_under_test.domain.notices import Plan, push_text
from system_under_test.domain.push import Address, Host
from system_under_test.domain.web_push import Receiver, decrypt, encode64, read_authorization
from system_under_test.services.notifier.channel import SENT, Claim, Outcome, Reason, Result
from system_under_test.services.notifier.line import FAILURES_IN_A_ROW, Line
from system_under_test.services.notifier.push import MESSAGE_ANSWERS, RETRY_AFTER_MOST_S, Push
from tests.unit.system_under_test.dripping import dripping
from tests.unit.system_under_test.push_script import Script, played, status

LONG_S = 30.0
KEY = p256.generate()
DEVICE = p256.generate()
RECEIVER = Receiver(public_key=p256.public_key(DEVICE), auth=b"a" * 16)
NOW = datetime.now(UTC)
PLAN = Plan(
    window=7,
    revision=2,
    kind="planned",
    planned_start=NOW + timedelta(days=3),
    planned_end=NOW + timedelta(days=3, minutes=45),
    reason="new disks",
)


def channel(*, timeout_s: float = LONG_S) -> Push:
    """The channel, which may send to whatever listens on this machine."""
    hosts = (Host(name="127.0.0.1", port=None, below=False),)
    return Push(private_key=KEY, subject="mailto:notices@savings.example", hosts=hosts, timeout_s=timeout_s)


def claim(script: Script, path: str = "/push/abc?x=1") -> Claim:
    """A notice for a device at that service."""
    address = Address(endpoint=f"http://{script.host}{path}", receiver=RECEIVER).written()
    return Claim(id=1, number=1, failures=0, account="c-000001", address=address, plan=PLAN)


def claim_at(endpoint: str) -> Claim:
    """A notice for a device at that endpoint."""
    address = f"{endpoint} {encode64(RECEIVER.public_key)} {encode64(RECEIVER.auth)}"
    return Claim(id=1, number=1, failures=0, account="c-000001", address=address, plan=PLAN)


def sent(answer: bytes | None, *, timeout_s: float = LONG_S) -> tuple[Outcome, Script]:
    """What becomes of a notice that is answered so."""
    with played(answer) as script:
        return channel(timeout_s=timeout_s).connection().send(claim(script)), script


def test_a_message_is_pushed_as_the_standards_want_it() -> None:
    """One POST to the endpoint: the headers of RFC 8030, a token for this service, a body for this device alone."""
    outcome, script = sent(status(201, "Location: /message/1"))
    assert outcome == SENT
    (pushed,) = script.pushed
    assert pushed.line == "POST /push/abc?x=1 HTTP/1.1"
    wanted = {"Content-Encoding": "aes128gcm", "Topic": "window-7", "Urgency": "normal", "Content-Length": "4096"}
    assert wanted.items() <= pushed.headers.items()
    assert timedelta(days=3).total_seconds() < int(pushed.headers["TTL"]) <= timedelta(days=3, hours=1).total_seconds()
    vapid = read_authorization(pushed.headers["Authorization"])
    assert vapid is not None
    assert (vapid.public_key, vapid.audience, vapid.subject) == (
        p256.public_key(KEY),
        f"http://{script.host}",
        "mailto:notices@savings.example",
    )
    assert 0 < vapid.expires_s - NOW.timestamp() <= 24 * 3600
    assert decrypt(pushed.body, private_key=DEVICE, auth=RECEIVER.auth) == push_text(PLAN, account="c-000001")


def test_a_later_plan_has_the_topic_of_the_earlier_one_and_a_name_of_its_own() -> None:
    """Two revisions of a window: one topic, so that a service keeps the newer for a device that is away."""
    with played(status(201), status(201)) as script:
        connection = channel().connection()
        for plan in (PLAN, replace(PLAN, revision=3, kind="cancelled")):
            assert connection.send(replace(claim(script), plan=plan)) == SENT
    assert {pushed.headers["Topic"] for pushed in script.pushed} == {"window-7"}
    assert len({decrypt(pushed.body, private_key=DEVICE, auth=RECEIVER.auth) for pushed in script.pushed}) == 2


@pytest.mark.parametrize(
    ("answer", "result", "reason", "wait_s"),
    [
        (status(202), Result.SENT, None, 0),
        (status(204), Result.SENT, None, 0),
        (status(404), Result.GONE, Reason.GONE, 0),
        (status(410), Result.GONE, Reason.GONE, 0),
        (status(400), Result.ADDRESS_REFUSED, Reason.ADDRESS, 0),
        (status(403), Result.ADDRESS_REFUSED, Reason.ADDRESS, 0),
        (status(413), Result.ADDRESS_REFUSED, Reason.ADDRESS, 0),
        (status(307, "Location: http://127.0.0.1:1/"), Result.ADDRESS_REFUSED, Reason.ADDRESS, 0),
        (status(401), Result.ADDRESS_REFUSED, Reason.ADDRESS, 0),
        (status(451), Result.ADDRESS_REFUSED, Reason.ADDRESS, 0),
        (status(408), Result.REFUSED, Reason.REFUSED, 0),
        (status(429, "Retry-After: 7"), Result.REFUSED, Reason.REFUSED, 7),
        (status(503, "Retry-After: 99999"), Result.REFUSED, Reason.REFUSED, RETRY_AFTER_MOST_S),
        (status(503, "Retry-After: Fri, 31 Dec 2099 23:59:59 GMT"), Result.REFUSED, Reason.REFUSED, 0),
        (status(500), Result.REFUSED, Reason.REFUSED, 0),
        (status(201) * 2, Result.SENT, None, 0),
        (b"", Result.UNKNOWN, Reason.UNANSWERED, 0),
        (b"220 mailbox ESMTP\r\n", Result.UNKNOWN, Reason.UNANSWERED, 0),
        (b"HTTP/1.1 2", Result.UNKNOWN, Reason.UNANSWERED, 0),
    ],
)
def test_each_answer_is_read_for_what_it_says(
    answer: bytes, result: Result, reason: Reason | None, wait_s: float
) -> None:
    """Taken, over, at fault, busy, failed, given twice, no HTTP, none at all: each with what is to be done."""
    outcome, script = sent(answer)
    assert (outcome.result, outcome.reason, outcome.wait_s) == (result, reason, wait_s)
    assert script.connections == 1


def test_an_answer_given_twice_is_never_taken_for_that_of_the_next_message() -> None:
    """201 twice to the first, then 410: the second message gets its own answer, on a connection of its own."""
    with played(status(201) * 2, status(410)) as script:
        connection = channel().connection()
        outcomes = [connection.send(claim(script)).result for _ in range(2)]
    assert outcomes == [Result.SENT, Result.GONE]
    assert script.connections == 2


def test_silence_is_waited_for_and_means_perhaps_sent() -> None:
    """No answer within the limit: the service may have taken it."""
    outcome, _ = sent(None, timeout_s=0.2)
    assert (outcome.result, outcome.reason) == (Result.UNKNOWN, Reason.UNANSWERED)


def test_a_service_that_cannot_be_reached_is_certain_and_left_alone_for_a_moment() -> None:
    """Nobody listens: certainly not sent, and the next message is not even tried."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    push = channel()
    address = Address(endpoint=f"http://127.0.0.1:{port}/a", receiver=RECEIVER).written()
    one = Claim(id=1, number=1, failures=0, account="c-1", address=address, plan=PLAN)
    outcome = push.connection().send(one)
    assert (outcome.result, outcome.reason) == (Result.REFUSED, Reason.UNREACHABLE)
    assert push.resting(f"http://127.0.0.1:{port}") == outcome


class Nowhere(Push):
    """The channel, where the name service has this to say of every host."""

    problem: Exception

    def open(self, service: SplitResult) -> http.client.HTTPConnection:
        """A connection that never comes about."""
        connection = super().open(service)
        connection.connect = self._fail  # type: ignore[method-assign]
        return connection

    def _fail(self) -> None:
        raise self.problem


@pytest.mark.parametrize("problem", [UnicodeError("label too long"), socket.gaierror(socket.EAI_NONAME, "not known")])
def test_a_host_that_cannot_be_is_an_address_that_is_refused(problem: Exception) -> None:
    """A name that the name service cannot have, and one that it does not know: the notice's outcome, and no error."""
    hosts = (Host(name="push.example.net", port=None, below=False),)
    push = Nowhere(private_key=KEY, subject="mailto:a@b", hosts=hosts, timeout_s=LONG_S)
    push.problem = problem
    outcome = push.connection().send(claim_at("https://push.example.net/x"))
    assert (outcome.result, outcome.reason) == (Result.ADDRESS_REFUSED, Reason.ADDRESS)
    with pytest.raises(ValueError, match="label"):
        channel().open(urlsplit(f"http://{'a' * 64}.push.example.net/x")).connect()


def test_a_service_that_fails_again_and_again_is_left_alone_and_others_are_not() -> None:
    """Twenty failures in a row: what comes next is certainly not tried there, while another service takes it."""
    with played(*[status(500)] * FAILURES_IN_A_ROW) as failing, played(status(201)) as other:
        push = channel()
        line = Line(push, threading.Event())
        claims = [claim(failing)] * (FAILURES_IN_A_ROW + 5) + [claim(other)]
        sent_by_line = line.send(claims, until_s=float("inf"))
        line.close()
    assert sent_by_line.problem is None
    results = [outcome.result for _, outcome in sent_by_line.outcomes]
    assert results == [Result.REFUSED] * (FAILURES_IN_A_ROW + 5) + [Result.SENT]
    assert failing.connections == FAILURES_IN_A_ROW


def test_what_is_kept_back_after_unanswered_messages_was_certainly_not_sent() -> None:
    """A service that takes and says nothing, often enough to be left alone: the next one is refused, not unknown."""
    with played(*[b""] * FAILURES_IN_A_ROW) as script:
        connection = channel().connection()
        results = [connection.send(claim(script)).result for _ in range(FAILURES_IN_A_ROW + 1)]
    assert results == [Result.UNKNOWN] * FAILURES_IN_A_ROW + [Result.REFUSED]


def test_an_error_that_nobody_foresaw_is_the_outcome_of_its_notice_alone() -> None:
    """A plan without an end between two good ones: unknown, with the error; the third notice is sent."""
    broken = replace(PLAN, planned_end=None)  # type: ignore[arg-type]
    with played(status(201), status(201)) as script:
        line = Line(channel(), threading.Event())
        sent_by_line = line.send(
            [claim(script), replace(claim(script), plan=broken), claim(script)], until_s=float("inf")
        )
        line.close()
    assert sent_by_line.problem is None
    first, second, third = (outcome for _, outcome in sent_by_line.outcomes)
    assert (first, third) == (SENT, SENT)
    assert (second.result, second.reason) == (Result.UNKNOWN, Reason.UNEXPECTED)
    assert isinstance(second.error, AttributeError)


def test_an_answer_that_drips_holds_nothing_up() -> None:
    """A byte each 50 ms, each well within the timeout: given up after three timeouts, long before its end."""
    with dripping() as port:
        began_s = time.monotonic()
        outcome = channel(timeout_s=0.2).connection().send(claim_at(f"http://127.0.0.1:{port}/a"))
        took_s = time.monotonic() - began_s
    assert (outcome.result, outcome.reason) == (Result.UNKNOWN, Reason.UNANSWERED)
    assert took_s >= MESSAGE_ANSWERS * 0.2


def test_a_service_that_asks_to_be_left_alone_is_and_others_are_not() -> None:
    """429 with Retry-After: the next message there is refused without a connection; one elsewhere is sent."""
    with played(status(429, "Retry-After: 60")) as busy, played(status(201)) as other:
        connection = channel().connection()
        assert connection.send(claim(busy)).wait_s == 60
        assert connection.send(claim(busy)).wait_s == 60
        assert connection.send(claim(other)) == SENT
    assert (busy.connections, other.connections) == (1, 1)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1/a", "https://push.example.net/a", "http://10.0.0.1/a"])
def test_nobody_else_is_sent_to_whatever_the_outbox_says(endpoint: str) -> None:
    """A host or a port that is not in the list, and an address that is none: refused without a connection."""
    push = Push(
        private_key=KEY, subject="mailto:a@b", hosts=(Host(name="127.0.0.1", port=2, below=False),), timeout_s=LONG_S
    )
    for address in (Address(endpoint=endpoint, receiver=RECEIVER).written(), endpoint, f"{endpoint} a b"):
        outcome = push.connection().send(Claim(id=1, number=1, failures=0, account="c-1", address=address, plan=PLAN))
        assert (outcome.result, outcome.reason) == (Result.ADDRESS_REFUSED, Reason.ADDRESS)


def test_who_is_no_longer_subscribed_is_not_sent_to() -> None:
    """An empty address: gone."""
    one = Claim(id=1, number=1, failures=0, account="c-1", address="", plan=PLAN)
    assert channel().connection().send(one).result is Result.GONE


def test_another_thread_can_end_the_waiting() -> None:
    """A message under way to a silent service is hung up: its sender is free at once, and takes no other."""
    with played(None) as script:
        connection = channel().connection()
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(connection.send(claim(script))))
        thread.start()
        assert script.arrived.wait(30)
        connection.abort()
        thread.join(30)
        assert not thread.is_alive()
    assert outcomes[0].result is Result.UNKNOWN
    assert not connection.usable


def test_a_token_is_signed_anew_before_it_ends_and_when_the_clock_is_set_back() -> None:
    """The same within hours; another one half a day later, and when the first one would end too far ahead."""
    push, now_s = channel(), NOW.timestamp()
    first = push.authorization("https://push.example.net", now_s)
    assert push.authorization("https://push.example.net", now_s + 3600) == first
    assert push.authorization("https://other.example.net", now_s) != first
    for at_s in (now_s + 7 * 3600, now_s - 30 * 24 * 3600):
        vapid = read_authorization(push.authorization("https://push.example.net", at_s))
        assert vapid is not None
        assert 6 * 3600 < vapid.expires_s - at_s <= 24 * 3600
