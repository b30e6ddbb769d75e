"""What a process is told by its environment, checked whole before anything is started."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

EX_USAGE: Final = 64


class PlatformError(Exception):
    """Something that an operator can mend; printed without a traceback, then the process ends with `exit_code`."""

    exit_code = 1


class ConfigurationError(PlatformError):
    """The environment or the arguments cannot be used; names every problem, one line each."""

    exit_code = EX_USAGE

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("cannot start, the configuration is wrong:\n" + "\n".join(f"  {line}" for line in problems))


class Settings(BaseModel):
    """Base of every process's settings: each field's alias is the variable it is read from."""

    model_config = ConfigDict(frozen=True, extra="ignore")


SettingsT = TypeVar("SettingsT", bound=Settings)


def read_settings(model: type[SettingsT], environment: Mapping[str, str]) -> SettingsT:
    """The settings that `environment` holds for `model`; an empty variable counts as not set.

    Raises:
        ConfigurationError: naming every variable that is missing or wrong.
    """
    names = {field.alias for field in model.model_fields.values()}
    given = {name: value for name, value in environment.items() if name in names and value}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            name = str(item["loc"][0]) if item["loc"] else "environment"
            if item["type"] == "missing":
                problems.append(f"{name} is not set")
            else:
                # A database address holds a password, and a token is one: neither is ever repeated.
                secret = "URL" in name or "TOKEN" in name
                got = "" if secret else f", got {given.get(name)!r}"
                problems.append(f"{name}: {item['msg'].removeprefix('Value error, ')}{got}")
        raise ConfigurationError(problems) from error


def _database_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname or not parts.path.strip("/"):
        raise ValueError("expected an address such as postgresql://user:password@127.0.0.1:5432/savings")
    return value


def _folder(value: Path) -> Path:
    if not value.is_dir():
        raise ValueError("expected a folder that exists")
    return value.absolute()


def _file_to_be(value: Path) -> Path:
    if not value.parent.is_dir():
        raise ValueError("expected a file in a folder that exists")
    return value.absolute()


Port = Annotated[int, Field(ge=1, le=65535)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
ExistingFolder = Annotated[Path, AfterValidator(_folder)]
FileToBe = Annotated[Path, AfterValidator(_file_to_be)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]


class Arguments(argparse.ArgumentParser):
    """A command's own options; what it cannot read is an `argparse.ArgumentError`, so that the exit code is ours."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"python -m system_under_test {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing and ending the process."""
        raise argparse.ArgumentError(None, message)
