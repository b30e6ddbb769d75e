"""Experiment and topology files: strict YAML in, plain data with its lines out.

    load(path) -> Document (data, and the line of every key and item)
    document.problem(place, text) ->
    `kill-node.yaml:14: faults.0.every: expected a duration such as 250ms, 3s or 1m30s, got 5`

YAML here means mappings, lists, text, numbers, true, false and null as in YAML 1.2: `on` and `no` are text, `010` and
`1:30` are text, and there are no tags, anchors or merge keys.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from chaos.errors import ExperimentError
from chaos.wording import Place

SIZE_LIMIT_BYTES: Final = 1024 * 1024
DEPTH_LIMIT: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file as read: `data` holds only plain values; `lines` the line (from 1) of every key and list item."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Place, int]
    notes: Mapping[Place, str] = field(default_factory=dict)
    """What to say after a problem at or below a place: that its value came from elsewhere."""
    text: str = ""
    """All of the file, as it was read."""
    flaws: tuple[tuple[Place, str], ...] = ()
    """Keys and values that are not plain, where they stand, with the whole problem; `data` is without them."""

    def line(self, place: Place) -> int:
        """The line of a place; of the nearest thing around it when the place is not there."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def problem(self, place: Place, text: str) -> str:
        """A problem in the form that all of them have: file, line, key, text."""
        note = next((note for inside, note in self.notes.items() if place[: len(inside)] == inside), None)
        return f"{self.path}:{self.line(place)}: {_dotted(place)}{text}{f' ({note})' if note else ''}"

    def in_order(self, problems: Iterable[str]) -> list[str]:
        """Problems of this file, each once, in order of lines; first those that have none."""
        return sorted(set(problems), key=self._line_and_text)

    def _line_and_text(self, problem: str) -> tuple[int, str]:
        line, _, text = problem.removeprefix(f"{self.path}:").partition(":")
        return (int(line), text) if line.isdigit() else (0, problem)


def load(path: Path) -> Document:
    """The document in a file.

    Raises:
        ExperimentError: no such file, unreadable, too large, no text, no YAML, empty, or no mapping at its top.
    """
    return parse(path, _read(path))


def parse(path: Path, text: str) -> Document:
    """The document in `text`, which was read from `path`.

    Raises:
        ExperimentError: no YAML, empty, or no mapping at its top.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise ExperimentError([f"{path}:{mark.line + 1 if mark else 1}: not YAML: {what}"]) from error
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise ExperimentError([f"{path}:{line}: not YAML: {getattr(error, 'reason', error)}"]) from error
    if node is None:
        raise ExperimentError([f"{path}:1: the file is empty; expected a mapping of keys"])
    if not isinstance(node, yaml.MappingNode):
        found = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ExperimentError(
            [f"{path}:{node.start_mark.line + 1}: expected a mapping of keys at the top, got {found}"]
        )
    lines: dict[Place, int] = {(): node.start_mark.line + 1}
    flaws: list[tuple[Place, str]] = []
    data = _construct(path, node, (), lines, flaws)
    return Document(path=path, data=data, lines=lines, text=text, flaws=tuple(flaws))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise ExperimentError([f"{path}: no such file"]) from error
    except IsADirectoryError as error:
        raise ExperimentError([f"{path}: is a folder, expected a YAML file"]) from error
    except OSError as error:
        raise ExperimentError([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(raw) > SIZE_LIMIT_BYTES:
        raise ExperimentError([f"{path}: larger than {SIZE_LIMIT_BYTES} bytes; is it the right file?"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ExperimentError([f"{path}:{line}: not text in UTF-8; is it the right file?"]) from error


class _Loader(yaml.SafeLoader):
    """Composes nodes without aliases, to a limited depth, with the scalars of YAML 1.2's core."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own way

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (& and *) are not used here; write the value out, or quote the text",
                problem_mark=event.start_mark,
            )
        if self._depth >= DEPTH_LIMIT:
            raise yaml.MarkedYAMLError(problem=f"deeper than {DEPTH_LIMIT} levels", problem_mark=event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]{0,18})$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?$"),
    list("-0123456789"),
)


_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final[Mapping[str, Callable[[str], Any]]] = {
    _TAG + "str": str,
    _TAG + "bool": {"true": True, "false": False}.get,
    _TAG + "null": lambda _text: None,
    _TAG + "int": int,
    _TAG + "float": float,
}


def _construct(
    path: Path, node: yaml.Node, place: Place, lines: dict[Place, int], flaws: list[tuple[Place, str]]
) -> Any:
    """Plain values out of nodes; notes lines and flaws on the way."""
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _construct_mapping(path, node, place, lines, flaws)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        items = []
        for position, item in enumerate(node.value):
            lines[(*place, position)] = item.start_mark.line + 1
            items.append(_construct(path, item, (*place, position), lines, flaws))
        return items
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
        try:
            return _SCALARS[node.tag](node.value)
        except ValueError:
            # Only an explicit tag gets here: `!!int many`.
            flaws.append((place, f"{path}:{node.start_mark.line + 1}: {_dotted(place)}{node.value!r} is no {node.tag}"))
            return None
    flaws.append((place, f"{path}:{node.start_mark.line + 1}: {_dotted(place)}the tag {node.tag} is not used here"))
    return None


def _construct_mapping(
    path: Path, node: yaml.MappingNode, place: Place, lines: dict[Place, int], flaws: list[tuple[Place, str]]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.endswith(":str"):
            shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            text = f"{path}:{line}: {_dotted(place)}keys must be text, got {shown}; put it in quotes"
            flaws.append(((*place, shown), text))
            continue
        key = key_node.value
        if key in result:
            first = lines[(*place, key)]
            text = f"{path}:{line}: {_dotted((*place, key))}this key is given twice, first in line {first}"
            flaws.append(((*place, key), text))
            continue
        lines[(*place, key)] = line
        result[key] = _construct(path, value_node, (*place, key), lines, flaws)
    return result


def _dotted(place: Place) -> str:
    return ".".join(map(str, place)) + ": " if place else ""
