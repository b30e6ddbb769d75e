import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.units import format_duration, format_size, parse_duration, parse_rate, parse_ratio, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("3s", 3.0), ("1m30s", 90.0), ("1h", 3600.0), ("2d", 172_800.0), ("5us", 5e-6), ("1.5 s", 1.5),
     (0, 0), ("0", 0.0), ("7ms", 0.007)],
)  # fmt: skip
def test_durations_are_read(text: object, seconds: float) -> None:
    """As the float nearest to what was written."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", 4, True, False, None, "-1s", "1s!", "s", "1 week", "1e3s", [], "ms5"])
def test_other_spellings_of_durations_are_refused(text: object) -> None:
    """A bare number has no unit, and its unit would be a guess."""
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


@given(st.integers(0, 100_000))
def test_a_percentage_is_the_share_it_names(thousandths: int) -> None:
    """99.9 % is what 999 of 1000 gives, so that a limit just met is met."""
    assert parse_ratio(f"{thousandths / 1000:.3f}%") == thousandths / 100_000


@pytest.mark.parametrize("text", ["101%", "-1%", 1.5, "half", True, None, "20", "nan%"])
def test_shares_outside_zero_to_one_are_refused(text: object) -> None:
    """Nothing but a percentage or a number."""
    with pytest.raises(ValueError, match="expected a share"):
        parse_ratio(text)


def test_rates_are_read() -> None:
    """By the second, minute or hour; never zero."""
    assert (parse_rate("300/s"), parse_rate("90/m"), parse_rate("36 / h")) == (300, 1.5, 0.01)
    for text in ("0/s", "-3/s", "300", 300, "5/d", None):
        with pytest.raises(ValueError, match="expected a positive rate"):
            parse_rate(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250 ms"), (0.0000042, "4.2 us"), (0.9999, "1 s"), (1.5, "1.5 s"), (12345.0, "12345 s"), (0.0, "0 s")],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    """Three digits."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512B", 512), ("64KiB", 65_536), ("1.5 MiB", 1_572_864), ("2GB", 2 * 10**9), ("1kB", 1000)],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    """Powers of 1024 with an i, of 1000 without."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["64", 65, "-1MiB", "1KB", "1 mb", "0.3B", True, None, ""])
def test_other_spellings_of_sizes_are_refused(text: object) -> None:
    """A bare number has no unit, and a part of a byte is none."""
    with pytest.raises(ValueError, match="expected a size such as"):
        parse_size(text)


@pytest.mark.parametrize(("size_bytes", "text"), [(512, "512 B"), (268_435_456, "256 MiB"), (1_610_612_736, "1.5 GiB")])
def test_sizes_are_written_short(size_bytes: int, text: str) -> None:
    """Four digits at most."""
    assert format_size(size_bytes) == text
