"""Ranges: what is drawn lies between the ends, and is written as people write it."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.swarm.ranges import range_of
from metrics.units import parse_duration, parse_rate, parse_ratio, parse_size

UNITS: dict[str, Any] = {
    "ms": parse_duration,
    "s": parse_duration,
    "%": parse_ratio,
    "KiB": parse_size,
    "/s": parse_rate,
}


def seeded(seed: int) -> Random:
    """The same numbers for the same seed."""
    return Random(seed)  # noqa: S311  (repeatable, not secret)


@given(st.sampled_from(sorted(UNITS)), st.integers(1, 100), st.integers(1, 100), st.integers(0, 2**32))
def test_a_drawn_quantity_is_between_its_ends(unit: str, one: int, other: int, seed: int) -> None:
    """Of every unit; read back by the parser that the experiment uses."""
    low, high = sorted((one, other))
    found = range_of({"between": [f"{low}{unit}", f"{high}{unit}"]})
    parse = UNITS[unit]

    assert found is not None
    assert parse(f"{low}{unit}") <= parse(found.draw(seeded(seed))) <= parse(f"{high}{unit}")
    assert found.draw(seeded(seed)) == found.draw(seeded(seed))
    assert [found.sample(number) for number in range(3)] == [f"{low}{unit}", f"{high}{unit}", f"{low}{unit}"]


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 2**32))
def test_a_drawn_number_is_between_its_ends(one: int, other: int, seed: int) -> None:
    """Whole numbers stay whole; with a decimal point there are numbers between."""
    low, high = sorted((one, other))
    whole = range_of({"between": [low, high]})
    decimal = range_of({"between": [low + 0.25, high + 0.5]})

    assert whole is not None
    assert decimal is not None
    assert whole.draw(seeded(seed)) in range(low, high + 1)
    assert low + 0.25 <= decimal.draw(seeded(seed)) <= high + 0.5


def test_every_value_of_a_choice_is_drawn() -> None:
    """Of three, each comes up in a hundred draws; `sample` goes through all."""
    found = range_of({"any_of": ["a", 2, {"x": 1}]})

    assert found is not None
    drawn = [found.draw(seeded(seed)) for seed in range(100)]
    assert all(value in drawn for value in ("a", 2, {"x": 1}))
    assert [found.sample(number) for number in range(4)] == ["a", 2, {"x": 1}, "a"]


@pytest.mark.parametrize("plain", [3, "3s", None, ["a"], {}, {"env.VERSION": "v2"}, True])
def test_what_is_no_range_is_left_alone(plain: object) -> None:
    """Parameters that are mappings too."""
    assert range_of(plain) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"between": [1, True]},
        {"between": ["a", "b"]},
        {"between": "1..3"},
        {"between": [2, 1]},
        {"between": [0.5, 0.1]},
        {"any_of": "ab"},
    ],
)
def test_what_cannot_be_understood_is_told(wrong: object) -> None:
    """With how a range is written."""
    with pytest.raises(ValueError, match=r"between|any_of"):
        range_of(wrong)
