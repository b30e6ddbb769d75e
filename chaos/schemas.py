"""Which keys a JSON Schema allows at a place of a document: what a suggestion can choose from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_Schema = Mapping[str, Any]


def find_known(schema: _Schema, data: Any, place: Sequence[str | int]) -> set[str]:
    """The keys allowed in the mapping at `place`, over all alternatives that the data can still mean."""
    nodes = list(_alternatives(schema, schema, data))
    for part in place:
        inner = _descend(data, part)
        nodes = [
            alternative
            for node in nodes
            for child in _children(node, part)
            for alternative in _alternatives(schema, child, inner)
        ]
        data = inner
    return {key for node in nodes for key in node.get("properties", {})}


def _descend(data: Any, part: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _children(node: _Schema, part: str | int) -> Iterator[_Schema]:
    if isinstance(part, int):
        prefix = node.get("prefixItems", ())
        child = prefix[part] if part < len(prefix) else node.get("items")
    else:
        child = node.get("properties", {}).get(part) or node.get("additionalProperties")
    if isinstance(child, Mapping):
        yield child


def _alternatives(root: _Schema, node: _Schema, data: Any) -> Iterator[_Schema]:
    """The plain schemas behind references and unions, without those whose constants contradict the data."""
    if "$ref" in node:
        yield from _alternatives(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]], data)
        return
    inner = [child for word in ("anyOf", "oneOf", "allOf") for child in node.get(word, ())]
    if inner:
        for child in inner:
            yield from _alternatives(root, child, data)
    elif not _contradicts(node, data):
        yield node


def _contradicts(node: _Schema, data: Any) -> bool:
    if not isinstance(data, Mapping):
        return False
    constants = {key: it["const"] for key, it in node.get("properties", {}).items() if "const" in it}
    return any(key in data and data[key] != value for key, value in constants.items())
