"""JSON as Go's encoding/json reads and writes it; every expectation here is what Go 1.26 answered to the same text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.toxiproxy.gojson import JsonError, Number, Object, Value, float32, float32_text, parse, render

WRONG = {
    b"": "EOF",
    b" \t\r\n": "EOF",
    b"{": "unexpected EOF",
    b"[1,": "unexpected EOF",
    b'"abc': "unexpected EOF",
    b"tru": "unexpected EOF",
    b"-": "unexpected EOF",
    b"nulx": "invalid character 'x' in literal null (expecting 'l')",
    b'{"a":tx}': "invalid character 'x' in literal true (expecting 'r')",
    b"]": "invalid character ']' looking for beginning of value",
    b"[1,]": "invalid character ']' looking for beginning of value",
    b"{'a':1}": "invalid character '\\'' looking for beginning of object key string",
    b'{"a":-x}': "invalid character 'x' in numeric literal",
    b'{"a":1.x}': "invalid character 'x' after decimal point in numeric literal",
    b'{"a":1e+x}': "invalid character 'x' in exponent of numeric literal",
    b'{"a":1 "b"}': "invalid character '\"' after object key:value pair",
    b'"\\x"': "invalid character 'x' in string escape code",
    b'"\\u12g4"': "invalid character 'g' in \\u hexadecimal character escape",
    b'"a\nb"': "invalid character '\\n' in string literal",
    b'{"a":\x01}': "invalid character '\\x01' looking for beginning of value",
    b'{"a":\xc3\xa9}': "invalid character 'Ã' looking for beginning of value",
}


@pytest.mark.parametrize("text", list(WRONG))
def test_what_is_no_json_is_told_in_the_words_of_go(text: bytes) -> None:
    """One text for every place at which a value can go wrong."""
    with pytest.raises(JsonError) as told:
        parse(text)
    assert str(told.value) == WRONG[text]


def plain(value: Value) -> Any:
    """A value as the standard library would give it."""
    match value:
        case Number(text):
            return json.loads(text)
        case Object(members):
            return {key: plain(one) for key, one in members}
        case list():
            return [plain(one) for one in value]
    return value


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(document=documents, escaped=st.booleans(), indent=st.sampled_from((None, 2)))
def test_every_document_is_read_as_the_standard_library_reads_it(
    *, document: Any, escaped: bool, indent: int | None
) -> None:
    """Written by it, with and without escapes and spaces; what follows the value is not looked at."""
    text = json.dumps(document, ensure_ascii=escaped, indent=indent)

    assert plain(parse(text.encode() + b" }garbage")) == document


@given(documents)
def test_every_document_is_written_so_that_it_reads_the_same(document: Any) -> None:
    """And without a character that HTML would take for its own."""
    text = render(document)

    assert json.loads(text) == document
    assert not set(text) & set("<>&\u2028\u2029")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.1, "0.1"),
        (0.33333333333, "0.33333334"),
        (-0.715187231496073, "-0.71518725"),
        (16777217.0, "16777216"),
        (123456789.0, "123456790"),
        (0.000001234, "0.000001234"),
        (1e-7, "1e-7"),
        (1e-45, "1e-45"),
        (6.994595811673965e20, "699459550000000000000"),
        (1e21, "1e+21"),
        (3.4e38, "3.4e+38"),
    ],
)
def test_numbers_of_32_bits_are_as_short_as_go_writes_them(value: float, text: str) -> None:
    """The shortest text that gives the same number again, with an exponent where Go has one."""
    assert float32_text(float32(value)) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_every_number_of_32_bits_survives_its_text(value: float) -> None:
    """Written and read again."""
    assert float32(float(float32_text(value))) == value
