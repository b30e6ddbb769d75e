"""JSON as Go's decoder reads it, with its error texts, and as its encoder writes it.

Clients of the original compare these texts. Only the first value of a body is read, keys match in any case, and
numbers keep their text, since `100.0` is no integer there.
"""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS: Final = re.compile(rb"[0-9]*")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_ESCAPES: Final = frozenset(b'bfnrt\\/"')
_LITERALS: Final[dict[int, tuple[bytes, bool | None]]] = {
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
    ord("n"): (b"null", None),
}
_DEEPEST: Final = 10_000
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_UNSAFE: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNSAFE_ANY: Final = re.compile("[<>&\u2028\u2029]")


class JsonError(Exception):
    """A text that is no JSON, or not of the wanted shape; the message is Go's."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    text: str


@dataclass(frozen=True, slots=True)
class Object:
    """Members in the order in which they were written; a key may come twice."""

    members: tuple[tuple[str, "Value"], ...]


Value = Object | list["Value"] | str | Number | bool | None


def parse(data: bytes) -> Value:
    """The first value of a text.

    Raises:
        JsonError: there is none, or none that is whole.
    """
    return _Scanner(data).value()


class _Scanner:
    """Reads one value without recursion, so that nothing nested can exhaust the stack."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._containers: list[list[Value] | list[tuple[str, Value]]] = []
        self._keys: list[str | None] = []  # of the member that is read, per container; None in an array

    def value(self) -> Value:
        if not self._data.strip(b" \t\r\n"):
            raise JsonError("EOF")
        while True:
            opened, value = self._begin_value()
            if opened:
                continue
            while True:
                if not self._containers:
                    return value
                closed = self._after(value)
                if closed is None:
                    break
                value = closed

    def _begin_value(self) -> tuple[bool, Value]:
        """Reads a scalar or an empty container, or opens a container (True)."""
        byte = self._next("looking for beginning of value")
        if byte == ord("{"):
            self._open([], "")
            if self._peek() == ord("}"):
                self._at += 1
                return False, self._close()
            self._key()
            return True, None
        if byte == ord("["):
            self._open([], None)
            if self._peek() == ord("]"):
                self._at += 1
                return False, self._close()
            return True, None
        return False, self._scalar(byte)

    def _open(self, container: "list[Value] | list[tuple[str, Value]]", key: str | None) -> None:
        if len(self._containers) >= _DEEPEST:
            raise JsonError("exceeded max depth")
        self._containers.append(container)
        self._keys.append(key)

    def _close(self) -> Value:
        members, key = self._containers.pop(), self._keys.pop()
        return members if key is None else Object(tuple(members))  # type: ignore[arg-type,return-value]

    def _after(self, value: Value) -> Value:
        """Puts a value into its container; the container if that is whole now, else None."""
        key = self._keys[-1]
        self._containers[-1].append(value if key is None else (key, value))  # type: ignore[arg-type]
        context = "after array element" if key is None else "after object key:value pair"
        byte = self._next(context)
        if byte == (ord("]") if key is None else ord("}")):
            return self._close()
        if byte != ord(","):
            raise _invalid(byte, context)
        if key is not None:
            self._key()
        return None

    def _key(self) -> None:
        context = "looking for beginning of object key string"
        byte = self._next(context)
        if byte != ord('"'):
            raise _invalid(byte, context)
        self._keys[-1] = self._string()
        byte = self._next("after object key")
        if byte != ord(":"):
            raise _invalid(byte, "after object key")

    def _scalar(self, byte: int) -> Value:
        if byte == ord('"'):
            return self._string()
        if byte in _LITERALS:
            text, value = _LITERALS[byte]
            for wanted in text[1:]:
                found = self._take()
                if found != wanted:
                    raise _invalid(found, f"in literal {text.decode()} (expecting {_quoted(wanted)})")
            return value
        if byte == ord("-") or chr(byte).isdecimal():
            return self._number(byte)
        raise _invalid(byte, "looking for beginning of value")

    def _string(self) -> str:
        start = self._at
        while True:
            self._at = _end(_PLAIN, self._data, self._at)
            byte = self._take()
            if byte == ord('"'):
                return _unquoted(self._data[start : self._at - 1])
            if byte != ord("\\"):
                raise _invalid(byte, "in string literal")
            byte = self._take()
            if byte == ord("u"):
                for _ in range(4):
                    byte = self._take()
                    if byte not in _HEX:
                        raise _invalid(byte, "in \\u hexadecimal character escape")
            elif byte not in _ESCAPES:
                raise _invalid(byte, "in string escape code")

    def _number(self, byte: int) -> Number:
        start = self._at - 1
        if byte == ord("-"):
            byte = self._digit("in numeric literal")
        if byte != ord("0"):
            self._at = _end(_DIGITS, self._data, self._at)
        if self._here() == ord("."):
            self._at += 1
            self._digit("after decimal point in numeric literal")
            self._at = _end(_DIGITS, self._data, self._at)
        if self._here() in {ord("e"), ord("E")}:
            self._at += 1
            if self._here() in {ord("+"), ord("-")}:
                self._at += 1
            self._digit("in exponent of numeric literal")
            self._at = _end(_DIGITS, self._data, self._at)
        return Number(self._data[start : self._at].decode())

    def _digit(self, context: str) -> int:
        byte = self._take()
        if not ord("0") <= byte <= ord("9"):
            raise _invalid(byte, context)
        return byte

    def _next(self, context: str) -> int:
        del context
        self._at = _end(_SPACE, self._data, self._at)
        return self._take()

    def _peek(self) -> int | None:
        self._at = _end(_SPACE, self._data, self._at)
        return self._here()

    def _here(self) -> int | None:
        return self._data[self._at] if self._at < len(self._data) else None

    def _take(self) -> int:
        if self._at >= len(self._data):
            raise JsonError("unexpected EOF")
        self._at += 1
        return self._data[self._at - 1]


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    match = pattern.match(data, at)
    return match.end() if match else at


def _invalid(byte: int, context: str) -> JsonError:
    return JsonError(f"invalid character {_quoted(byte)} {context}")


def _quoted(byte: int) -> str:
    special = {"'": "'\\''", '"': "'\"'", "\\": "'\\\\'", "\a": "'\\a'", "\v": "'\\v'"}
    controls = {"\b": "'\\b'", "\f": "'\\f'", "\n": "'\\n'", "\r": "'\\r'", "\t": "'\\t'"}
    character = chr(byte)
    known = (special | controls).get(character)
    if known is not None:
        return known
    if character.isprintable():
        return f"'{character}'"
    return f"'\\x{byte:02x}'" if byte < 0x80 else f"'\\u{byte:04x}'"


def _unquoted(raw: bytes) -> str:
    text = raw.decode(errors="replace")
    if "\\" in text:
        text = _SURROGATE.sub("\ufffd", json.loads(f'"{text}"'))
    return text


def kind(value: Value) -> str:
    """What Go calls a value."""
    match value:
        case Object():
            return "object"
        case list():
            return "array"
        case str():
            return "string"
        case bool():
            return "bool"
        case Number():
            return "number"
    return "null"


def float32(value: float) -> float:
    """The nearest value of Go's float32; infinite where there is none."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def float32_text(value: float) -> str:
    """The shortest decimal text that gives the same float32 again, as Go's encoder writes it."""
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if float32(float(text)) == value:
            break
    number = float(text)
    if number and not 1e-6 <= abs(number) < 1e21:
        mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
        sign, power = exponent[0], exponent[1:].lstrip("0")
        # Go pads positive exponents and shortens negative ones of a single digit.
        return f"{mantissa}e{sign}{power if sign == '-' else power.zfill(2)}"
    return f"{Decimal(text):f}"


@dataclass(frozen=True, slots=True)
class Raw:
    """A text that is JSON already."""

    text: str


Shown = Mapping[str, "Shown"] | Sequence["Shown"] | str | bool | int | float | Raw | None


def render(value: Shown) -> str:
    """A value as Go's encoder writes it: no spaces, members in the order of the mapping, HTML's characters escaped."""
    match value:
        case Raw(text):
            return text
        case str():
            return _UNSAFE_ANY.sub(lambda found: _UNSAFE[found[0]], json.dumps(value, ensure_ascii=False))
        case Mapping():
            return "{" + ",".join(f"{render(key)}:{render(one)}" for key, one in value.items()) + "}"
        case Sequence():
            return "[" + ",".join(render(one) for one in value) + "]"
    return json.dumps(value)
