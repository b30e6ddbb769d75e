"""What a load process is given."""

import argparse
from pathlib import Path

import pytest

from loadtests.options import file_stem, positive, url_path, whole
from loadtests.protocol import Address, UnusableInputError, parse_address, read_environment


def test_the_environment_is_read(tmp_path: Path) -> None:
    """All three variables, a slash at the end of the address forgiven."""
    given = read_environment(
        {"HOLDFAST_URL": "http://127.0.0.1:8080/", "HOLDFAST_RUN_DIR": str(tmp_path), "HOLDFAST_SEED": "-3"}
    )
    assert given.url == "http://127.0.0.1:8080"
    assert given.address == Address(host="127.0.0.1", port=8080, tls=False, authority="127.0.0.1:8080")
    assert (given.run_dir, given.seed) == (tmp_path, -3)


def test_everything_missing_is_told_at_once() -> None:
    """An empty environment names all three."""
    with pytest.raises(UnusableInputError) as raised:
        read_environment({})
    for name in ("HOLDFAST_URL", "HOLDFAST_RUN_DIR", "HOLDFAST_SEED"):
        assert f"{name} is not set" in str(raised.value)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """A wrong scheme, a folder that is not there, a seed that is no number."""
    with pytest.raises(UnusableInputError) as raised:
        read_environment(
            {"HOLDFAST_URL": "ftp://x", "HOLDFAST_RUN_DIR": str(tmp_path / "no"), "HOLDFAST_SEED": "twelve"}
        )
    for part in ("'ftp://x'", "is no folder", "'twelve'"):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://bank.example", Address(host="bank.example", port=443, tls=True, authority="bank.example")),
        ("http://[::1]:81", Address(host="::1", port=81, tls=False, authority="[::1]:81")),
    ],
)
def test_an_address_is_where_to_connect_and_what_to_call_it(url: str, address: Address) -> None:
    """Default port by scheme; IPv6 without its brackets for connecting, with them for the Host header."""
    assert parse_address(url) == address


@pytest.mark.parametrize("url", ["", "localhost:80", "http://", "http://h:99999", "http://h/path", "http://u:p@h"])
def test_what_is_no_plain_address_is_refused(url: str) -> None:
    """No scheme, no host, impossible port, a path, credentials."""
    with pytest.raises(ValueError, match=r"expected|[Pp]ort"):
        parse_address(url)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_an_option_that_must_be_positive_is(text: str) -> None:
    """Zero, negative, no number, endless."""
    with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
        positive(text)


@pytest.mark.parametrize("text", ["0", "11", "1.5", "x", "-3", "²"])
def test_a_whole_number_keeps_its_range(text: str) -> None:
    """Outside 1..10, fractional, no number."""
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 10"):
        whole(1, 10)(text)


@pytest.mark.parametrize("text", ["", "../x", "a/b", ".hidden", "x" * 65])
def test_a_writers_name_cannot_leave_its_folder(text: str) -> None:
    """It becomes a file name."""
    with pytest.raises(argparse.ArgumentTypeError, match="letters"):
        file_stem(text)


@pytest.mark.parametrize("text", ["", "v1", "/a b", "/a\r\nX: y", "/ü"])
def test_a_path_cannot_smuggle_anything_onto_the_wire(text: str) -> None:
    """Blanks, line breaks and other bytes that are no part of a request line."""
    with pytest.raises(argparse.ArgumentTypeError, match="expected a path"):
        url_path(text)
