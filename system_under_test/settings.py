"""What a process is told by its environment, checked whole before anything is started."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

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


def read_settings(model: type[SettingsT], environment: Mapping[str, str], *, beside: Sequence[str] = ()) -> SettingsT:
    """The settings that `environment` holds for `model`; an empty variable counts as not set.

    `beside` is what was found wrong elsewhere, as with the arguments: all problems are told at once.

    Raises:
        ConfigurationError: naming every variable that is missing or wrong, after what is `beside`.
    """
    names = {field.alias for field in model.model_fields.values()}
    given = {name: value for name, value in environment.items() if name in names and value}
    try:
        settings = model.model_validate(given)
    except ValidationError as error:
        problems = [_told(item, given) for item in error.errors(include_url=False)]
        raise ConfigurationError([*beside, *problems]) from error
    if beside:
        raise ConfigurationError(beside)
    return settings


def _told(item: ErrorDetails, given: Mapping[str, str]) -> str:
    name = str(item["loc"][0]) if item["loc"] else "environment"
    if item["type"] == "missing":
        return f"{name} is not set"
    said = item["msg"].removeprefix("Value error, ")
    # A database address holds a password, and a token is one: neither is ever repeated. A list's check names the part.
    silent = "URL" in name or "TOKEN" in name or ", got " in said
    return f"{name}: {said}" if silent else f"{name}: {said}, got {given.get(name)!r}"


def _database_url(value: str) -> str:
    try:
        usable = is_database_url(value)
    except ValueError:
        # Its text may repeat a part of the address that is the password.
        usable = False
    if not usable:
        raise ValueError(
            "expected an address such as postgresql://user:password@127.0.0.1:5432/savings, one host and a port from 1"
            " to 65535, with whatever else than letters and digits is in user or password percent-encoded (/ is %2F)"
        ) from None
    return value


def is_database_url(value: str) -> bool:
    """Whether the database's driver will read the same from `value` as `urlsplit` does.

    Raises:
        ValueError: it cannot be read at all.
    """
    parts = urlsplit(value)
    parameters = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    database = parts.path.removeprefix("/")
    host = parts.hostname or ""
    host.encode("idna")
    return (
        parts.scheme in {"postgresql", "postgres"}
        and bool(host)
        and (parts.port is None or parts.port > 0)
        and bool(database)
        and not {"/", "@"} & set(database)
        # The driver ends user and password at the first @, urlsplit at the last.
        and parts.netloc.count("@") <= 1
        and not parts.fragment
        and not {"host", "port"} & set(parameters)
    )


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
