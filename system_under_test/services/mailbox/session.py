"""The receiving side of one SMTP connection, without the connection: bytes in, events out (a subset of RFC 5321).

    greeting -> EHLO/HELO -> MAIL -> RCPT... -> DATA -> content -> Received -> MAIL ...

Nothing that comes in raises, and no more of it is kept than the limits allow.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

COMMAND_BYTES: Final = 1_024
LINE_BYTES: Final = 1_000
"""The longest line of a content that RFC 5321 allows, its end included."""
CONTENT_BYTES: Final = 1_048_576
RECIPIENTS: Final = 100
BAD_COMMANDS: Final = 20
"""So many that nothing could be made of, and the connection is given up."""
_END: Final = b"\r\n"
_ADDRESS: Final = re.compile(r"<(?P<address>[^<>\s]{0,254})>(?P<options>( [!-~]+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply of one or more lines."""

    code: int
    lines: tuple[str, ...]

    def encode(self) -> bytes:
        """The reply as it is sent."""
        *first, last = self.lines
        return "".join((*(f"{self.code}-{line}\r\n" for line in first), f"{self.code} {last}\r\n")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A mail that came in whole; it is the sender's until a reply has taken it over."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The connection is to be closed."""


Event = Reply | Received | Closed
Refusal = Callable[[str], Reply | None]
"""What a command is refused with, by its verb; None where it is not."""


def reply(code: int, *lines: str) -> Reply:
    """A reply of these lines."""
    return Reply(code=code, lines=lines)


class Session:
    """One connection's conversation. Feed it what comes in; `refusal` is asked before MAIL, RCPT and DATA are done."""

    def __init__(self, *, host: str, refusal: Refusal) -> None:
        self._host = host
        self._refusal = refusal
        self._buffer = bytearray()
        self._skipping = False
        """Inside of a command line that is too long."""
        self._bad = 0
        self._greeted = False
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._content: _Content | None = None
        self._closed = False

    def receive(self, data: bytes) -> Iterator[Event]:
        """The events of `data` and of what was left before it, each made when it is asked for."""
        self._buffer += data
        while not self._closed:
            if self._content is not None:
                yield from self._read_content(self._content)
                if self._content is not None:
                    return
            line = self._take_line()
            if line is None:
                if len(self._buffer) <= COMMAND_BYTES:
                    return
                self._skipping = True
                # A line's end may be in two pieces.
                del self._buffer[:-1]
            elif self._skipping or len(line) + len(_END) > COMMAND_BYTES:
                self._skipping = False
                yield from self._do_bad(reply(500, "5.5.6 line too long"))
            else:
                yield from self._do(line)

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(_END)
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + len(_END)]
        return line

    def _do(self, line: bytes) -> Iterator[Event]:
        if not line.isascii() or any(byte < 32 for byte in line):
            yield from self._do_bad(reply(500, "5.5.2 commands are printable ASCII"))
            return
        verb, _, argument = line.decode("ascii").partition(" ")
        match verb.upper():
            case "EHLO" | "HELO":
                yield self._greet(verb.upper(), argument.strip())
            case "MAIL":
                yield self._mail(argument.strip())
            case "RCPT":
                yield self._recipient(argument.strip())
            case "DATA":
                yield self._data(argument)
            case "RSET":
                self._reset()
                yield reply(250, "2.0.0 forgotten")
            case "NOOP":
                yield reply(250, "2.0.0 nothing done")
            case "QUIT":
                self._closed = True
                yield reply(221, f"2.0.0 {self._host} closes the connection")
                yield Closed()
            case _:
                yield from self._do_bad(reply(500, "5.5.2 command not known"))

    def _do_bad(self, refused: Reply) -> Iterator[Event]:
        self._bad += 1
        if self._bad < BAD_COMMANDS:
            yield refused
            return
        self._closed = True
        yield reply(421, f"4.7.0 {self._host} closes the connection: too many bad commands")
        yield Closed()

    def _greet(self, verb: str, name: str) -> Reply:
        if not name:
            return reply(501, f"5.5.4 expected {verb} and a name")
        self._reset()
        self._greeted = True
        if verb == "HELO":
            return reply(250, self._host)
        return reply(250, self._host, f"SIZE {CONTENT_BYTES}", "8BITMIME", "PIPELINING", "ENHANCEDSTATUSCODES")

    def _mail(self, argument: str) -> Reply:
        if not self._greeted:
            return reply(503, "5.5.1 EHLO first")
        if self._sender is not None:
            return reply(503, "5.5.1 there is a mail under way: RSET first")
        match = _ADDRESS.fullmatch(argument[5:].lstrip()) if argument[:5].upper() == "FROM:" else None
        if match is None:
            return reply(501, "5.5.4 expected MAIL FROM:<address>")
        for option in match["options"].split():
            refused = _option_problem(option.upper())
            if refused is not None:
                return refused
        if (refused := self._refusal("MAIL")) is not None:
            return refused
        self._sender = match["address"]
        return reply(250, "2.1.0 sender taken")

    def _recipient(self, argument: str) -> Reply:
        if self._sender is None:
            return reply(503, "5.5.1 MAIL first")
        match = _ADDRESS.fullmatch(argument[3:].lstrip()) if argument[:3].upper() == "TO:" else None
        if match is None or not match["address"]:
            return reply(501, "5.5.4 expected RCPT TO:<address>")
        if match["options"]:
            return reply(555, "5.5.4 options of RCPT are not known")
        if len(self._recipients) >= RECIPIENTS:
            return reply(452, f"4.5.3 no more than {RECIPIENTS} recipients")
        if (refused := self._refusal("RCPT")) is not None:
            return refused
        self._recipients.append(match["address"])
        return reply(250, "2.1.5 recipient taken")

    def _data(self, argument: str) -> Reply:
        if argument.strip():
            return reply(501, "5.5.4 DATA has no arguments")
        if not self._recipients:
            return reply(503, "5.5.1 RCPT first")
        if (refused := self._refusal("DATA")) is not None:
            self._reset()
            return refused
        self._content = _Content()
        return reply(354, "end with <CR><LF>.<CR><LF>")

    def _read_content(self, content: "_Content") -> Iterator[Event]:
        if not content.read(self._buffer):
            return
        sender, recipients = self._sender or "", tuple(self._recipients)
        self._content = None
        self._reset()
        if content.problem is not None:
            yield content.problem
        else:
            yield Received(sender=sender, recipients=recipients, content=bytes(content.text))

    def _reset(self) -> None:
        self._sender = None
        self._recipients = []


class _Content:
    """A content as it comes in, dots unstuffed; what is wrong with it is said at its end, when its sender listens."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.problem: Reply | None = None
        self._in_long_line = False

    def read(self, buffer: bytearray) -> bool:
        """Takes whole lines off `buffer`; whether the content has ended."""
        start = 0
        while (end := buffer.find(_END, start)) >= 0:
            line = bytes(buffer[start:end])
            start = end + len(_END)
            if line == b"." and not self._in_long_line:
                del buffer[:start]
                return True
            self._add(line)
        del buffer[:start]
        if len(buffer) > LINE_BYTES:
            self._fail(reply(554, f"5.6.0 a line is longer than {LINE_BYTES} bytes"))
            self._in_long_line = True
            # A line's end may be in two pieces.
            del buffer[:-1]
        return False

    def _add(self, line: bytes) -> None:
        if self._in_long_line or len(line) + len(_END) > LINE_BYTES + 1:  # a stuffed dot is not counted
            self._fail(reply(554, f"5.6.0 a line is longer than {LINE_BYTES} bytes"))
        # A lone CR or LF means a line's end to some and nothing to others: a second mail could hide behind it.
        elif b"\r" in line or b"\n" in line or b"\0" in line:
            self._fail(reply(554, "5.6.0 a lone CR or LF, or a NUL"))
        elif len(self.text) + len(line) > CONTENT_BYTES:
            self._fail(reply(552, f"5.3.4 larger than {CONTENT_BYTES} bytes"))
        if self.problem is None:
            self.text += line[1:] if line[:1] == b"." else line
            self.text += _END
        self._in_long_line = False

    def _fail(self, problem: Reply) -> None:
        self.problem = self.problem or problem
        self.text.clear()


def _option_problem(option: str) -> Reply | None:
    name, _, value = option.partition("=")
    if name == "BODY" and value in {"7BIT", "8BITMIME"}:
        return None
    # Twenty digits are what RFC 1870 allows.
    if name == "SIZE" and value.isdecimal() and len(value) <= 20:
        return reply(552, f"5.3.4 larger than {CONTENT_BYTES} bytes") if int(value) > CONTENT_BYTES else None
    return reply(555, "5.5.4 expected no options but BODY=7BIT, BODY=8BITMIME and SIZE=bytes")
