"""Readings of a running system: a metric over instances, a value from its database, a field of an answer."""

import asyncio
from collections.abc import Iterable, Sequence
from decimal import Decimal
from statistics import fmean

from prometheus_client.parser import text_string_to_metric_families

from chaos.errors import TargetError
from chaos.targets.database import fetch_value
from chaos.targets.models import SELECTOR, Combine, Reading
from chaos.targets.system import ASK_LIMIT_S, System
from chaos.targets.target import Instance
from chaos.wording import suggest


async def observe(system: System, name: str, *, running: Iterable[Instance]) -> float | str:
    """One named reading, now; `running` are the instances that can be asked.

    Raises:
        TargetError: no such reading, nobody answered, or the answer holds no such value.
    """
    rules = system.topology.file.observe
    if name not in rules:
        raise TargetError(f"{system.topology.name} has no reading {name!r}; {suggest(name, rules)}")
    rule = rules[name]
    if rule.sql is not None and rule.dsn is not None:
        value = await fetch_value(system.dsn(rule.dsn), rule.sql, within_s=ASK_LIMIT_S)
        return _plain(name, value)
    asked = [it for it in running if it.role == rule.role]
    if rule.role is not None and not asked:
        raise TargetError(f"reading {name}: no instance of {rule.role} runs")
    if rule.http is not None and rule.field is not None:
        base = system.url(rule.url) if rule.url is not None else system.base_url(asked[0])
        return _plain(name, await system.ask_json(base + rule.http, rule.field))
    return await _observe_metric(system, name, rule, asked)


def _plain(name: str, value: object) -> float | str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return float(value)
    if isinstance(value, str):
        return value
    raise TargetError(f"reading {name}: expected a number or a text, got {value!r}")


async def _observe_metric(system: System, name: str, rule: Reading, asked: Sequence[Instance]) -> float:
    """Combined over the instances that answered; one that hangs or has just died is left out, all of them are not."""
    selector = rule.metric or ""
    answers = await asyncio.gather(*(_scrape(system, it) for it in asked), return_exceptions=True)
    texts = [answer for answer in answers if isinstance(answer, str)]
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    unexpected = next((it for it in failures if not isinstance(it, TargetError)), None)
    if unexpected is not None:
        raise unexpected
    if not texts:
        raise TargetError(f"reading {name}: no instance of {rule.role} answered: {failures[0]}") from failures[0]
    values = [value for text in texts for value in sample_values(text, selector)]
    if not values and not any(knows_metric(text, selector) for text in texts):
        names = {line.split()[2] for text in texts for line in text.splitlines() if line.startswith("# TYPE ")}
        wanted = selector.partition("{")[0]
        raise TargetError(f"reading {name}: {rule.role} has no metric {wanted!r}; {_few(wanted, names)}")
    return combine(values, rule.combine)


def _few(wanted: str, names: set[str]) -> str:
    """A suggestion without hundreds of names."""
    text = suggest(wanted, names)
    return text if len(text) <= 400 else f"{text[:400]}..."


async def _scrape(system: System, instance: Instance) -> str:
    metrics = system.role(instance).metrics
    if metrics is None:
        raise TargetError(f"{instance.role} has no metrics")
    url = system.base_url(instance, metrics.port) + metrics.path
    status, body = await system.ask(url)
    if status != 200:
        raise TargetError(f"GET {url}: status {status}")
    return body.decode(errors="replace")


def sample_values(text: str, selector: str) -> list[float]:
    """The values of all samples in a Prometheus text that have the selector's name and at least its labels."""
    match = SELECTOR.fullmatch(selector)
    if match is None:
        raise ValueError(f"not a metric: {selector}")
    name = match["name"]
    # Only the metric's own lines are parsed: a balancer's text has thousands of others.
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    wanted = _labels(f"{selector} 0")
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [sample.value for family in families for sample in family.samples if wanted.items() <= sample.labels.items()]


def knows_metric(text: str, selector: str) -> bool:
    """Whether the text declares the metric, even if no sample of it exists yet: a counter with labels begins so."""
    name = selector.partition("{")[0]
    declared = (line.split()[2] for line in text.splitlines() if line.startswith("# TYPE "))
    return any(name in (family, f"{family}_total") for family in declared) or any(
        line.startswith((f"{name}{{", f"{name} ")) for line in text.splitlines()
    )


def _labels(sample: str) -> dict[str, str]:
    return next(iter(text_string_to_metric_families(sample + "\n"))).samples[0].labels


def combine(values: Sequence[float], how: Combine) -> float:
    """One value out of many; 0 where a known metric has no sample yet."""
    if not values:
        return 0.0
    match how:
        case "sum":
            return sum(values)
        case "max":
            return max(values)
        case "min":
            return min(values)
        case "mean":
            return fmean(values)
