"""The operator's interface against requests made from the schemas of its bodies: never a failure, no effect unseen."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from system_under_test.services.operator_api import Forward, Move, Plan, Why
from tests.integration.platform.described import Operation, requests
from tests.integration.platform.operations import Company
from tests.integration.platform.stage import OPERATOR_TOKEN
from tests.integration.platform.wire import Sent, exchange

_TOKENS: Final = {
    "valid": f"Bearer {OPERATOR_TOKEN}".encode(),
    "forged": b"Bearer forged",
    "long": b"Bearer " + b"x" * 7_000,
    "bytes": b"Bearer \xff",
    "another scheme": f"Basic {OPERATOR_TOKEN}".encode(),
}
_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "minLength": 1},
        "field": {"type": "string"},
    },
}
_DONE: Final = {"content": {"application/json": {"schema": {"type": "object", "required": ["id"]}}}}
_WINDOW: Final = {
    "name": "window",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
}
_WRITTEN: Final = "select (select count(*) from window_event), (select count(*) from business_clock)"
_OPERATIONS: Final = {
    name: Operation(
        method="POST",
        path=path,
        name=name,
        body=model.model_json_schema(),
        parameters=(_WINDOW,) if "{window}" in path else (),
        responses={
            done: _DONE,
            **{
                str(code): {"content": {"application/problem+json": {"schema": _PROBLEM}}}
                for code in (400, 401, 404, 408, 409, 413, 415, 422, 503)
            },
        },
        authenticated=True,
        components={},
        whole=False,
    )
    for name, path, model, done in (
        ("schedule", "/v1/windows", Plan, "201"),
        ("move", "/v1/windows/{window}/move", Move, "200"),
        ("cancel", "/v1/windows/{window}/cancel", Why, "200"),
        ("finish", "/v1/windows/{window}/finish", Why, "200"),
        ("forward", "/v1/clock", Forward, "200"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Logbook:
    """The owner's view of what operators have written."""

    runner: asyncio.Runner
    owner: Any

    def written(self) -> Any:
        """Every change of a window and of the business clock so far, counted."""
        return self.runner.run(self.owner.fetchrow(_WRITTEN))


@pytest.fixture
def logbook(company: Company) -> Iterator[Logbook]:
    """Cancels what was scheduled by chance."""
    with asyncio.Runner() as runner:
        owner = runner.run(asyncpg.connect(company.postgres.outputs()["admin_dsn"]))
        try:
            yield Logbook(runner=runner, owner=owner)
            runner.run(owner.fetch("select cancel_window(id, 'the test is over') from maintenance_window"))
        finally:
            runner.run(owner.close(timeout=5))


@pytest.mark.parametrize("name", _OPERATIONS)
def test_every_answer_to_an_operator_is_a_known_one_and_refusals_write_nothing(
    company: Company, logbook: Logbook, name: str
) -> None:
    """Thirty requests for each operation, wrong in any part: no failure, a problem that names the field, no effect.

    The clock is given wrong ones only: business time cannot go back for the tests that follow.
    """
    operation = _OPERATIONS[name]

    @given(requests(operation, _TOKENS))
    @settings(
        max_examples=30,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    def ask(sent: Sent) -> None:
        right = operation.is_right(sent)
        assume(name != "forward" or not right)
        before = logbook.written()
        got = exchange(company.maintenance.port, sent)
        operation.check(got)
        assert got.status != 503, got
        if got.status >= 400:
            assert got.json()["status"] == got.status
            assert got.status == 401 or got.json()["field"]
            assert logbook.written() == before
        else:
            assert right, sent
        if dict(sent.headers).get(b"Authorization") != _TOKENS["valid"]:
            assert got.status == 401, sent

    ask()
