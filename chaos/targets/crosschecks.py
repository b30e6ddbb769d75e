"""What a topology file must keep across its parts: references exist, nothing waits for itself, hosts are allowed."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import urlsplit

from chaos.targets.models import Action, Reading, Role, TopologyFile, Undo
from chaos.targets.templates import BUILT_IN, OF_FINAL, OF_INSTANCE, OF_RUN, is_reference, names_in, numbered
from chaos.wording import Place, suggest

Problem = tuple[Place, str]


class Names:
    """The names that a file defines, taken from its raw data: also those whose own entry has a problem."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.roles = _keys(data.get("roles"))
        self.readings = _keys(data.get("observe"))
        self.actions = _keys(data.get("actions"))
        self._external = {name for name, role in _items(data.get("roles")) if _keys(role) and role.get("external")}
        self._outputs = {
            role: {str(name) for name in names}
            for role, names in _items(data.get("outputs"))
            if isinstance(names, list)
        }

    def offered_by(self, role: str) -> set[str]:
        """What can be referred to as `role.NAME`."""
        built_in = {"url", "addresses"} if role in self._external else set(BUILT_IN)
        return built_in | self._outputs.get(role, set())

    def check_reference(self, reference: str) -> str | None:
        """What is wrong with `role.output`; None when nothing."""
        role, _, output = reference.partition(".")
        if role not in self.roles:
            return f"no role called {role!r}; {suggest(role, self.roles)}"
        if output not in self.offered_by(role):
            return f"{role!r} has no output called {output!r}; {suggest(output, self.offered_by(role))}"
        return None


def _keys(value: Any) -> set[str]:
    return {str(key) for key in value} if isinstance(value, Mapping) else set()


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, Mapping) else ()


def cross_check(file: TopologyFile, names: Names) -> list[Problem]:
    """Every problem between the parts of a file, in no particular order."""
    found: list[Problem] = []
    for name, role in file.roles.items():
        found += _check_role(("roles", name), role, names)
    found += _check_outputs(file, names)
    found += _check_cycle(file)
    found += _check_url(("url",), file.url, file, names)
    for reading, rule in file.observe.items():
        found += _check_reading(("observe", reading), rule, file, names)
    for action, act in file.actions.items():
        found += _check_action(("actions", action), act, file, names)
    for number, quiet in enumerate(file.quiet_when.rules() if file.quiet_when else ()):
        if quiet.observe not in names.readings:
            found.append((("quiet_when", *["and"] * number, "observe"), _no_reading(quiet.observe, names)))
    for number, run in enumerate(file.prepare):
        found += _check_texts(("prepare", number), {"command": run.command, "env": run.env}, OF_RUN, (), names)
    found += _check_final(file, names)
    for name, role in file.roles.items():
        if role.url is not None:
            found += _check_url(("roles", name, "url"), role.url, file, names)
    return found


def _check_role(place: Place, role: Role, names: Names) -> Iterator[Problem]:
    texts = {"command": role.command or [], "env": role.env, "cwd": role.cwd}
    yield from _check_texts(place, texts, OF_INSTANCE, role.ports, names, count=role.count)
    for number, needed in enumerate(role.needs):
        if needed not in names.roles:
            yield (*place, "needs", number), f"no role called {needed!r}; {suggest(needed, names.roles)}"
    for link, to in role.links.items():
        if to not in names.roles:
            yield (*place, "links", link), f"no role called {to!r}; {suggest(to, names.roles)}"
    if len(set(role.ports)) < len(role.ports):
        yield (*place, "ports"), "a port is named twice"
    for key, part in (("ready", role.ready), ("version", role.version), ("metrics", role.metrics)):
        if part is not None and part.port is not None and part.port not in role.ports:
            yield (*place, key, "port"), f"no port called {part.port!r}; {suggest(part.port, role.ports)}"
    if role.external and role.ready is not None and role.ready.http is None:
        yield (*place, "ready"), "an external role is asked over http only"
    if role.ready is not None and role.ready.dsn is not None:
        yield from _check_dsn((*place, "ready", "dsn"), role.ready.dsn, names)


def _check_outputs(file: TopologyFile, names: Names) -> Iterator[Problem]:
    for name in file.outputs:
        role = file.roles.get(name)
        if name not in names.roles:
            yield ("outputs", name), f"no role called {name!r}; {suggest(name, names.roles)}"
        elif role is not None and role.external:
            yield ("outputs", name), "an external role reports no outputs"
        elif role is not None and role.count > 1:
            yield ("outputs", name), f"outputs need a role with count 1, {name!r} has {role.count}"


def dependencies(file: TopologyFile) -> dict[str, set[str]]:
    """Role -> the roles that must be ready before it starts: those it needs, and those whose outputs it refers to."""
    graph: dict[str, set[str]] = {}
    for name, role in file.roles.items():
        texts = [*(role.command or []), *role.env.values(), role.cwd]
        references = {numbered(name, 1) for text in texts for name in names_in(text) if "." in name}
        if role.ready is not None and role.ready.dsn is not None and is_reference(role.ready.dsn):
            references.add(role.ready.dsn)
        of_outputs = {
            other
            for other, _, output in (reference.partition(".") for reference in references)
            if output in file.outputs.get(other, ()) and other != name
        }
        graph[name] = {other for other in {*role.needs, *of_outputs} if other in file.roles}
    return graph


def _check_cycle(file: TopologyFile) -> Iterator[Problem]:
    try:
        TopologicalSorter(dependencies(file)).prepare()
    except CycleError as error:
        # The list runs from a role to one that waits for it: turned round it reads as "waits for".
        circle = list(reversed(error.args[1]))
        yield ("roles", circle[0]), f"these roles wait for each other: {' -> '.join(circle)}"


def _check_texts(
    place: Place,
    texts: Mapping[str, Any],
    single: frozenset[str],
    ports: Iterable[str],
    names: Names,
    *,
    count: int = 0,
) -> Iterator[Problem]:
    """Problems of every `${...}` in commands, environments and the like; `count` of what has numbered instances."""
    for key, value in texts.items():
        for inner, text in _texts_in((*place, key), value):
            for name in names_in(text):
                for meant in dict.fromkeys(numbered(name, number) for number in range(1, count + 1)) or [name]:
                    if problem := _check_template(meant, single, ports, names):
                        yield inner, problem


def _texts_in(place: Place, value: Any) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in((*place, key), item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts_in((*place, number), item)


def _check_template(name: str, single: frozenset[str], ports: Iterable[str], names: Names) -> str | None:
    if name in single:
        return None
    if name.startswith("port.") and "port" in single:
        port = name.removeprefix("port.")
        return None if port in ports else f"${{{name}}}: no port called {port!r}; {suggest(port, ports)}"
    if "." in name:
        problem = names.check_reference(name)
        return None if problem is None else f"${{{name}}}: {problem}"
    return f"${{{name}}} is not known here; {suggest(name, [*single, 'role.output'])}"


def _check_reading(place: Place, rule: Reading, file: TopologyFile, names: Names) -> Iterator[Problem]:
    if rule.role is not None:
        if rule.role not in names.roles:
            yield (*place, "role"), f"no role called {rule.role!r}; {suggest(rule.role, names.roles)}"
        elif rule.metric and (role := file.roles.get(rule.role)) and role.metrics is None:
            yield (*place, "role"), f"{rule.role!r} has no metrics; add `metrics: /metrics` to it"
    if rule.dsn is not None:
        yield from _check_dsn((*place, "dsn"), rule.dsn, names)
    if rule.url is not None:
        yield from _check_url((*place, "url"), rule.url, file, names)


def _check_action(place: Place, action: Action, file: TopologyFile, names: Names) -> Iterator[Problem]:
    yield from _check_way(place, action, action.env, file, names)
    if action.effect and action.effect.observe not in names.readings:
        yield (*place, "effect", "observe"), _no_reading(action.effect.observe, names)
    if action.undo:
        yield from _check_way((*place, "undo"), action.undo, {}, file, names)


def _check_way(
    place: Place, way: Action | Undo, env: Mapping[str, str], file: TopologyFile, names: Names
) -> Iterator[Problem]:
    yield from _check_texts(place, {"command": way.command or [], "env": env}, OF_RUN, (), names)
    if way.dsn is not None:
        yield from _check_dsn((*place, "dsn"), way.dsn, names)
    if (request := way.http) is not None:
        yield from _check_url((*place, "http", "url"), request.url, file, names)
        texts = {"json": request.body, "headers": request.headers, "path": request.path}
        yield from _check_texts((*place, "http"), texts, OF_RUN, (), names)


def _check_final(file: TopologyFile, names: Names) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, final in enumerate(file.final):
        yield from _check_texts(("final", number), {"command": final.command, "env": final.env}, OF_FINAL, (), names)
        if final.name in seen:
            yield ("final", number, "name"), f"a second dump called {final.name!r}"
        seen.add(final.name)
        if not any("${out}" in text for text in (*final.command, *final.env.values())):
            yield ("final", number, "command"), "must say where to write: ${out}"


def _check_url(place: Place, url: str, file: TopologyFile, names: Names) -> Iterator[Problem]:
    if is_reference(url) and not url.startswith("http"):
        if problem := names.check_reference(url):
            yield place, problem
        return
    yield from _check_texts(place[:-1], {str(place[-1]): url}, OF_RUN, (), names)
    if url.startswith("${"):
        return
    if not url.startswith(("http://", "https://")):
        yield place, f"expected role.output or an address such as http://127.0.0.1:8080, got {url!r}"
    elif problem := check_host(url, file.allow_hosts):
        yield place, problem


def _check_dsn(place: Place, dsn: str, names: Names) -> Iterator[Problem]:
    if is_reference(dsn):
        if problem := names.check_reference(dsn):
            yield place, problem
    elif not dsn.startswith(("postgres://", "postgresql://")):
        yield place, f"expected role.output or postgresql://user@127.0.0.1:5432/name, got {dsn!r}"


def check_host(url: str, allowed: Iterable[str]) -> str | None:
    """Why an address may not be used; None when it is this machine's own or named in `allow_hosts`."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError as error:
        return f"{url!r} is no address: {error}"
    if host == "localhost" or host in allowed:
        return None
    try:
        if ipaddress.ip_address(host).is_loopback:
            return None
    except ValueError:
        pass
    return f"host {host!r} is not this machine; name it under allow_hosts if faults and load may hit it"


def _no_reading(name: str, names: Names) -> str:
    return f"no reading called {name!r}; {suggest(name, names.readings)}"
