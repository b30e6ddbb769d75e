"""What a checker is, the register of all of them, and how an entry of `expect` becomes one.

    {"failed": {"max": 0}}  --parse_expectation-->  Expectation  --judge(evidence)-->  Finding

One module, one checker: decorate a frozen dataclass with `@CHECKERS.register("name")`, put the module into this
folder, done. Its fields are what an experiment writes under the checker's name. `check` is pure and may raise:
`Expectation.judge` turns that into unknown. Numpy is imported inside `check`, because experiments are
validated in a process that has to stay small.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metrics.findings import Finding, Grade
from metrics.registry import Registered, Registry

if TYPE_CHECKING:
    from metrics.evidence import Evidence


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument")


class Checker(Protocol):
    """One question to a run, with its parameters.

    `observed` checkers read only what clients and prober saw; their expectations must hold in the baseline too.
    """

    observed: ClassVar[bool]

    @property
    def title(self) -> str:
        """The name of its finding: the checker's, and after a colon what tells it from others of its kind."""

    def check(self, evidence: "Evidence") -> Finding:
        """The answer, with the smallest witness."""


class Problem(NamedTuple):
    """What is wrong with an entry, and where in it: the keys that lead there."""

    path: tuple[str | int, ...]
    message: str


class ExpectationError(ValueError):
    """An entry of `expect` that cannot be used; carries every problem found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    @staticmethod
    def _line(problem: Problem) -> str:
        where = ".".join(str(part) for part in problem.path)
        return f"{where}: {problem.message}" if where else problem.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One entry of `expect`, ready to be judged."""

    checker: Checker
    entry: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the finding it will give."""
        return self.checker.title

    @property
    def observed(self) -> bool:
        """Whether it must hold in the baseline too."""
        return self.checker.observed

    def judge(self, evidence: "Evidence") -> Finding:
        """The checker's finding; unknown with the error when it raises."""
        try:
            return self.checker.check(evidence)
        except Exception as error:  # noqa: BLE001 - whatever breaks in a checker must not become a pass, nor end the run
            told = f"the checker itself failed: {type(error).__name__}: {error}"
            return Finding(name=self.name, grade=Grade.UNKNOWN, detail=told)


class Checkers(Registry[type[Any]]):
    """The checkers by name; a checker that is `observed` must hold in the baseline too."""

    def register(self, name: str, *, observed: bool = False) -> Callable[[Registered], Registered]:
        """Makes the decorated class the checker that experiments call `name`."""
        add = super().register(name)

        def mark(cls: Registered) -> Registered:
            cls.observed = observed
            cls.__pydantic_config__ = ConfigDict(extra="forbid", populate_by_name=False, arbitrary_types_allowed=False)
            return add(cls)

        return mark


CHECKERS = Checkers("metrics.checkers", "checker")


def known_checkers() -> Mapping[str, str]:
    """Checker -> what it asks, in one sentence."""
    return {name: (CHECKERS[name].__doc__ or "").strip().splitlines()[0] for name in CHECKERS}


def parse_expectation(entry: Any) -> Expectation:
    """The expectation that an entry of `expect` means, such as `{"failed": {"max": 0}}`.

    Raises:
        ExpectationError: no such checker (with the nearest name), or parameters that do not fit.
    """
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ExpectationError([Problem((), f"expected one checker with its parameters, got {entry!r}")])
    ((name, parameters),) = entry.items()
    known = list(CHECKERS)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ExpectationError([Problem((), f"no checker called {name!r}{hint} Known: {', '.join(known)}")])
    adapter: TypeAdapter[Checker] = TypeAdapter(CHECKERS[name])
    try:
        checker = adapter.validate_python({} if parameters is None else parameters)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise ExpectationError([_problem(name, one) for one in problems if not _misspelt(one, problems)]) from error
    return Expectation(checker=checker, entry=dict(entry))


def _misspelt(found: Any, beside: Sequence[Any]) -> bool:
    """Whether a parameter is only missing because it is misspelt, which is told of the wrong one."""
    if found["type"] not in _MISSING:
        return False
    unknown = [one["loc"] for one in beside if one["type"] in _UNKNOWN]
    place = found["loc"]
    return any(loc[:-1] == place[:-1] and difflib.get_close_matches(loc[-1], place[-1:]) for loc in unknown)


def _problem(name: str, found: Any) -> Problem:
    place = tuple(part for part in found["loc"] if isinstance(part, str | int))
    kind = found["type"]
    if kind in _UNKNOWN:
        known = f"; known: {', '.join(_fields(name))}" if len(place) == 1 else ""
        return Problem((name, *place), f"unknown parameter{known}")
    if kind in _MISSING:
        return Problem((name, *place), "this parameter is required")
    if kind in ("dataclass_type", "dataclass_exact_type"):
        return Problem((name, *place), f"expected parameters ({', '.join(_fields(name))}), got {found['input']!r}")
    return Problem((name, *place), found["msg"].removeprefix("Value error, "))


def _fields(name: str) -> list[str]:
    return list(TypeAdapter(CHECKERS[name]).json_schema().get("properties", {}))


def expectation_schema() -> dict[str, Any]:
    """The JSON Schema of one entry of `expect`; it refers to nothing outside itself."""
    return {"oneOf": [_entry_schema(name) for name in CHECKERS]}


def _entry_schema(name: str) -> dict[str, Any]:
    schema = TypeAdapter(CHECKERS[name]).json_schema()
    definitions = schema.pop("$defs", {})
    schema.pop("title", None)
    return {
        "type": "object",
        "description": known_checkers()[name],
        "properties": {name: _inlined(schema, definitions)},
        "required": [name],
        "additionalProperties": False,
    }


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}


def named_apart(findings: Sequence[Finding]) -> list[Finding]:
    """The same findings; where two share a name, the later ones carry a number."""
    seen: dict[str, int] = {}
    apart = []
    for finding in findings:
        seen[finding.name] = seen.get(finding.name, 0) + 1
        number = seen[finding.name]
        apart.append(finding if number == 1 else replace(finding, name=f"{finding.name} #{number}"))
    return apart
