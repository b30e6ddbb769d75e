"""What is wrong with a document, and what of it can be understood all the same.

    data --model--> findings, each at its place
      `- data without the wrong parts --model--> the model of the rest

So the checks that come after the model (do the parts fit together? does it fit the target?) have something to check in
the same round. They ask `whole` and `meant` first, so that none of them blames a consequence of what was left out.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from chaos.documents import Document
from chaos.parameters import SOURCE
from chaos.wording import Finding, Place, nearest, relevant, say

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged(Generic[Model]):
    """A document as far as it could be understood; without problems that is all of it."""

    document: Document
    model: Model | None
    """None: what is missing cannot be done without."""
    findings: tuple[Finding, ...] = ()
    wrong: frozenset[Place] = frozenset()
    """The places of everything that is wrong, also of what the document itself has no data for."""
    unknown: frozenset[Place] = frozenset()
    """Keys that mean nothing where they stand."""
    left_out: frozenset[Place] = frozenset()
    """What the model was built without."""

    def also(self, findings: Iterable[Finding]) -> Self:
        """The same with more findings."""
        more = tuple(findings)
        return replace(self, findings=(*self.findings, *more), wrong=self.wrong | {place for place, _ in more})

    def problems(self) -> list[str]:
        """What is wrong, as it is told, in order of lines."""
        told = [self.document.problem(place, text) for place, text in self.findings]
        return self.document.in_order([*told, *(text for _, text in self.document.flaws)])

    def meant(self, place: Place) -> bool:
        """Whether a key is there, or absent, as its author wants it: nothing around it is wrong, none misspells it.

        What stands below may still be wrong.
        """
        return not any(place[: len(wrong)] == wrong for wrong in self.wrong) and not self.misspelt(place)

    def whole(self, place: Place) -> bool:
        """Whether everything around, at and below a place is as its author wants it."""
        return self.meant(place) and self.intact(place)

    def intact(self, place: Place) -> bool:
        """Whether nothing at and below a place is wrong, and no other key misspells it, whatever is wrong around it."""
        return not any(wrong[: len(place)] == place for wrong in self.wrong) and not self.misspelt(place)

    def misspelt(self, place: Place) -> bool:
        """Whether a place is not there, but an unknown key beside it may be meant for it."""
        here: Any = self.document.data
        for depth, part in enumerate(place):
            if not isinstance(here, Mapping | list):
                return False
            if isinstance(here, Mapping) and part not in here:
                beside = [key[-1] for key in self.unknown if key[:-1] == place[:depth]]
                return any(nearest(str(key), [str(part)]) for key in beside)
            here = here[part]  # type: ignore[index]
        return False

    def original(self, place: Place) -> Place:
        """The place in the document of a place in the model: list items that were left out count again."""
        return _original(place, self.left_out)


def salvage(
    document: Document,
    adapter: TypeAdapter[Model],
    *,
    unchecked: TypeAdapter[Model] | None = None,
    spare: Mapping[str, Any] | None = None,
) -> Salvaged[Model]:
    """The document read as the model says.

    `unchecked` is the same model without the checks that look at several keys together: they are then made even where
    one of the keys is wrong, and what fails them is still part of the rest. `spare` has a value for each key at the top
    that cannot be absent: the rest has it in the place of one that is.
    """
    flawed = frozenset(place for place, _ in document.flaws)
    ignored = frozenset(place for place in flawed if place not in document.lines)
    try:
        model = adapter.validate_python(document.data, context={SOURCE: document.path})
    except ValidationError as error:
        details_at = relevant(document.data, error)
    else:
        return Salvaged(document=document, model=model, wrong=flawed, unknown=ignored)
    schema = schema_of(adapter)
    first: Salvaged[Model] = Salvaged(
        document=document,
        model=None,
        wrong=flawed.union(place for place, _ in details_at),
        unknown=ignored.union(place for place, details in details_at if details["type"] == "extra_forbidden"),
    )
    told = dict.fromkeys(
        (place, say(schema, document.data, place, details))
        for place, details in details_at
        if place not in flawed and not (details["type"] == "missing" and first.misspelt(place))
    )
    rest = adapter if unchecked is None else unchecked
    built = _rest(document, rest, spare or {})
    salvaged = replace(first, model=built[0], findings=tuple(told), left_out=built[1])
    return salvaged if unchecked is None else salvaged.also(_hidden_checks(document, adapter, first.wrong))


@cache
def schema_of(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """The JSON Schema of a model, for suggestions; not to be changed."""
    return adapter.json_schema()


def _rest(
    document: Document, adapter: TypeAdapter[Model], spare: Mapping[str, Any]
) -> tuple[Model | None, frozenset[Place]]:
    """The model of what remains when every wrong part is left out, and what was."""
    left_out: frozenset[Place] = frozenset()
    while True:
        rest = {**spare, **_without(document.data, left_out)}
        try:
            return adapter.validate_python(rest, context={SOURCE: document.path}), left_out
        except ValidationError as error:
            # A missing key cannot be left out; what lacks it can.
            wrong = {
                _original(place[:-1] if details["type"] == "missing" else place, left_out)
                for place, details in relevant(rest, error)
            }
        if () in wrong or wrong <= left_out:
            return None, left_out
        left_out |= wrong


def _hidden_checks(document: Document, adapter: TypeAdapter[Any], wrong: frozenset[Place]) -> list[Finding]:
    """What checks of several keys together find once the wrong ones are gone: they are not made before."""
    rest = _without(document.data, wrong)
    try:
        adapter.validate_python(rest, context={SOURCE: document.path})
    except ValidationError as error:
        return [
            (_original(place, wrong), str(details["ctx"]["error"]))
            for place, details in relevant(rest, error)
            if details["type"] == "value_error"
        ]
    return []


def _without(data: Any, left_out: frozenset[Place], place: Place = ()) -> Any:
    if isinstance(data, dict):
        kept = ((key, value) for key, value in data.items() if (*place, key) not in left_out)
        return {key: _without(value, left_out, (*place, key)) for key, value in kept}
    if isinstance(data, list):
        return [
            _without(item, left_out, (*place, number))
            for number, item in enumerate(data)
            if (*place, number) not in left_out
        ]
    return data


def _original(place: Place, left_out: frozenset[Place]) -> Place:
    found: Place = ()
    for part in place:
        if isinstance(part, int):
            kept = (number for number in itertools.count() if (*found, number) not in left_out)
            found = (*found, next(itertools.islice(kept, part, None)))
        else:
            found = (*found, part)
    return found
