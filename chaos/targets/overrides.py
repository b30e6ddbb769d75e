"""Changes to a topology from outside the file: `portal.env.VERSION: v2`, `portal.count: 2`.

A path that begins with the name of a role goes into `roles`. Names with dots in them (`maintenance.start`) are found
as they stand.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from chaos.documents import Document
from chaos.schemas import find_known
from chaos.wording import Place, suggest

_FREE: Final = frozenset({"env", "headers", "json", "links"})
"""Mappings whose keys the author chooses, so that an override may add one."""


def apply_overrides(
    document: Document, overrides: Mapping[str, Any], schema: Mapping[str, Any]
) -> tuple[Document, dict[str, str]]:
    """The document with the overrides in it; problems at a changed place name the override.

    Beside it the paths that lead nowhere, each with what there is instead.
    """
    data = copy.deepcopy(document.data)
    notes: dict[Place, str] = {}
    lost = {}
    for path, value in overrides.items():
        try:
            place = _find(data, path, schema)
        except LookupError as error:
            lost[path] = str(error.args[0])
            continue
        _set(data, place, copy.deepcopy(value))
        notes[place] = f"set by the override {path}"
    return replace(document, data=data, notes=notes), lost


def _find(data: dict[str, Any], path: str, schema: Mapping[str, Any]) -> Place:
    parts = path.split(".")
    roles = data.get("roles", {})
    roles = roles if isinstance(roles, dict) else {}
    place: list[str | int] = []
    here: Any = data
    if parts[0] in roles:
        place, here = ["roles"], roles
    elif parts[0] not in find_known(schema, data, ()):
        raise LookupError(f"nothing called {parts[0]!r}; {suggest(parts[0], {*roles, *find_known(schema, data, ())})}")
    while parts:
        taken, part = _step(data, here, parts, place, schema)
        place.append(part)
        parts = parts[taken:]
        here = here.get(str(part), {}) if isinstance(here, dict) else here[part]
    return tuple(place)


def _step(
    data: dict[str, Any], here: Any, parts: list[str], place: list[str | int], schema: Mapping[str, Any]
) -> tuple[int, str | int]:
    """How many parts of the path make up the next key, and the key; the longest existing one counts."""
    if isinstance(here, list):
        if parts[0].isdigit() and int(parts[0]) < len(here):
            return 1, int(parts[0])
        raise LookupError(f"{'.'.join(map(str, place))} is a list of {len(here)}; give a position from 0")
    if isinstance(here, dict):
        return _step_into(data, here, parts, place, schema)
    raise LookupError(f"{'.'.join(map(str, place))} is a single value, there is nothing inside")


def _step_into(
    data: dict[str, Any], here: dict[str, Any], parts: list[str], place: list[str | int], schema: Mapping[str, Any]
) -> tuple[int, str]:
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in here:
            return length, key
    known = find_known(schema, data, place)
    if place and place[-1] in _FREE:
        return len(parts), ".".join(parts)
    if parts[0] in known:
        return 1, parts[0]
    raise LookupError(f"{'.'.join(map(str, place))} has no {parts[0]!r}; {suggest(parts[0], known | set(here))}")


def _set(data: Any, place: Place, value: Any) -> None:
    for part in place[:-1]:
        # `portal.stop.grace` may be set where the role has no `stop` yet.
        data = data.setdefault(str(part), {}) if isinstance(data, dict) else data[part]
    data[place[-1]] = value
