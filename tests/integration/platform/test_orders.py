"""Orders happen once, and every refusal says why."""

import asyncio
import json
import re
import uuid
from dataclasses import replace
from typing import Any

import aiohttp
import asyncpg
import pytest

from system_under_test.domain.money import ACCOUNT_MAX
from tests.integration.platform.customers import Customer, log_in, send, until
from tests.integration.platform.stage import Platform, get


async def test_a_deposit_and_a_redemption_move_the_balance_and_are_told_it(customer: Customer) -> None:
    """Deposits and redeems; the receipt has the balance after it, the ticket is settled, the head moves with both."""
    before = await customer.balance()
    paid_in = await customer.order("deposits", {"amount": 700})
    taken_out = await customer.order("redemptions", {"amount": 200})
    assert (paid_in.status, paid_in.body["kind"], paid_in.body["amount"]) == (201, "deposit", 700)
    assert paid_in.body["balance"] == before["balance"] + 700
    assert (taken_out.status, taken_out.body["kind"], taken_out.body["status"]) == (202, "redemption", "queued")
    decided = await customer.decided(taken_out.body["id"])
    assert (decided["status"], decided["reason"], decided["place"]) == ("settled", None, None)
    after = await customer.balance()
    assert after["balance"] == before["balance"] + 500
    assert after["head"] == decided["transfer"] > before["head"]


async def test_one_key_has_one_effect_and_one_answer_under_twenty_tries_at_once(customer: Customer) -> None:
    """Sends one deposit 20 times at the same moment: one balance change, one body, 19 replays."""
    before = await customer.balance()
    key = str(uuid.uuid4())
    replies = await asyncio.gather(*(customer.order("deposits", {"amount": 900}, key=key) for _ in range(20)))
    assert {reply.status for reply in replies} == {201}
    assert len({json.dumps(reply.body) for reply in replies}) == 1
    assert sum(reply.replayed for reply in replies) == 19
    assert (await customer.balance())["balance"] == before["balance"] + 900


async def test_a_key_used_for_another_order_is_refused(customer: Customer) -> None:
    """Uses a deposit's key with another amount, then on the other route: 422, and nothing moves."""
    key = str(uuid.uuid4())
    first = await customer.order("deposits", {"amount": 10}, key=key)
    for route, amount in (("deposits", 11), ("redemptions", 10)):
        reply = await customer.order(route, {"amount": amount}, key=key)
        assert (reply.status, reply.body["type"]) == (422, "idempotency-key-reused")
    assert (await customer.balance())["balance"] == first.body["balance"]


async def test_a_deposit_that_an_account_cannot_hold_is_refused_with_the_reason(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Fills an account up but for 5 units: 6 more are refused, field and limit named; the same key brings 5 in."""
    saver = await log_in(session, platform, 59)
    owner = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    try:
        await owner.execute(
            "insert into transfer (kind, debit_account, credit_account, amount)"
            " select 'deposit', 'custody-' || wallet, id, $2 - balance - 5 from account where id = $1",
            *(saver.account, ACCOUNT_MAX),
        )
    finally:
        await owner.close()
    key = str(uuid.uuid4())
    refused = await saver.order("deposits", {"amount": 6}, key=key)
    assert (refused.status, refused.body["type"], refused.body["field"]) == (422, "account-full", "amount")
    assert str(ACCOUNT_MAX) in refused.body["detail"]
    assert (await saver.balance())["balance"] == ACCOUNT_MAX - 5
    assert (await saver.order("deposits", {"amount": 5}, key=key)).status == 201
    assert (await saver.balance())["balance"] == ACCOUNT_MAX


async def test_two_customers_may_use_the_same_key(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Keys are each customer's own: the second one's order is carried out, not answered with the first one's."""
    first, second = await log_in(session, platform, 1), await log_in(session, platform, 2)
    key = str(uuid.uuid4())
    replies = [await who.order("deposits", {"amount": 5}, key=key) for who in (first, second)]
    assert [reply.replayed for reply in replies] == [False, False]
    assert replies[0].body["id"] != replies[1].body["id"]


async def test_a_redemption_that_was_refused_stays_refused(customer: Customer) -> None:
    """Asks for more than there is, pays in, and asks again with the same key: the first ticket, nothing is paid out."""
    balance = (await customer.balance())["balance"]
    key = str(uuid.uuid4())
    ticket = await customer.order("redemptions", {"amount": balance + 1}, key=key)
    refused = await customer.decided(ticket.body["id"])
    assert (refused["status"], refused["reason"], refused["transfer"]) == ("refused", "insufficient-funds", None)
    await customer.order("deposits", {"amount": 100})
    again = await customer.order("redemptions", {"amount": balance + 1}, key=key)
    assert (again.status, again.body, again.replayed) == (202, ticket.body, True)
    assert await customer.decided(ticket.body["id"]) == refused
    assert (await customer.balance())["balance"] == balance + 100


async def test_many_redemptions_at_once_never_take_more_than_there_is(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Forty redemptions of a tenth at the same moment: exactly ten are settled, the balance ends at zero."""
    saver = await log_in(session, platform, 3)
    balance = (await saver.balance())["balance"]
    tenth = balance // 10
    replies = await asyncio.gather(*(saver.order("redemptions", {"amount": tenth}) for _ in range(40)))
    assert {reply.status for reply in replies} == {202}
    decided = await asyncio.gather(*(saver.decided(reply.body["id"]) for reply in replies))
    assert sorted(one["status"] for one in decided) == ["refused"] * 30 + ["settled"] * 10
    assert (await saver.balance())["balance"] == balance - 10 * tenth


@pytest.mark.parametrize("amount", [0, -5, 5.5, 5.0, True, "5", None, 10**12 + 1, 10**40, [5]])
async def test_an_amount_that_is_no_whole_positive_number_is_refused(customer: Customer, amount: Any) -> None:
    """Sends each as an amount: 400 with a problem document that names the field."""
    reply = await customer.order("deposits", {"amount": amount})
    assert (reply.status, reply.body["type"], reply.body["field"]) == (400, "invalid-field", "amount")


@pytest.mark.parametrize(
    ("headers", "body", "status", "kind"),
    [
        ({"Idempotency-Key": ""}, b'{"amount": 5}', 400, "idempotency-key-malformed"),
        ({"Idempotency-Key": "x" * 256}, b'{"amount": 5}', 400, "idempotency-key-malformed"),
        ({"Idempotency-Key": "a b"}, b'{"amount": 5}', 400, "idempotency-key-malformed"),
        ({"Idempotency-Key": "k"}, b'{"amount": 5', 400, "malformed-json"),
        ({"Idempotency-Key": "k"}, b"", 400, "malformed-json"),
        ({"Idempotency-Key": "k"}, b"[]", 400, "invalid-field"),
        ({"Idempotency-Key": "k"}, b"{}", 400, "invalid-field"),
        ({"Idempotency-Key": "k"}, b'{"amount": 5, "account": "c-000002"}', 400, "invalid-field"),
        ({"Idempotency-Key": "k"}, b"[" * 10_000, 400, "malformed-json"),
        ({"Idempotency-Key": "k"}, b" " * 20_000, 413, "body-too-large"),
        ({"Idempotency-Key": "k", "Content-Type": "text/plain"}, b'{"amount": 5}', 415, "unsupported-media-type"),
        ({}, b'{"amount": 5}', 400, "idempotency-key-missing"),
        ({"Idempotency-Key": "k", "Authorization": ""}, b'{"amount": 5}', 401, "unauthenticated"),
        ({"Idempotency-Key": "k", "Authorization": "Bearer nobody"}, b'{"amount": 5}', 401, "unauthenticated"),
        ({"Idempotency-Key": "k", "Authorization": "Basic Zm9v"}, b'{"amount": 5}', 401, "unauthenticated"),
    ],
)
async def test_a_malformed_order_is_refused_with_its_reason(
    platform: Platform, customer: Customer, headers: dict[str, str], body: bytes, status: int, kind: str
) -> None:
    """Sends each to a node: a problem document with the right type, and never a 500."""
    sent = {"Authorization": f"Bearer {customer.token}", "Content-Type": "application/json", **headers}
    url = f"http://127.0.0.1:{platform.portals[0].port}/v1/deposits"
    reply = await send(customer.session, "POST", url, data=body, headers=sent)
    assert (reply.status, reply.body["type"]) == (status, kind)
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    assert reply.body["status"] == status


async def test_no_customer_sees_or_moves_the_money_of_another(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Three customers act; each answer is about its own account, and only that balance moved."""
    people = [await log_in(session, platform, number) for number in (4, 5, 6)]
    before = [await person.balance() for person in people]
    assert [view["account"] for view in before] == [platform.customers[n]["account"] for n in (4, 5, 6)]
    await people[0].order("deposits", {"amount": 33})
    after = [await person.balance() for person in people]
    assert [b["balance"] - a["balance"] for a, b in zip(before, after, strict=True)] == [33, 0, 0]


async def test_a_wrong_password_and_an_unknown_address_are_refused_alike(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Both are 401 with the same document, so that addresses cannot be tried out."""
    documents = []
    for email in (platform.customers[0]["email"], "nobody@savings.example"):
        reply = await send(session, "POST", f"{platform.url}/v1/sessions", json={"email": email, "password": "wrong"})
        assert reply.status == 401
        documents.append(reply.body)
    assert documents[0] == documents[1]


@pytest.mark.parametrize(
    "email", ["", "nobody", "no\0body@savings.example", "a@b@c", "x" * 300 + "@savings.example", 5]
)
async def test_a_malformed_address_is_refused_before_the_database_sees_it(
    platform: Platform, session: aiohttp.ClientSession, email: Any
) -> None:
    """Each as a log-in's address: 400 that names the field."""
    reply = await send(session, "POST", f"{platform.url}/v1/sessions", json={"email": email, "password": "x"})
    assert (reply.status, reply.body["type"], reply.body["field"]) == (400, "invalid-field", "email")


@pytest.mark.parametrize("said", ["", "-1", "two", "9" * 5000, "²"])
async def test_a_nonsense_count_of_tries_is_taken_for_the_first(
    customer: Customer, platform: Platform, said: str
) -> None:
    """Sends each to a node as x-envoy-attempt-count: the order is carried out."""
    direct = replace(customer, url=f"http://127.0.0.1:{platform.portals[0].port}")
    reply = await direct.order("deposits", {"amount": 1}, **{"x-envoy-attempt-count": said})
    assert reply.status == 201


async def test_unknown_paths_and_methods_get_problem_documents(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """404 and 405 of a node, and the balancer's own 404, are problem documents too."""
    node = f"http://127.0.0.1:{platform.portals[0].port}"
    unknown = await send(session, "GET", f"{node}/v1/nothing")
    assert (unknown.status, unknown.body["type"]) == (404, "not-found")
    method = await send(session, "PUT", f"{node}/v1/deposits")
    assert (method.status, method.body["type"], method.headers["Allow"]) == (405, "method-not-allowed", "POST")
    outside = await send(session, "GET", f"{platform.url}/metrics")
    assert (outside.status, outside.body["status"]) == (404, 404)
    assert outside.headers["Content-Type"] == "application/problem+json"


async def test_a_request_id_reaches_every_log_and_comes_back_unchanged(platform: Platform, customer: Customer) -> None:
    """Sends a plain number as X-Request-Id: the answer, Envoy's log and exactly one node's log carry it."""
    request_id = "1099511627776123"
    reply = await customer.order("deposits", {"amount": 1}, **{"X-Request-Id": request_id})
    assert reply.headers["X-Request-Id"] == request_id
    assert reply.headers["x-envoy-attempt-count"] == "1"
    instance, _, version = reply.headers["X-Served-By"].partition("@")
    assert version == "v1"
    by_node = {
        portal.name: [line for line in portal.lines("http.request") if line["request_id"] == request_id]
        for portal in platform.portals
    }
    assert {name: len(lines) for name, lines in by_node.items() if lines} == {instance: 1}
    line = by_node[instance][0]
    assert (line["route"], line["method"], line["status"], line["attempt"]) == ("/v1/deposits", "POST", 201, 1)

    def in_balancer() -> list[dict[str, Any]]:
        return [line for line in platform.balancer.lines("balancer.request") if line["request_id"] == request_id]

    async with asyncio.timeout(5):  # Envoy flushes its log ten times a second
        await until(lambda: asyncio.to_thread(in_balancer), bool)
    assert [(line["attempts"], line["response_code"]) for line in in_balancer()] == [(1, 201)]


async def test_clients_cannot_steer_the_balancer(platform: Platform, session: aiohttp.ClientSession) -> None:
    """A log-in (20 ms of hashing) that asks the balancer for a time limit of 1 ms gets the usual one."""
    row = platform.customers[0]
    reply = await send(
        session,
        "POST",
        f"{platform.url}/v1/sessions",
        json={"email": row["email"], "password": row["password"]},
        headers={"x-envoy-upstream-rq-timeout-ms": "1"},
    )
    assert reply.status == 201


async def test_every_metric_exists_before_it_is_needed(platform: Platform) -> None:
    """A node's metrics hold the label sets of failures that have not happened, and health checks are not counted."""
    status, body = get(platform.portals[1].port, "/metrics")
    text = body.decode()
    assert status == 200
    for line in (
        'savings_http_requests_total{code="503",method="POST",route="/v1/deposits"}',
        'savings_http_request_duration_seconds_bucket{le="0.25",method="GET",route="/v1/balance"}',
        'savings_ledger_postings_total{kind="redemption",outcome="duplicate"}',
        "savings_idempotent_replays_total ",
        'savings_build_info{version="v1"} 1.0',
        "savings_node_ready 1.0",
        "savings_node_draining 0.0",
    ):
        assert line in text, line
    assert "savings_http_requests_in_flight 0.0" in text
    assert not re.search(r'route="/(readyz|healthz|metrics)"', text)


async def test_the_description_is_served(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Gets /openapi.json through the balancer."""
    reply = await send(session, "GET", f"{platform.url}/openapi.json")
    assert (reply.status, reply.body["openapi"]) == (200, "3.1.0")
