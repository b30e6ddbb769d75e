"""The topology file as pydantic models: what each key is called, which values it takes, and nothing else."""

import re
import signal
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from chaos.wording import suggest
from metrics.units import PositiveSeconds, Seconds

SELECTOR = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*"(?:,\s*)?)*)\})?'
)
RESERVED = frozenset({"port", "instance", "zone", "data_dir", "run_dir", "python", "out"})
"""Names of templates of their own; no role may have one of them."""
_SIGNALS = tuple(sorted(it.name.removeprefix("SIG") for it in signal.Signals))


class Strict(BaseModel):
    """Unknown keys are problems, and a model does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _exactly_one(model: BaseModel, names: Iterable[str]) -> None:
    fields = type(model).model_fields
    given = [fields[name].alias or name for name in names if getattr(model, name) not in (None, False)]
    if len(given) != 1:
        valid = ", ".join(fields[name].alias or name for name in names)
        raise ValueError(f"expected exactly one of {valid}; got {' and '.join(given) or 'none'}")


def _scalar_text(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _scalar(value: object) -> object:
    if isinstance(value, str | int | float):
        return value
    raise ValueError("expected a text, a number, true or false")


def _role_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*", name) or re.search(r"-\d+$", name):
        raise ValueError(f"{name!r} cannot name a role: lower-case letters, digits, - and _, not ending in -1 or so")
    if name in RESERVED:
        raise ValueError(
            f"{name!r} cannot name a role: ${{{name}}} means something else; taken: {', '.join(sorted(RESERVED))}"
        )
    return name


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} cannot be a name: letters, digits, _, - and . only")
    return name


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"expected a path that begins with /, got {value!r}")
    return value


def _signal(value: str) -> str:
    name = value.upper().removeprefix("SIG")
    if name not in _SIGNALS:
        raise ValueError(f"no signal called {value!r}; {suggest(name, _SIGNALS)}")
    return name


def _selector(value: str) -> str:
    if not SELECTOR.fullmatch(value):
        raise ValueError(f'expected a metric such as name or name{{label="value"}}, got {value!r}')
    return value


def _endpoint(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


RoleName = Annotated[str, AfterValidator(_role_name)]
PlainName = Annotated[str, AfterValidator(_plain_name)]
HttpPath = Annotated[str, AfterValidator(_path)]
SignalName = Annotated[str, AfterValidator(_signal), WithJsonSchema({"enum": list(_SIGNALS)})]
EnvValue = Annotated[str, BeforeValidator(_scalar_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]
Scalar = Annotated[Any, BeforeValidator(_scalar), WithJsonSchema({"type": ["string", "number", "boolean"]})]
Environment = dict[PlainName, EnvValue]
Command = Annotated[list[EnvValue], Field(min_length=1)]
Combine = Literal["sum", "max", "min", "mean"]


class Endpoint(Strict):
    """A path, and the named port it is served on where that is not the instance's first."""

    path: HttpPath
    port: str | None = None


PathOrEndpoint = Annotated[
    Endpoint,
    BeforeValidator(_endpoint),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^/"},
                {
                    "type": "object",
                    "properties": {"path": {"type": "string", "pattern": "^/"}, "port": {"type": "string"}},
                    "required": ["path"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Probe(Strict):
    """What the fixed-rate prober asks for."""

    path: HttpPath


class Ready(Strict):
    """How to see that an instance is ready: exactly one of `http` (2xx), `tcp`, `sql`, `file` (the ready file)."""

    http: HttpPath | None = None
    tcp: bool = False
    sql: str | None = None
    file: bool = False
    dsn: str | None = None
    port: str | None = None
    within: PositiveSeconds = 30.0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        _exactly_one(self, ("http", "tcp", "sql", "file"))
        if (self.sql is None) != (self.dsn is None):
            raise ValueError("sql and dsn belong together")
        return self


class Stop(Strict):
    """How an instance is asked to end, and how long it may take before it is killed."""

    signal: SignalName = "TERM"
    grace: Seconds = 10.0


class Version(Strict):
    """Where an instance tells its version: a field of a JSON answer."""

    http: HttpPath
    field: str
    port: str | None = None


class Extent(BaseModel):
    """How many instances a role has and where they are: what is known of it when faults choose among them."""

    count: Annotated[int, Field(ge=1, le=100)] = 1
    zones: Annotated[list[PlainName], Field(min_length=1)] | None = None
    task: bool = False
    external: bool = False

    def members(self, role: str) -> dict[str, str | None]:
        """Instance -> its zone, in the order of their numbers."""
        return {
            f"{role}-{number}": self.zones[(number - 1) % len(self.zones)] if self.zones else None
            for number in range(1, self.count + 1)
        }


class Role(Extent, Strict):
    """Processes that do the same thing; with `task` one that runs to its end; `external` ones are not ours."""

    command: Command | None = None
    needs: list[str] = []
    ports: list[PlainName] = []
    ready: Ready | None = None
    version: Version | None = None
    metrics: PathOrEndpoint | None = None
    stop: Stop = Stop()
    env: Environment = {}
    links: dict[PlainName, str] = {}
    cwd: str = "."
    within: PositiveSeconds = 60.0
    url: str | None = None

    @model_validator(mode="after")
    def _ours_or_not(self) -> Self:
        if self.external:
            if self.url is None:
                raise ValueError("an external role needs its url")
            ours = {"command", "count", "zones", "needs", "ports", "stop", "env", "cwd", "task"} & self.model_fields_set
            if ours:
                raise ValueError(f"an external role is not started by us: {', '.join(sorted(ours))} cannot be given")
            return self
        if self.command is None:
            raise ValueError("expected a command (or external: true with a url)")
        if self.url is not None:
            raise ValueError("url is for roles with external: true; an instance of ours has a port of its own")
        if self.task and (self.count != 1 or self.ready is not None):
            raise ValueError("a task runs once, to its end: it has neither count nor ready; its limit is within")
        if "within" in self.model_fields_set and not self.task:
            raise ValueError("within is the limit of a task; put it into ready")
        return self


class Run(Strict):
    """A command that runs to its end, in the topology's folder."""

    command: Command
    env: Environment = {}
    within: PositiveSeconds = 60.0


class Final(Run):
    """A command that writes raw rows for the judges to `${out}`."""

    name: PlainName
    row_schema: str = Field(alias="schema", pattern=r"^[a-z_]+/\d+$")


class Reading(Strict):
    """A named reading: exactly one of `metric` (of a role's instances), `sql`, `http` (a field of a JSON answer)."""

    metric: Annotated[str, AfterValidator(_selector)] | None = None
    combine: Combine = "sum"
    role: str | None = None
    sql: str | None = None
    dsn: str | None = None
    http: HttpPath | None = None
    field: str | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        _exactly_one(self, ("metric", "sql", "http"))
        if self.metric is not None and self.role is None:
            raise ValueError("metric needs the role whose instances are asked")
        if (self.sql is None) != (self.dsn is None):
            raise ValueError("sql and dsn belong together")
        if (self.http is None) != (self.field is None):
            raise ValueError("http and field belong together")
        if self.http is not None:
            _exactly_one(self, ("role", "url"))
        return self


class Request(Strict):
    """One HTTP request; any 2xx answer is success."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: str
    path: HttpPath = "/"
    body: Any = Field(default=None, alias="json")
    headers: dict[str, EnvValue] = {}
    within: PositiveSeconds = 5.0


class Effect(Strict):
    """What is seen when an action has taken hold."""

    observe: str
    equals: Scalar = Field(alias="is")
    within: PositiveSeconds = 10.0


def _one_way_to_act(model: "Undo | Action") -> None:
    _exactly_one(model, ("http", "command", "sql"))
    if (model.sql is None) != (model.dsn is None):
        raise ValueError("sql and dsn belong together")


class Undo(Strict):
    """How an action is taken back: exactly one of `http`, `command`, `sql`; harmless when it was taken back already."""

    http: Request | None = None
    command: Command | None = None
    sql: str | None = None
    dsn: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        _one_way_to_act(self)
        return self


class Action(Strict):
    """What an operator can do to the system: exactly one of `http`, `command`, `sql`.

    The statements of `sql` are one transaction.
    """

    http: Request | None = None
    command: Command | None = None
    sql: str | None = None
    dsn: str | None = None
    env: Environment = {}
    within: PositiveSeconds = 60.0
    effect: Effect | None = None
    undo: Undo | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        _one_way_to_act(self)
        return self


class QuietWhen(Strict):
    """When nothing is under way any more: a reading that equals `is`, or is at most `max`; `and` so must another."""

    observe: str
    equals: Scalar = Field(default=None, alias="is")
    maximum: float | None = Field(default=None, alias="max")
    other: "QuietWhen | None" = Field(default=None, alias="and")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.equals is None) == (self.maximum is None):
            raise ValueError("expected exactly one of is, max")
        return self

    def rules(self) -> "tuple[QuietWhen, ...]":
        """This condition and every further one."""
        return (self, *(self.other.rules() if self.other is not None else ()))


class TopologyFile(Strict):
    """A system: its processes, how they depend on each other, and what can be read of it and done to it."""

    name: PlainName
    url: str
    probe: Probe | None = None
    roles: Annotated[dict[RoleName, Role], Field(min_length=1)]
    outputs: dict[str, list[PlainName]] = {}
    prepare: list[Run] = []
    observe: dict[PlainName, Reading] = {}
    actions: dict[PlainName, Action] = {}
    quiet_when: QuietWhen | None = None
    final: list[Final] = []
    allow_hosts: list[str] = []
