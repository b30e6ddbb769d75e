"""Frozen dataclasses as pieces of a file: strict about keys and types, built only when all of it is valid."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, cast, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, create_model
from pydantic.fields import FieldInfo


class Strict(BaseModel):
    """The base of everything read from a file: a key nobody knows is a mistake of its author, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def written_as(cls: type[Any], *, checked: bool = True) -> Any:
    """The type with which pydantic reads the dataclass `cls` out of a mapping of its fields (by their aliases).

    A ValueError of its `__post_init__` becomes a problem at the place of the mapping; unless `checked`, what that
    refuses is built all the same.
    """
    return Annotated[_model(cls), AfterValidator(_builder(cls) if checked else _unchecked_builder(cls))]


def keys_of(cls: type[Any]) -> Mapping[str, str]:
    """Field of the dataclass `cls` -> the key by which it is written."""
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    return {name: FieldInfo.from_annotation(hints[name]).alias or name for name in names}


def _model(cls: type[Any]) -> type[BaseModel]:
    hints = get_type_hints(cls, include_extras=True)
    fields = {
        field.name: (hints[field.name], ... if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(cls)
        if field.init
    }
    return create_model(cls.__name__, __base__=Strict, __doc__=cls.__doc__, **cast("Any", fields))


def _builder(cls: type[Any]) -> Callable[[BaseModel], Any]:
    def build(model: BaseModel) -> Any:
        return cls(**{field.name: getattr(model, field.name) for field in dataclasses.fields(cls) if field.init})

    return build


def _unchecked_builder(cls: type[Any]) -> Callable[[BaseModel], Any]:
    checked = _builder(cls)

    def build(model: BaseModel) -> Any:
        try:
            return checked(model)
        except ValueError:
            made = object.__new__(cls)
            for field in dataclasses.fields(cls):
                if field.init:
                    object.__setattr__(made, field.name, getattr(model, field.name))
            return made

    return build
