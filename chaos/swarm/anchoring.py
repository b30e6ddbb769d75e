"""Experiments that mean the same wherever they are written: their paths are absolute."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.parameters import keys_of

if TYPE_CHECKING:
    from chaos.faults.fault import Fault


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a valid experiment has beside its faults, with the paths that are relative to `folder` made absolute."""
    result = dict(data)
    if isinstance(result.get("target"), str):
        result["target"] = str((folder / result["target"]).resolve())
    load = result.get("load")
    if not isinstance(load, Mapping):
        return result
    load = dict(load)
    if isinstance(load.get("locustfile"), str):
        load["locustfile"] = str((folder / load["locustfile"]).resolve())
    if isinstance(load.get("arrivals"), Mapping):
        load["arrivals"] = _anchored_arrivals(load["arrivals"], folder)
    return {**result, "load": load}


def anchored_fault(params: Mapping[str, Any], fault: "Fault") -> dict[str, Any]:
    """The parameters as written, with the paths that became absolute when they were read."""
    result = dict(params)
    for field, key in keys_of(type(fault)).items():
        value = getattr(fault, field)
        written = params.get(key)
        became = str(value)
        if isinstance(value, Path) or (isinstance(written, str) and became.startswith("/") and became != written):
            result[key] = became
    return result


def _anchored_arrivals(arrivals: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    result = dict(arrivals)
    if isinstance(result.get("trace"), str):
        result["trace"] = str((folder / result["trace"]).resolve())
    if isinstance(result.get("function"), str):
        where, _, name = result["function"].rpartition(":")
        if where.endswith(".py"):
            result["function"] = f"{(folder / where).resolve()}:{name}"
    return result
