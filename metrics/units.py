"""Quantities as people write them in files: `250ms`, `300/s`, `20%`.

Experiment, topology and expectation models use the annotated types below, so one spelling holds everywhere.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s|m|h|d)")
_SECONDS_PER = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DECIMAL_EXPONENT = {"us": "e-6", "ms": "e-3"}
_RATE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*/\s*(?P<unit>s|m|h)")
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_BYTES_PER = {"B": 1}
for _power, _prefix in enumerate("kMGT", start=1):
    _BYTES_PER |= {f"{_prefix}B": 1000**_power, f"{_prefix.upper()}iB": 1024**_power}
_PERCENT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*%")


def parse_duration(value: object) -> float:
    """Seconds in `250ms`, `3s`, `1m30s`; a bare 0 is zero.

    Raises:
        ValueError: another spelling, a bare number (its unit would be a guess) or a negative one.
    """
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    if isinstance(value, str):
        text = value.strip()
        parts = list(_DURATION.finditer(text))
        if parts and "".join(part.group(0) for part in parts).replace(" ", "") == text.replace(" ", ""):
            return math.fsum(_seconds(part["number"], part["unit"]) for part in parts)
    raise ValueError(f"expected a duration such as 250ms, 3s or 1m30s, got {value!r}")


def _seconds(number: str, unit: str) -> float:
    # Read as a decimal, 7ms is the float nearest to 0.007; a product may be the one beside it.
    if unit in _DECIMAL_EXPONENT:
        return float(number + _DECIMAL_EXPONENT[unit])
    return float(number) * _SECONDS_PER[unit]


def parse_rate(value: object) -> float:
    """Events per second in `300/s`, `90/m`.

    Raises:
        ValueError: another spelling, or a rate of zero.
    """
    if isinstance(value, str) and (match := _RATE.fullmatch(value.strip())):
        rate = float(match["number"]) / _SECONDS_PER[match["unit"]]
        if rate > 0:
            return rate
    raise ValueError(f"expected a positive rate such as 300/s or 90/m, got {value!r}")


def parse_ratio(value: object) -> float:
    """A share of one in `20%` or `0.2`.

    Raises:
        ValueError: another spelling, or outside 0..1.
    """
    ratio = math.nan
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value.strip())):
        # Not divided by 100: 99.9% has to be the float that 999 of 1000 gives, or a limit just met would fail.
        ratio = float(match["number"] + "e-2")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        ratio = float(value)
    if 0 <= ratio <= 1:
        return ratio
    raise ValueError(f"expected a share such as 20% or 0.2, between 0 and 1, got {value!r}")


def parse_size(value: object) -> int:
    """Bytes in `256MiB`, `1.5GB`, `512B`.

    Raises:
        ValueError: another spelling, a bare number (its unit would be a guess), or not whole bytes.
    """
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size_bytes = float(match["number"]) * _BYTES_PER[match["unit"]]
        if size_bytes.is_integer():
            return int(size_bytes)
    raise ValueError(f"expected a size such as 64KiB, 256MiB or 1GB, got {value!r}")


def format_size(size_bytes: float) -> str:
    """The shortest reading of a size with three digits: `268435456` is `256 MiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= size:
            return f"{size_bytes / size:.4g} {unit}"
    return f"{size_bytes:.0f} B"


def format_duration(seconds: float) -> str:
    """The shortest reading of a duration with three digits: `0.25` is `250 ms`."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if 0 < seconds < 1000 * size * (1 - 5e-4):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


_DURATION_PATTERN = r"^(0|(\s*\d+(\.\d+)?\s*(us|ms|s|m|h|d))+)$"

Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": _DURATION_PATTERN}, {"const": 0}],
            "description": "a duration: 250ms, 3s, 1m30s",
        }
    ),
]
PositiveSeconds = Annotated[Seconds, Field(gt=0)]
PerSecond = Annotated[
    float,
    BeforeValidator(parse_rate),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*/\s*(s|m|h)\s*$", "description": "a rate: 300/s, 90/m"}
    ),
]
Ratio = Annotated[
    float,
    BeforeValidator(parse_ratio),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\s*0*(100(\.0+)?|\d{1,2}(\.\d+)?)\s*%\s*$"},
                {"type": "number", "minimum": 0, "maximum": 1},
            ],
            "description": "a share: 20% or 0.2",
        }
    ),
]
Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\s*\d+(\.\d+)?\s*(B|[kMGT]B|[KMGT]iB)\s*$",
            "description": "a size: 64KiB, 256MiB, 1GB",
        }
    ),
]
