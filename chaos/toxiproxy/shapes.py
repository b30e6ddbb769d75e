"""What the bodies of requests may hold: values taken out of them as Go takes them into its structures.

A wrong type is told as Go tells it, but only after everything else was looked at, since syntax goes first; null
leaves a field as it is; what is unknown is ignored.
"""

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from chaos.toxiproxy.gojson import JsonError, Number, Object, Value, float32, kind
from chaos.toxiproxy.toxics.stage import Toxic

_LARGEST_INT64: Final = 2**63 - 1

# What Go calls the types of the original, which stand in its error texts.
_GO_NAMES: Final = {
    "bandwidth": "Bandwidth",
    "latency": "Latency",
    "limit_data": "LimitData",
    "noop": "Noop",
    "reset_peer": "Reset",
    "slicer": "Slicer",
    "slow_close": "SlowClose",
    "timeout": "Timeout",
}


class Kind(Enum):
    """The type of a field."""

    STRING = "string"
    BOOL = "bool"
    INT64 = "int64"
    FLOAT32 = "float32"


PROXY: Final = {"name": Kind.STRING, "listen": Kind.STRING, "upstream": Kind.STRING, "enabled": Kind.BOOL}
TOXIC: Final = {"name": Kind.STRING, "type": Kind.STRING, "stream": Kind.STRING, "toxicity": Kind.FLOAT32}


def take(value: Value, fields: Mapping[str, Kind], *, whole: str, struct: str = "", path: str = "") -> dict[str, Any]:
    """The fields that a value has, with their types checked.

    `whole` is what Go calls the type of the value, `struct` the name in front of a field in error texts, `path` what
    leads to the field from there.

    Raises:
        JsonError: the value is no object, or a field is of another type.
    """
    if value is None:
        return {}
    if not isinstance(value, Object):
        raise JsonError(f"json: cannot unmarshal {kind(value)} into Go value of type {whole}")
    taken: dict[str, Any] = {}
    wrong: JsonError | None = None
    for key, found in value.members:
        name = key if key in fields else next((one for one in fields if one.casefold() == key.casefold()), None)
        if name is None or found is None:
            continue
        try:
            taken[name] = _convert(found, fields[name])
        except ValueError as error:
            where = f"Go struct field {struct}.{path}{name} of type {fields[name].value}"
            wrong = wrong or JsonError(f"json: cannot unmarshal {error} into {where}")
    if wrong is not None:
        raise wrong
    return taken


def attribute_names(toxic: type[Toxic]) -> dict[str, str]:
    """Of every attribute of a toxic, as the interface names it, the field that holds it."""
    return {str(field.metadata["attribute"]): field.name for field in dataclasses.fields(toxic)}


def take_attributes(value: Value, toxic: type[Toxic]) -> dict[str, int]:
    """The attributes that the body of a toxic holds, by field of its description.

    Raises:
        JsonError: one is no whole number of 64 bits, or `attributes` is no object.
    """
    attributes = member(value, "attributes")
    if attributes is None:
        return {}
    if not isinstance(attributes, Object):
        go_name = f"toxics.{_GO_NAMES[toxic.TYPE]}Toxic"
        raise JsonError(f"json: cannot unmarshal {kind(attributes)} into Go struct field .attributes of type {go_name}")
    names = attribute_names(toxic)
    taken = take(attributes, dict.fromkeys(names, Kind.INT64), whole="", path="attributes.")
    return {names[name]: number for name, number in taken.items()}


def member(value: Value, name: str) -> Value:
    """The last member of that name, in any case of letters; None when there is none."""
    if not isinstance(value, Object):
        return None
    found = [one for key, one in value.members if key.casefold() == name]
    return found[-1] if found else None


def _convert(value: Value, wanted: Kind) -> Any:
    """The value as the field holds it; the error is what Go calls the value."""
    match wanted, value:
        case (Kind.STRING, str()) | (Kind.BOOL, bool()):
            return value
        case Kind.INT64, Number(text):
            if not text.lstrip("-").isdigit() or not -_LARGEST_INT64 - 1 <= int(text) <= _LARGEST_INT64:
                raise ValueError(f"number {text}")
            return int(text)
        case Kind.FLOAT32, Number(text):
            number = float32(float(text))
            if math.isinf(number):
                raise ValueError(f"number {text}")
            return number
    raise ValueError(kind(value))
