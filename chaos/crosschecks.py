"""What an experiment file must keep across its parts, looked up in what is written, whatever else is wrong with it."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from chaos.faults.fault import FAULTS
from chaos.guardrails import GUARDRAILS
from chaos.salvage import Salvaged
from chaos.wording import Finding, Place, nearest, suggest

GROUPS: Final[tuple[Literal["sequence", "parallel"], ...]] = ("sequence", "parallel")
_WAYS: Final = ("every", "random", "after", "when")
"""To say more than `at`: one of them."""


def cross_check(written: Salvaged[Any]) -> list[Finding]:
    """Every problem between the parts of a file, in no particular order."""
    data = written.document.data
    return [
        *_load(written, data.get("load")),
        *_entries(("faults",), data.get("faults"), [*FAULTS, *GROUPS], written),
        *_groups(data.get("faults"), written),
        *_entries(("guardrails",), data.get("guardrails"), list(GUARDRAILS), written),
        *_repeats(data.get("faults"), written),
        *_expectations(data.get("expect")),
    ]


def unknown_names(written: Salvaged[Any], names: Mapping[str, Collection[str]]) -> list[Finding]:
    """What expectations and actions name that does not exist, by what names it; what is not in `names` may be all.

    `during` is looked up in the experiment itself.
    """
    known = {**names, "during": _faults_named(written)}
    expected = [
        (("expect", index, checker, parameter), _no_such(parameter, name, known[parameter]))
        for index, entry in enumerate(_items(written.document.data.get("expect")))
        for checker, parameter, name in _names_in(entry)
        if parameter in known and name not in known[parameter]
    ]
    return [*_actions(written, names), *_awaited(written, names), *expected]


def _actions(written: Salvaged[Any], names: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    for place, entry in _each_fault(written.document.data.get("faults")):
        wish = entry.get("action")
        name = wish.get("name") if isinstance(wish, Mapping) else None
        if not isinstance(name, str) or not isinstance(wish, Mapping):
            continue
        if name not in names.get("action", {name}):
            told = f"the target has no action {name!r} with an effect that shows it; {suggest(name, names['action'])}"
            yield (*place, "action", "name"), told
        elif wish.get("for") is not None and name not in names.get("undo", {name}):
            yield (*place, "action", "for"), f"the target does not say how {name!r} is undone: leave `for` out"


def _awaited(written: Salvaged[Any], names: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Readings that an entry waits for, or a guardrail looks at, and the target does not have."""
    for index, entry in enumerate(_items(written.document.data.get("faults"))):
        when = entry.get("when") if isinstance(entry, Mapping) else None
        reading = when.get("observe") if isinstance(when, Mapping) else None
        if isinstance(reading, str) and reading not in names.get("reading", {reading}):
            yield ("faults", index, "when", "observe"), _no_such("reading", reading, names["reading"])
    for index, entry in enumerate(_items(written.document.data.get("guardrails"))):
        limit = entry.get("reading") if isinstance(entry, Mapping) else None
        reading = limit.get("observe") if isinstance(limit, Mapping) else None
        if isinstance(reading, str) and reading not in names.get("reading", {reading}):
            yield ("guardrails", index, "reading", "observe"), _no_such("reading", reading, names["reading"])


def beside(source: Path, relative: str) -> Path:
    """The absolute path of a file that the one at `source` names."""
    return (source.absolute().parent / relative).resolve()


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _load(written: Salvaged[Any], load: Any) -> Iterator[Finding]:
    if not isinstance(load, Mapping):
        return
    lacking = [key for key in ("locustfile", "arrivals") if load.get(key) is None]
    if len(lacking) == 1 and not written.misspelt(("load", *lacking)):
        yield ("load",), "locustfile and arrivals go together: give both, or neither to have only probes"
    locustfile = load.get("locustfile")
    if isinstance(locustfile, str):
        # One that is not there would only be noticed when the target runs.
        path = beside(written.document.path, locustfile)
        if not path.is_file():
            yield ("load", "locustfile"), f"no such file: {path}"


def _entries(at: Place, entries: Any, choices: list[str], written: Salvaged[Any]) -> Iterator[Finding]:
    for index, entry in enumerate(_items(entries)):
        if not isinstance(entry, Mapping):
            continue
        given = [choice for choice in choices if entry.get(choice) is not None]
        # An unknown key may be the one that is missed.
        misspelt = any(place[:-1] == (*at, index) for place in written.unknown)
        if len(given) > 1 or not (given or misspelt):
            wrong = f"has {' and '.join(given)}" if given else "names none"
            yield (*at, index), f"an entry names exactly one of {', '.join(choices)}; this one {wrong}"


def _groups(entries: Any, written: Salvaged[Any]) -> Iterator[Finding]:
    for index, entry in enumerate(_items(entries)):
        for kind in GROUPS if isinstance(entry, Mapping) else ():
            yield from _entries(("faults", index, kind), entry.get(kind), list(FAULTS), written)


def _each_fault(entries: Any) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Every entry that stands for one fault, in a group or alone, with its place."""
    for index, entry in enumerate(_items(entries)):
        if not isinstance(entry, Mapping):
            continue
        grouped = [kind for kind in GROUPS if kind in entry]
        for kind in grouped:
            items = enumerate(_items(entry[kind]))
            yield from ((("faults", index, kind, inner), item) for inner, item in items if isinstance(item, Mapping))
        if not grouped:
            yield ("faults", index), entry


def _repeats(entries: Any, written: Salvaged[Any]) -> Iterator[Finding]:
    for index, entry in enumerate(_items(entries)):
        times = entry.get("times") if isinstance(entry, Mapping) else None
        repeated = isinstance(times, int) and times > 1
        if repeated and entry.get("every") is None and not written.misspelt(("faults", index, "every")):
            yield ("faults", index, "times"), "needs every: how far the occurrences are apart"
        ways = [way for way in _WAYS if isinstance(entry, Mapping) and entry.get(way) is not None]
        if len(ways) > 1:
            yield ("faults", index, ways[1]), f"{' and '.join(ways)} exclude each other: keep one"
        elif ways and ways != ["every"] and entry.get("jitter") is not None:
            yield ("faults", index, "jitter"), f"{ways[0]} says when it plays; jitter goes with at and every"


def _expectations(entries: Any) -> Iterator[Finding]:
    """What is wrong with the entries of `expect`, which their checkers know best."""
    from metrics.checkers import ExpectationError, parse_expectation

    for index, entry in enumerate(_items(entries)):
        try:
            parse_expectation(entry)
        except ExpectationError as error:
            for problem in error.problems:
                yield ("expect", index, *problem.path), problem.message


def _faults_named(written: Salvaged[Any]) -> set[str]:
    """The faults that the experiment has, or means to have where one is misspelt; all where that cannot be told."""
    entries = written.document.data.get("faults", [])
    if not written.meant(("faults",)) or not isinstance(entries, list):
        return set(FAULTS)
    if not all(isinstance(entry, Mapping) for entry in entries):
        return set(FAULTS)
    named: set[str] = set()
    for _place, entry in _each_fault(entries):
        keys = list(entry)
        found = {key for key in keys if key in FAULTS} or {nearest(key, FAULTS) for key in keys} - {None}
        if not found:
            return set(FAULTS)
        named |= {name for name in found if name is not None}
    return named


def _names_in(entry: Any) -> Iterator[tuple[str, str, str]]:
    """Checker, parameter and name, for each parameter of an expectation; as written where the rest is wrong."""
    from metrics.checkers import CHECKERS, ExpectationError, parse_expectation

    try:
        checker: Any = parse_expectation(entry).checker
    except ExpectationError:
        checker = None
    if not isinstance(entry, Mapping) or len(entry) != 1:
        return
    ((title, written),) = entry.items()
    for parameter in CHECKERS[title].__dataclass_fields__ if title in list(CHECKERS) else ():
        value = getattr(checker, parameter, None)
        if checker is None:
            value = written.get(parameter) if isinstance(written, Mapping) else None
        if isinstance(value, str):
            yield title, parameter, value


def _no_such(parameter: str, name: str, known: Collection[str]) -> str:
    whose = "this experiment has no fault" if parameter == "during" else f"the target has no {parameter}"
    return f"{whose} {name!r}; {suggest(name, known)}"
