"""What operators may do, who is no operator, and how refusals look."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest

from system_under_test.storage.reconciliation_records import KEY_FILE
from tests.integration.platform.customers import send
from tests.integration.platform.operations import OFTEN, Company, Operator, operate
from tests.integration.platform.stage import OPERATOR_TOKEN, get

ROUTES = [
    ("GET", "windows"),
    ("POST", "windows"),
    ("POST", "windows/1/move"),
    ("POST", "windows/1/cancel"),
    ("POST", "windows/1/finish"),
    ("GET", "clock"),
    ("POST", "clock"),
    ("PUT", "windows"),
    ("DELETE", "windows/1"),
    ("GET", "nothing"),
]
EXPIRED_LOOKING = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJvcGVyYXRvciIsImV4cCI6MX0."


@pytest.fixture
async def operator(company: Company, session: aiohttp.ClientSession) -> AsyncIterator[Operator]:
    """An operator who leaves nothing behind."""
    async with operate(company, session) as operator:
        yield operator


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_who_has_not_the_operators_token_is_refused_everywhere(
    operator: Operator, method: str, path: str
) -> None:
    """No token, a wrong one, an expired-looking one, a longer and a shorter one, other schemes: 401 on each route."""
    url = f"http://127.0.0.1:{operator.company.maintenance.port}/v1/{path}"
    count = "select count(*) from maintenance_window"
    before = await operator.owner.fetchval(count)
    for given in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {EXPIRED_LOOKING}",
        f"Bearer {OPERATOR_TOKEN}x",
        f"Bearer {OPERATOR_TOKEN[:-1]}",
        f"Bearer {OPERATOR_TOKEN} {OPERATOR_TOKEN}",
        f"Basic {OPERATOR_TOKEN}",
        OPERATOR_TOKEN,
        "Bearer \xfftoken",
    ):
        headers = {} if given is None else {"Authorization": given}
        reply = await send(operator.session, method, url, data=b"{", headers=headers)
        assert (reply.status, reply.body["type"]) == (401, "unauthenticated"), given
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert "WWW-Authenticate" in reply.headers
    assert await operator.owner.fetchval(count) == before


async def test_every_request_of_an_operator_has_a_number_in_answer_and_log(operator: Operator) -> None:
    """With a number of its own, refused and not; with none, and with one that cannot be logged: a new one."""
    company = operator.company
    url = f"http://127.0.0.1:{company.maintenance.port}/v1/clock"
    right = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    for headers, status in ((right, 200), ({}, 401)):
        reply = await send(operator.session, "GET", url, headers={**headers, "X-Request-Id": f"mine-{status}"})
        assert (reply.status, reply.headers["X-Request-Id"]) == (status, f"mine-{status}")
        assert [
            line["status"]
            for line in company.maintenance.lines("operator.request")
            if line["request_id"] == f"mine-{status}"
        ] == [status]
    made = set()
    for given in ({}, {"X-Request-Id": "two words"}):
        reply = await send(operator.session, "GET", url, headers={**right, **given})
        made.add(reply.headers["X-Request-Id"])
    logged = {line["request_id"] for line in company.maintenance.lines("operator.request")}
    assert made <= logged
    assert {uuid.UUID(number).version for number in made} == {4}


async def test_a_field_that_is_given_twice_is_refused_to_operators_too(operator: Operator) -> None:
    """Two reasons in one body: malformed, the field is named."""
    url = f"http://127.0.0.1:{operator.company.maintenance.port}/v1/windows/1/cancel"
    headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}", "Content-Type": "application/json"}
    reply = await send(operator.session, "POST", url, data=b'{"reason": "a", "reason": "b"}', headers=headers)
    assert (reply.status, reply.body["type"], reply.body["field"]) == (400, "malformed-json", "reason")


async def test_no_operators_route_is_reached_through_the_balancer(operator: Operator) -> None:
    """With the right token, at the balancer and at a node: 404, as for any path that does not exist."""
    headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    for base in (operator.company.url, f"http://127.0.0.1:{operator.company.portals[0].port}"):
        for path in ("windows", "clock"):
            reply = await send(operator.session, "GET", f"{base}/v1/{path}", headers=headers)
            assert reply.status == 404


async def test_other_methods_and_paths_are_refused_with_a_problem(operator: Operator) -> None:
    """With the right token: 405 names what is possible, 404 for a path that does not exist."""
    reply = await operator.ask("PUT", "windows", {})
    assert (reply.status, reply.body["type"], reply.headers["Allow"]) == (405, "method-not-allowed", "GET, HEAD, POST")
    for method, path in (("DELETE", "windows/1"), ("GET", "nothing"), ("GET", "windows/1/move/x")):
        reply = await operator.ask(method, path)
        assert (reply.status, reply.body["type"]) == (404, "not-found")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "field"),
    [
        ("windows", [], 400, "invalid-field", "body"),
        ("windows", {}, 400, "invalid-field", "starts_at"),
        ("windows", {"starts_at": "tomorrow"}, 400, "invalid-field", "starts_at"),
        ("windows", {"starts_at": 1_900_000_000}, 400, "invalid-field", "starts_at"),
        ("windows", {"starts_at": "2031-01-01T00:00:00"}, 400, "invalid-field", "starts_at"),
        ("windows", {"starts_at": "2001-01-01T00:00:00Z"}, 422, "window-too-soon", "starts_at"),
        ("windows", {"starts_at": "9999-12-31T23:59:59Z"}, 422, "window-too-far", "starts_at"),
        ("windows", {"starts_at": "9999-12-31T23:59:59-12:00"}, 422, "window-too-far", "starts_at"),
        ("windows", {"starts_at": "0001-01-01T00:00:00+12:00"}, 422, "window-too-soon", "starts_at"),
        ("windows", {"starts_at": "AHEAD", "minutes": 29}, 400, "invalid-field", "minutes"),
        ("windows", {"starts_at": "AHEAD", "minutes": 61}, 400, "invalid-field", "minutes"),
        ("windows", {"starts_at": "AHEAD", "minutes": 45.5}, 400, "invalid-field", "minutes"),
        ("windows", {"starts_at": "AHEAD", "minutes": "45"}, 400, "invalid-field", "minutes"),
        ("windows", {"starts_at": "AHEAD", "reason": ""}, 400, "invalid-field", "reason"),
        ("windows", {"starts_at": "AHEAD", "reason": "x" * 201}, 400, "invalid-field", "reason"),
        ("windows", {"starts_at": "AHEAD", "reason": "a\r\nBcc: all"}, 400, "invalid-field", "reason"),
        ("windows", {"starts_at": "AHEAD", "reason": "nul\0"}, 400, "invalid-field", "reason"),
        ("windows", {"starts_at": "AHEAD", "stage": "open"}, 400, "invalid-field", "stage"),
        ("windows/1/move", {"starts_at": "AHEAD"}, 400, "invalid-field", "reason"),
        ("windows/999999/move", {"starts_at": "AHEAD", "reason": "r"}, 404, "not-found", "window"),
        ("windows/999999/cancel", {"reason": "r"}, 404, "not-found", "window"),
        ("windows/999999/finish", {"reason": "r"}, 404, "not-found", "window"),
        ("windows/0/cancel", {"reason": "r"}, 404, "not-found", "window"),
        ("windows/-1/cancel", {"reason": "r"}, 404, "not-found", "window"),
        ("windows/99999999999999999999/cancel", {"reason": "r"}, 404, "not-found", "window"),
        ("windows/9223372036854775808/cancel", {"reason": "r"}, 404, "not-found", "window"),
        ("windows/one/cancel", {"reason": "r"}, 404, "not-found", "window"),
        ("windows/%C2%B2/cancel", {"reason": "r"}, 404, "not-found", "window"),
        ("clock", {}, 400, "invalid-field", "body"),
        ("clock", {"to": "2031-01-01T00:00:00"}, 400, "invalid-field", "to"),
        ("clock", {"to": "2001-01-01T00:00:00Z"}, 422, "clock-backwards", "to"),
        ("clock", {"to": "0001-01-01T00:00:00+12:00"}, 422, "clock-backwards", "to"),
        ("clock", {"by_s": 0}, 400, "invalid-field", "by_s"),
        ("clock", {"by_s": -5}, 400, "invalid-field", "by_s"),
        ("clock", {"by_s": 1e18}, 400, "invalid-field", "by_s"),
        ("clock", {"to": "AHEAD", "by_s": 5}, 400, "invalid-field", "body"),
        ("clock", {"to": "9999-12-31T23:59:59Z"}, 422, "clock-too-far", "to"),
        ("clock", {"rate": 0}, 400, "invalid-field", "rate"),
        ("clock", {"rate": 1e7}, 400, "invalid-field", "rate"),
        ("clock", {"rate": "60"}, 400, "invalid-field", "rate"),
    ],
)
async def test_bad_input_is_refused_with_its_field_and_changes_nothing(
    operator: Operator, path: str, body: Any, status: int, kind: str, field: str
) -> None:
    """Each as an operator: a problem document that names the field; no window, no new piece of the clock."""
    ahead = (await operator.clock() + timedelta(hours=30)).isoformat()
    sent = json.loads(json.dumps(body).replace("AHEAD", ahead))

    async def all_of_it() -> Any:
        return await operator.owner.fetchrow(
            "select (select count(*) from window_event), (select count(*) from business_clock)"
        )

    before = await all_of_it()
    reply = await operator.ask("POST", path, sent)
    assert (reply.status, reply.body["type"], reply.body["field"]) == (status, kind, field), reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.body["detail"]
    assert await all_of_it() == before


@pytest.mark.parametrize(
    ("headers", "data", "status", "kind"),
    [
        ({"Content-Type": "application/json"}, b"{", 400, "malformed-json"),
        ({"Content-Type": "application/json"}, b'{"rate": NaN}', 400, "invalid-field"),
        ({"Content-Type": "application/json"}, b'{"reason": "\\ud800"}', 400, "malformed-json"),
        ({"Content-Type": "application/json"}, b"\xff", 400, "malformed-json"),
        ({"Content-Type": "text/plain"}, b"{}", 415, "unsupported-media-type"),
        ({"Content-Type": "application/json"}, b" " * 20_000, 413, "body-too-large"),
    ],
)
async def test_a_malformed_body_is_refused(
    operator: Operator, headers: dict[str, str], data: bytes, status: int, kind: str
) -> None:
    """Each to the clock and to the windows."""
    for path in ("clock", "windows"):
        url = f"http://127.0.0.1:{operator.company.maintenance.port}/v1/{path}"
        sent = {"Authorization": f"Bearer {OPERATOR_TOKEN}", **headers}
        reply = await send(operator.session, "POST", url, data=data, headers=sent)
        assert (reply.status, reply.body["type"]) == (status, kind)


async def test_windows_never_overlap_and_are_never_planned_too_soon(operator: Operator) -> None:
    """Plans one, then others that touch it: 409 for each that shares a moment with it, none that only touches it."""
    number = await operator.plan(hours_ahead=30, minutes=60)
    row = await operator.row(number)
    minute = timedelta(minutes=1)
    for starts_at, minutes, expected in (
        (row["planned_start"], 30, 409),
        (row["planned_start"] + 20 * minute, 30, 409),
        (row["planned_end"] - minute, 30, 409),
        (row["planned_start"] - 29 * minute, 30, 409),
        (row["planned_start"] - 30 * minute, 30, 201),
        (row["planned_end"], 30, 201),
    ):
        reply = await operator.ask("POST", "windows", {"starts_at": starts_at.isoformat(), "minutes": minutes})
        assert reply.status == expected, reply.body
        if expected == 409:
            assert (reply.body["type"], reply.body["field"]) == ("window-time-taken", "starts_at")
            assert str(number) in reply.body["detail"]
    soon = await operator.clock() + timedelta(hours=24, minutes=30)
    reply = await operator.ask("POST", "windows", {"starts_at": soon.isoformat()})
    assert (reply.status, reply.body["type"]) == (422, "window-too-soon")


async def test_a_moved_window_is_told_of_anew(operator: Operator) -> None:
    """Moves a noticed window: a new revision, longer by the way, scheduled until everybody has been told again."""
    number = await operator.noticed()
    starts_at = await operator.clock() + timedelta(hours=40)
    body = {"starts_at": starts_at.isoformat(), "minutes": 50, "reason": "the provider asked for it"}
    reply = await operator.ask("POST", f"windows/{number}/move", body)
    assert reply.status == 200, reply.body
    window = await operator.window(number)
    assert (window["revision"], window["stage"], window["reason"]) == (2, "scheduled", "the provider asked for it")
    assert datetime.fromisoformat(window["ends_at"]) - datetime.fromisoformat(window["starts_at"]) == timedelta(
        minutes=50
    )
    assert await operator.tell_everybody() == 12
    await operator.reaches(number, "noticed")


async def test_what_has_begun_is_neither_moved_nor_cancelled_and_runs_at_sixty_at_most(operator: Operator) -> None:
    """In a closed window: 409 to move, to cancel and to a rate of 61; an open one's work cannot be finished."""
    number = await operator.closed()
    ahead = (await operator.clock() + timedelta(hours=30)).isoformat()
    for path, body, kind in (
        (f"windows/{number}/move", {"starts_at": ahead, "reason": "r"}, "window-begun"),
        (f"windows/{number}/cancel", {"reason": "r"}, "window-begun"),
        ("clock", {"rate": 61}, "window-under-way"),
    ):
        reply = await operator.ask("POST", path, body)
        assert (reply.status, reply.body["type"]) == (409, kind)
    await operator.opened(number)
    reply = await operator.ask("POST", f"windows/{number}/finish", {"reason": "r"})
    assert (reply.status, reply.body["type"]) == (409, "window-not-closed")


async def test_the_command_line_plans_lists_moves_and_cancels(operator: Operator) -> None:
    """Each command as a process of its own, against the maintenance process: what it prints, as text and as JSON."""
    stage, port = operator.company.stage, operator.company.maintenance.port
    environment = {"OPERATOR_URL": f"http://127.0.0.1:{port}", "OPERATOR_TOKEN": OPERATOR_TOKEN}

    def run(*arguments: str, **other: str) -> tuple[int, str, str]:
        ended = stage.run("operator", *arguments, **{**environment, **other})
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stdout, ended.stderr

    starts_at = (await operator.clock() + timedelta(hours=30)).isoformat()
    status, said, _ = run("windows", "schedule", "--starts-at", starts_at, "--minutes", "40", "--json")
    number = json.loads(said)["id"]
    assert status == 0
    assert run("windows", "move", str(number), "--starts-at", starts_at, "--reason", "tested")[:2] == (
        0,
        f"window {number}\n",
    )
    assert f"window {number}  revision 2  scheduled" in run("windows", "list")[1]
    assert run("windows", "cancel", str(number), "--reason", "tested")[0] == 0
    listed = json.loads(run("windows", "list", "--json")[1])["windows"]
    assert next(window["stage"] for window in listed if window["id"] == number) == "cancelled"
    status, said, _ = run("clock", "forward", "--by", "3600", "--json")
    assert status == 0
    assert json.loads(said)["rate"] == 1.0
    assert run("clock", "show")[1].endswith("at 1 times wall time\n")

    status, _, problem = run("windows", "cancel", str(number), "--reason", "again")
    assert (status, problem) == (
        1,
        "operator: refused: Window has begun (window): It is under way, over or cancelled.\n",
    )
    assert run("clock", "show", OPERATOR_TOKEN="nobody")[2].startswith("operator: refused: Unauthenticated:")


async def test_a_short_or_missing_token_ends_the_start(operator: Operator) -> None:
    """The maintenance process without a token, and with one of 15 characters: exit code 64, the variable is named."""
    company = operator.company
    for token in ("", "x" * 15, "with a space in the middle"):
        ended = company.stage.run(
            "maintenance",
            HOLDFAST_PORT="20999",
            HOLDFAST_DATA_DIR=str(company.maintenance.folder),
            DATABASE_URL=company.postgres.outputs()["maintenance_dsn"],
            OPERATOR_TOKEN=token,
        )
        assert ended.returncode == 64
        assert "OPERATOR_TOKEN" in ended.stderr
        assert "x" * 15 not in ended.stderr


async def test_a_maintenance_process_that_cannot_sign_says_what_to_mend_and_ends(operator: Operator) -> None:
    """A second one, with a damaged key and with a key of its own: exit code 1, the reason, no traceback."""
    company = operator.company
    number = await operator.noticed()
    url = company.postgres.outputs()["maintenance_dsn"]
    for name, content in (("damaged", b"not a key"), ("another", None)):
        folder = company.stage.folder / f"{name}-folder"
        folder.mkdir()
        if content is not None:
            key = folder / KEY_FILE
            key.write_bytes(content)
            key.chmod(0o600)
        process = company.stage.add(
            name, "maintenance", DATABASE_URL=url, OPERATOR_TOKEN=OPERATOR_TOKEN, HOLDFAST_DATA_DIR=str(folder)
        )
        assert process.running is not None
        assert await asyncio.to_thread(process.running.wait, 20) == 1
        said = process.log.read_text()
        assert "Traceback" not in said, said
        assert "maintenance: " in said
    await operator.forward((await operator.row(number))["planned_start"], rate=OFTEN)
    await operator.reaches(number, "closed")
    assert await operator.changes(number) == ["scheduled", "noticed", "draining", "closed"]


async def test_the_maintenance_process_shows_where_its_windows_are(operator: Operator) -> None:
    """Its metrics before and in a window: every label exists, the stage is one of them."""
    port = operator.company.maintenance.port
    await operator.closed()
    text = get(port, "/metrics")[1].decode()
    for line in (
        'savings_window_stage{stage="closed"} 1.0',
        'savings_window_stage{stage="draining"} 0.0',
        'savings_window_steps_total{change="overrun"} ',
        'savings_window_verifications_total{outcome="unfinished"} ',
        "savings_window_overrun_seconds 0.0",
        "savings_windows_upcoming 0.0",
        "savings_window_tick_errors_total 0.0",
    ):
        assert line in text, line


async def test_only_those_whose_duty_it_is_may_change_windows_and_the_clock(operator: Operator) -> None:
    """Every other role of the database tries each function and table of the windows: refused each time."""
    outputs = operator.company.postgres.outputs()
    acts = {
        "step": "select step_window(1, 1, 'opened', 'open', now(), now(), now(), 'r', 1)",
        "schedule": "select schedule_window(now(), 45, 'r', interval '0')",
        "move": "select move_window(1, now(), 45, 'r', interval '0')",
        "cancel": "select cancel_window(1, 'r')",
        "finish": "select finish_window_work(1, 'r')",
        "clock": "select forward_business_clock(now(), 1)",
        "clock itself": "select set_business_clock(now(), 1)",
        "inner change": "select take_turn('maintenance_window')",
        "state": "update service_state set stage = 'open'",
        "window": "update maintenance_window set stage = 'open'",
        "history": "insert into window_event (window_id) values (1)",
        "pace": "update settlement_pace set per_second = 5000",
    }
    inner = {"clock itself", "inner change", "state", "window", "history", "pace"}
    for name, dsn in outputs.items():
        if not name.endswith("dsn") or name == "admin_dsn":
            continue
        connection = await asyncpg.connect(dsn)
        try:
            for act, statement in acts.items():
                if name == "maintenance_dsn" and act not in inner:
                    continue
                with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
                    await connection.execute(statement)
        finally:
            await connection.close(timeout=5)
