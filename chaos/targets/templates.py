"""`${...}` in commands, environments and addresses: which names there are, and what they are replaced by."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

_TEMPLATE: Final = re.compile(r"\$\{(?P<name>[^}]*)\}")
_REFERENCE: Final = re.compile(r"[a-z][a-z0-9_-]*\.[A-Za-z0-9_]+")

OF_RUN: Final = frozenset({"run_dir", "python"})
OF_FINAL: Final = OF_RUN | {"out"}
OF_INSTANCE: Final = OF_RUN | {"port", "instance", "zone", "data_dir"}
BUILT_IN: Final = frozenset({"addresses", "url", "port"})
"""What every role of ours offers as `${role.NAME}` without a launcher: it is known before anything starts."""

INDEX: Final = "[index]"
"""Within `${role.output}` of an instance: its number, so that each instance of a role can be given its own."""


def names_in(text: str) -> Iterator[str]:
    """The names between `${` and `}`, in order."""
    for match in _TEMPLATE.finditer(text):
        yield match["name"]


def expand(text: str, look_up: Callable[[str], str]) -> str:
    """The text with every `${name}` replaced by what `look_up` gives for it."""
    return _TEMPLATE.sub(lambda match: look_up(match["name"]), text)


def expand_all(value: Any, look_up: Callable[[str], str]) -> Any:
    """A plain value with every text in it expanded."""
    if isinstance(value, str):
        return expand(value, look_up)
    if isinstance(value, list):
        return [expand_all(item, look_up) for item in value]
    if isinstance(value, dict):
        return {key: expand_all(item, look_up) for key, item in value.items()}
    return value


def numbered(name: str, number: int) -> str:
    """The name as instance `number` means it: `db.signer_[index]_dsn` is `db.signer_2_dsn` for the second."""
    return name.replace(INDEX, str(number))


def is_reference(text: str) -> bool:
    """Whether the text as a whole is `role.output`, as `url` and `dsn` may be."""
    return _REFERENCE.fullmatch(text) is not None
