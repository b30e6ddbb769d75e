"""Pydantic's findings in our words: the place in the data that is meant, and what was expected there."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from chaos.schemas import find_known

Place = tuple[str | int, ...]
"""Where something stands in a document: keys and list positions from the top."""
Finding = tuple[Place, str]
"""Something wrong: where, and what."""


def relevant(data: Any, error: ValidationError) -> list[tuple[Place, Mapping[str, Any]]]:
    """Each finding with its place; of a union only the alternative that got furthest speaks."""
    branches: dict[Place, dict[str, list[tuple[Place, Mapping[str, Any]]]]] = {}
    plain: list[tuple[Place, Mapping[str, Any]]] = []
    for details in error.errors(include_url=False):
        place, fork = _locate(data, details["loc"], missing=details["type"] == "missing")
        entry = (place, details)
        if fork is None:
            plain.append(entry)
        else:
            branches.setdefault(fork[0], {}).setdefault(fork[1], []).append(entry)
    for alternatives in branches.values():
        best = max(alternatives.values(), key=lambda entries: (max(len(place) for place, _ in entries), -len(entries)))
        plain.extend(best)
    return plain


def _locate(data: Any, loc: Sequence[str | int], *, missing: bool) -> tuple[Place, tuple[Place, str] | None]:
    """The place in the data that pydantic means, and the first fork (place, alternative) on the way.

    Pydantic puts the names of union alternatives and of validators into its locations; they are no keys of the data.
    """
    place: list[str | int] = []
    fork: tuple[Place, str] | None = None
    for index, part in enumerate(loc):
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, Mapping) and part in data):
            place.append(part)
            data = data[part]
        elif missing and index == len(loc) - 1:
            place.append(part)
        elif fork is None and part != "[key]":
            fork = (tuple(place), str(part))
    return tuple(place), fork


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """The known word that a wrong one probably means, if there is one."""
    return next(iter(difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=0.6)), None)


def suggest(wrong: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? Known: x, y` for a word that is none of the known ones."""
    names = sorted(known)
    close = nearest(wrong, names)
    hint = "" if close is None else f"did you mean {close!r}? "
    return f"{hint}Known: {', '.join(names) if names else 'none'}"


_EXPECTED: Final = {
    "bool": "true or false",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "model_attributes": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "tuple": "a list",
    "string": "text",
    "url": "an address such as http://127.0.0.1:8080",
}
_BOUNDS: Final = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def say(schema: Mapping[str, Any], data: Any, place: Place, details: Mapping[str, Any]) -> str:
    """What is wrong at a place, what was expected, and the nearest valid word."""
    kind, given, context = str(details["type"]), details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key; {suggest(str(place[-1]), find_known(schema, data, place[:-1]))}"
    if kind in {"literal_error", "enum"}:
        choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return f"unknown value {_shown(given)}; {suggest(str(given), choices)}"
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", details["msg"]))
    if kind == "missing":
        return "required, but missing"
    expected = next(_expectations(kind, context), None)
    if expected is None:
        return f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {_shown(given)}"
    return f"expected {expected}, got {_shown(given)}"


def _expectations(kind: str, context: Mapping[str, Any]) -> Iterator[str]:
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        yield f"{words} {context[name]:g}"
    base = re.sub(r"_(type|parsing|from_float)$", "", kind)
    if base in _EXPECTED:
        yield _EXPECTED[base]
    if kind == "too_short":
        yield f"at least {context['min_length']} of them"


def _shown(value: object) -> str:
    if isinstance(value, dict | BaseModel):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
