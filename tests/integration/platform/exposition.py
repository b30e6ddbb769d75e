"""What is wrong with the text of a /metrics, by the naming rules of Prometheus' documentation and its linter."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

TYPES: Final = ("counter", "gauge", "histogram", "summary", "untyped")
_BASE_UNITS: Final = ("seconds", "bytes", "celsius", "grams", "joules", "kelvin", "meters", "volts", "amperes")
_OTHER_UNITS: Final = {
    **dict.fromkeys(("minutes", "hours", "days", "weeks", "secs", "millis", "micros", "nanos"), "seconds"),
    **dict.fromkeys(("bits", "kilobits", "megabits"), "bytes"),
    **dict.fromkeys(("percent", "percents", "percentage"), "ratio"),
    "fahrenheit": "celsius",
    "kelvins": "kelvin",
    "inches": "meters",
    "feet": "meters",
    "calories": "joules",
}
_PREFIXES: Final = (
    *("pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "mega", "giga", "tera", "peta"),
    *("kibi", "mebi", "gibi", "tebi", "pebi"),
)
_ABBREVIATIONS: Final = frozenset(("s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"))
_RESERVED: Final = {"histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum")}
_SNAKE: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LINE: Final = re.compile(r"# (HELP|TYPE) (\S+) ?(.*)")
Series = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(slots=True, kw_only=True)
class Exposed:
    """One metric as it is exposed: under its full name, a counter's `_total` included."""

    name: str
    kind: str = ""
    help: str = ""
    described: list[str] = field(default_factory=list)
    """Each line about it: HELP and TYPE, once each."""
    series: dict[Series, float] = field(default_factory=dict)
    twice: list[Series] = field(default_factory=list)

    @property
    def labels(self) -> set[str]:
        """Every label's name."""
        return {label for _, labels in self.series for label, _ in labels}


def read(text: str) -> dict[str, Exposed]:
    """Every metric of the text by its name."""
    found: dict[str, Exposed] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            word, name, rest = match.groups()
            metric = found.setdefault(name, Exposed(name=name))
            metric.described.append(word)
            if word == "TYPE":
                metric.kind = rest
            else:
                metric.help = rest
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metric = found.setdefault(_owner(sample.name, found), Exposed(name=sample.name))
            series = (sample.name, tuple(sorted(sample.labels.items())))
            if series in metric.series:
                metric.twice.append(series)
            metric.series[series] = sample.value
    return found


def _owner(sample: str, known: dict[str, Exposed]) -> str:
    for kind, suffixes in _RESERVED.items():
        for suffix in suffixes:
            base = sample.removesuffix(suffix)
            if base != sample and base in known and known[base].kind == kind:
                return base
    return sample


def faults(text: str) -> list[str]:
    """Each fault as `metric: what is wrong with it`, in the order of the metrics."""
    metrics = read(text)
    return [f"{metric.name}: {fault}" for metric in metrics.values() for fault in _faults(metric)]


def _faults(metric: Exposed) -> Iterator[str]:
    yield from _described(metric)
    yield from _named(metric)
    yield from _in_units(metric)
    if not metric.series:
        yield "has no series: none of its label sets is there from the start"
    for name, labels in metric.twice:
        yield f"{name}{dict(labels)} is there twice"
    if metric.kind == "histogram":
        yield from _counted(metric)


def _described(metric: Exposed) -> Iterator[str]:
    if metric.kind not in TYPES:
        yield f"its type is {metric.kind or 'not given'}"
    if not metric.help.strip():
        yield "has no help text"
    for word, number in Counter(metric.described).items():
        if number > 1:
            yield f"has {number} lines of {word}"


def _named(metric: Exposed) -> Iterator[str]:
    parts = metric.name.split("_")
    for name in (metric.name, *sorted(metric.labels)):
        if not _SNAKE.fullmatch(name):
            yield f"{name} is not in snake case"
    if (metric.kind == "counter") != metric.name.endswith("_total"):
        yield "_total is for counters, and for all of them"
    for kind in TYPES:
        if kind in parts[1:]:
            yield f"its type, {kind}, is in its name"
    yield from _reserved(metric)


def _reserved(metric: Exposed) -> Iterator[str]:
    for kind, suffixes in _RESERVED.items():
        if metric.kind != kind and metric.name.endswith(suffixes) and metric.kind not in _RESERVED:
            yield f"ends as only the series of a {kind} do"
    for label, kind in (("le", "histogram"), ("quantile", "summary")):
        if label in metric.labels and metric.kind != kind:
            yield f"the label {label} is for a {kind}"


def _in_units(metric: Exposed) -> Iterator[str]:
    for part in metric.name.split("_"):
        if part in _ABBREVIATIONS:
            yield f"abbreviates a unit: {part}"
        if part in _OTHER_UNITS:
            yield f"is in {part} instead of {_OTHER_UNITS[part]}"
        for unit in _BASE_UNITS:
            if part in {prefix + unit for prefix in _PREFIXES}:
                yield f"is in {part} instead of {unit}"


def _counted(metric: Exposed) -> Iterator[str]:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for (name, labels), value in metric.series.items():
        if name == f"{metric.name}_bucket":
            of = tuple(label for label in labels if label[0] != "le")
            buckets.setdefault(of, []).append((float(dict(labels)["le"]), value))
    for of, counts in buckets.items():
        values = [value for _, value in sorted(counts)]
        if values != sorted(values) or values[-1] != metric.series.get((f"{metric.name}_count", of)):
            yield f"the buckets of {dict(of)} do not add up"
