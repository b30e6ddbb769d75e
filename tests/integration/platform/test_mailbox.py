"""The mailbox as a process: it takes mail from real clients, and nothing that comes in over its ports can hurt it."""

import http.client
import json
import random
import signal
import smtplib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.platform.stage import Process, Stage, await_true, free_port, get

SENDER, RECIPIENT = "notices@savings.example", "saver@savings.example"


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A mailbox for all tests here."""
    stage = Stage(folder=tmp_path_factory.mktemp("mailbox"))
    try:
        process = stage.add("mailbox", "mailbox", HOLDFAST_PORT_SMTP=str(free_port()))
        await_true(lambda: process.answers("/readyz"), "the mailbox is ready")
        yield process
    finally:
        stage.close()


def smtp_port(mailbox: Process) -> int:
    """Where it takes mail."""
    return int(mailbox.environment["HOLDFAST_PORT_SMTP"])


def client(mailbox: Process) -> smtplib.SMTP:
    """The standard library's client, connected."""
    return smtplib.SMTP("127.0.0.1", smtp_port(mailbox), local_hostname="test", timeout=5)


def received(mailbox: Process, recipient: str = RECIPIENT) -> dict[str, Any]:
    """What has arrived for somebody."""
    status, body = get(mailbox.port, f"/mails?recipient={recipient}")
    assert status == 200
    answer: dict[str, Any] = json.loads(body)
    return answer


def request(mailbox: Process, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """One HTTP request; its answer as JSON where it is."""
    connection = http.client.HTTPConnection("127.0.0.1", mailbox.port, timeout=5)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if "json" in response.headers["Content-Type"] else content
    finally:
        connection.close()


def takes_mail(mailbox: Process, name: str) -> bool:
    """Whether a mail sent now is there afterwards."""
    with client(mailbox) as smtp:
        smtp.sendmail(SENDER, RECIPIENT, f"Message-ID: <{name}@test>\r\nSubject: {name}\r\n\r\n..\r\n.\r\n")
    return any(mail["subject"] == name for mail in received(mailbox)["mails"])


def test_a_real_client_gets_its_mail_taken_once(mailbox: Process) -> None:
    """The standard library's client sends the same mail twice, to two people: one effective each, two duplicates."""
    with client(mailbox) as smtp:
        for _ in range(2):
            refused = smtp.sendmail(
                SENDER, ["a@savings.example", "b@savings.example"], "Message-ID: <1@test>\r\nSubject: x\r\n\r\nx\r\n"
            )
            assert refused == {}
        assert smtp.has_extn("8bitmime")
        assert smtp.has_extn("size")
    answer = received(mailbox, "a@savings.example")
    assert [mail["message_id"] for mail in answer["mails"]] == ["<1@test>"]
    assert answer["duplicates"] == 2
    assert answer["received"] == answer["effective"] + answer["duplicates"]


def test_it_reports_where_mail_is_to_be_sent(mailbox: Process) -> None:
    """The ready file, once it is ready: the address that a notifier is given."""
    assert mailbox.outputs() == {
        "smtp_url": f"smtp://127.0.0.1:{smtp_port(mailbox)}",
        "push_url": f"http://127.0.0.1:{mailbox.port}",
        "push_host": f"127.0.0.1:{mailbox.port}",
    }


NOISE: dict[str, bytes] = {
    "binary": random.Random(1).randbytes(300_000),  # noqa: S311 - noise that is the same each time
    "zeros": bytes(100_000),
    "an endless line": b"x" * 500_000,
    "an endless line in a content": b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + b"x" * 500_000,
    "unknown commands": b"FLY\r\n" * 1_000,
    "line ends": b"\r\n" * 50_000,
    "lone line ends": b"\n\r\n\n\r" * 20_000,
    "a web request": b"POST /mails HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "half a mail": b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: half\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("what", NOISE)
def test_noise_is_survived_and_leaves_nothing_behind(mailbox: Process, what: str) -> None:
    """Sends the noise and goes away in mid-sentence: nothing is kept of it, and the next mail is taken."""
    before = received(mailbox)["received"]
    with socket.create_connection(("127.0.0.1", smtp_port(mailbox)), timeout=5) as noisy:
        try:
            noisy.sendall(NOISE[what])
        except ConnectionError:
            assert what in {"binary", "unknown commands", "line ends", "lone line ends"}, (
                "these are too many bad commands"
            )
    assert takes_mail(mailbox, f"after {what}")
    assert received(mailbox)["received"] == before + 1


def test_too_many_bad_commands_get_a_last_word(mailbox: Process) -> None:
    """A hundred unknown commands: refusals, a 421, and the connection is closed."""
    with socket.create_connection(("127.0.0.1", smtp_port(mailbox)), timeout=5) as noisy:
        for _ in range(20):
            noisy.sendall(b"FLY\r\n")
        replies = noisy.makefile("rb").read().decode().splitlines()
    assert [reply[:3] for reply in replies] == ["220", *["500"] * 19, "421"]


def test_connections_are_bounded_and_come_back(mailbox: Process) -> None:
    """210 connections at once: the last are turned away with 421; when they are gone, mail is taken again."""
    connections = [socket.create_connection(("127.0.0.1", smtp_port(mailbox)), timeout=5) for _ in range(210)]
    try:
        greetings = [connection.recv(3) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    assert greetings.count(b"220") == 200
    assert greetings.count(b"421") == 10
    await_true(lambda: b"savings_mailbox_connections 0.0" in get(mailbox.port, "/metrics")[1], "all have gone")
    assert takes_mail(mailbox, "after the crowd")


def test_what_was_answered_for_survives_a_kill(mailbox: Process) -> None:
    """SIGKILL right after an answer, and a new start: the mail is there, and known when it comes again."""
    assert takes_mail(mailbox, "before the kill")
    mailbox.end(signal.SIGKILL)
    mailbox.start()
    await_true(lambda: mailbox.answers("/readyz"), "the mailbox is back")
    before = received(mailbox)
    assert takes_mail(mailbox, "before the kill")
    after = received(mailbox)
    assert (after["effective"], after["duplicates"]) == (before["effective"], before["duplicates"] + 1)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b'{"refuse": "everything"}', "refuse"),
        (b'{"code": 200}', "code"),
        (b'{"code": "451"}', "code"),
        (b'{"delay_s": -1}', "delay_s"),
        (b'{"delay_s": 1e9}', "delay_s"),
        (b'{"delay_s": NaN}', "delay_s"),
        (b'{"every": 0}', "every"),
        (b'{"drop_after_data": "yes"}', "drop_after_data"),
        (b'{"slow": 1}', "slow"),
    ],
)
def test_a_behaviour_that_makes_no_sense_is_refused_whole(mailbox: Process, body: bytes, field: str) -> None:
    """Each: 400 with the field and the reason; the behaviour in force stays."""
    assert request(mailbox, "POST", "/behaviour", b'{"every": 3}')[0] == 200
    status, answer = request(mailbox, "POST", "/behaviour", body)
    assert status == 400
    assert [problem["field"] for problem in answer["problems"]] == [field]
    assert request(mailbox, "GET", "/behaviour")[1]["every"] == 3
    assert request(mailbox, "POST", "/behaviour", b"{}")[1] == {
        "refuse": None,
        "code": 451,
        "delay_s": 0.0,
        "drop_after_data": False,
        "answer_twice": False,
        "every": 1,
    }


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/mails?limit=-1", 400),
        ("GET", "/mails?limit=many", 400),
        ("GET", "/mails?recipient=", 400),
        ("GET", "/mails?sender=x", 400),
        ("GET", "/mail", 404),
        ("DELETE", "/mails", 405),
        ("PUT", "/behaviour", 405),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(mailbox: Process, method: str, path: str, expected: int) -> None:
    """Each gets its own status."""
    assert request(mailbox, method, path)[0] == expected


def test_a_body_too_large_is_refused(mailbox: Process) -> None:
    """A behaviour of 10,000 bytes: 413."""
    assert request(mailbox, "POST", "/behaviour", b" " * 10_000)[0] == 413


@pytest.mark.parametrize("port", ["HOLDFAST_PORT", "HOLDFAST_PORT_SMTP"])
def test_a_port_in_use_ends_the_start_with_a_reason(mailbox: Process, stage: Stage, port: str) -> None:
    """Each of the two ports taken by the shared mailbox: exit code 1, the port named, no traceback."""
    given = {"HOLDFAST_PORT_SMTP": str(free_port())} | {port: str(mailbox.port)}
    second = stage.add("second", "mailbox", **given)
    assert second.running is not None
    assert second.running.wait(60) == 1
    log = second.log.read_text(encoding="utf-8")
    assert f"mailbox: cannot listen on 127.0.0.1:{mailbox.port}" in log
    assert "Traceback" not in log


def test_it_ends_when_told_to(stage: Stage) -> None:
    """SIGTERM with a client in the middle of a mail: exit code 0, and the client is not left waiting."""
    process = stage.add("ending", "mailbox", HOLDFAST_PORT_SMTP=str(free_port()))
    await_true(lambda: process.answers("/readyz"), "the mailbox is ready")
    with client(process) as smtp:
        smtp.ehlo()
        assert smtp.mail(SENDER)[0] == 250
        assert process.end() == 0
        with pytest.raises(smtplib.SMTPServerDisconnected):
            smtp.rcpt(RECIPIENT)
