"""Numbers as people read them, one way for every output."""

from typing import Any

from metrics.findings import Finding
from metrics.sanitise import one_line
from metrics.units import format_duration

NOTHING = "–"  # noqa: RUF001 - a dash, where there is no value


def quantity(value: float | str | None, unit: str) -> str:
    """`0.25` in `s` is `250 ms`; a ratio becomes a percentage."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return one_line(value, chars_max=60)
    if unit == "s":
        return "0 s" if value == 0 else format_duration(value)
    if unit == "ratio":
        return percentage(value)
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
    return f"{number} {unit.removesuffix('s') if value == 1 else unit}".strip()


def percentage(ratio: float | None) -> str:
    """As many digits as it takes not to round a loss away: 99.998 %, never 100 % for less than all."""
    if ratio is None:
        return NOTHING
    for digits in range(4, 12):
        text = f"{ratio:.{digits}%}"
        if ratio in (0, 1) or float(text[:-1]) not in (0, 100):
            break
    return f"{text[:-1].rstrip('0').rstrip('.')}%"


def value_and_limit(finding: Finding) -> tuple[str, str]:
    """Both as text; the limit with its sense, where there is one."""
    value, limit = quantity(finding.value, finding.unit), quantity(finding.limit, finding.unit)
    return value, limit if finding.limit is None else f"{finding.sense} {limit}".strip()


def seconds(value: Any) -> str:
    """A moment on the run's axis: `12.34 s`."""
    return NOTHING if not isinstance(value, int | float) else f"{value:.2f} s"
