"""Frozen dataclasses as pieces of a file: strict about keys and types, built only when all of it is valid."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic.fields import FieldInfo

SOURCE: Final = "source"
"""In the context of a validation: the path of the file that is read, beside which relative paths in it lie."""


class Strict(BaseModel):
    """The base of everything read from a file: a key nobody knows is a mistake of its author, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def beside_source(relative: str, info: ValidationInfo) -> Path:
    """The absolute path of what the file that is read names; without such a file it lies in the working folder."""
    source: Path | None = (info.context or {}).get(SOURCE)
    folder = Path.cwd() if source is None else source.absolute().parent
    return (folder / relative).resolve()


def _folder(value: object, info: ValidationInfo) -> Path:
    path = beside_source(str(value), info)
    if not path.is_dir():
        raise ValueError(f"no such folder: {path}")
    return path


Folder = Annotated[
    Path, BeforeValidator(_folder), WithJsonSchema({"type": "string", "description": "a folder, relative to the file"})
]


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
    fields = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(cls) if field.init}
    return create_model(cls.__name__, __base__=Strict, __doc__=cls.__doc__, **cast("Any", fields))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default


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
