"""The balancer's configuration is what zero lost requests needs, and Envoy accepts it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from system_under_test.balancer.configuration import PER_TRY_S, ROUTE_S, STREAM_IDLE_S, Ports, envoy_configuration
from system_under_test.balancer.launcher import _envoy, fault_prefixes_of
from system_under_test.balancer.upstreams import Upstream, parse_upstreams
from system_under_test.services.portal.events import HEARTBEAT_S
from system_under_test.settings import ConfigurationError

NODES = parse_upstreams("127.0.0.1:20011@a,127.0.0.1:20012@b,127.0.0.1:20013@a,127.0.0.1:20014@b")


def configuration(*, retries: bool = True, nodes: tuple[Upstream, ...] = NODES) -> dict[str, Any]:
    """The whole configuration for `nodes`."""
    return envoy_configuration(Ports(clients=20001, admin=20002), nodes, retries=retries, instance="balancer")


def routes(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Its routes, in order."""
    manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    found: list[dict[str, Any]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return found


def addresses(value: Any) -> set[str]:
    """Every address that stands anywhere in `value`."""
    if isinstance(value, dict):
        own = {value["address"]} if isinstance(value.get("address"), str) else set()
        return own.union(*map(addresses, value.values()))
    if isinstance(value, list):
        return set().union(*map(addresses, value))
    return set()


@pytest.mark.parametrize("retries", [True, False])
def test_envoy_accepts_it(tmp_path: Path, *, retries: bool) -> None:
    """Envoy's own validation of the file, with warnings as errors would hide: the last line says OK."""
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(configuration(retries=retries)), encoding="utf-8")
    command = [str(_envoy()), "--mode", "validate", "--log-level", "warning", "-c", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr.lower()
    assert result.stdout.strip().endswith("OK")


def test_only_the_loopback_interface_is_used() -> None:
    """Every address in the whole configuration."""
    assert addresses(configuration()) == {"127.0.0.1"}


def test_only_safe_and_keyed_requests_are_tried_again_after_they_were_sent() -> None:
    """The routes in order: safe methods and keyed requests recover from resets, the rest only from failed connects."""
    by_condition = {
        (
            route["match"].get("prefix") or route["match"]["path"],
            *(h["name"] for h in route["match"].get("headers", [])),
        ): (route.get("route", {}).get("retry_policy", {}).get("retry_on"))
        for route in routes(configuration())
    }
    anywhere = "reset,connect-failure,refused-stream,retriable-status-codes"
    assert by_condition == {
        ("/v1/events",): anywhere,
        ("/v1/", ":method"): anywhere,
        ("/v1/", "Idempotency-Key"): anywhere,
        ("/openapi.json", ":method"): anywhere,
        ("/", ":method"): anywhere,
        ("/web/", ":method"): anywhere,
        ("/v1/",): "connect-failure,refused-stream",
        ("/",): None,
    }


def test_without_retries_no_route_has_a_retry_policy() -> None:
    """RETRIES=off."""
    assert "retry_policy" not in json.dumps(configuration(retries=False))


def test_a_hung_node_leaves_time_for_another_one() -> None:
    """All tries fit into the route's limit, and one try is under half a second."""
    policy = routes(configuration())[1]["route"]["retry_policy"]
    assert policy["per_try_timeout"] == f"{PER_TRY_S:g}s"
    assert PER_TRY_S < 0.5
    assert PER_TRY_S * (1 + policy["num_retries"]) < ROUTE_S


@pytest.mark.parametrize("retries", [True, False])
def test_a_stream_is_cut_only_when_it_is_silent(*, retries: bool) -> None:
    """The first route: no limit on the whole, and more than two heartbeats of silence."""
    stream = routes(configuration(retries=retries))[0]
    assert stream["match"]["path"] == "/v1/events"
    assert stream["route"]["timeout"] == "0s"
    assert stream["route"]["idle_timeout"] == f"{STREAM_IDLE_S:g}s"
    assert STREAM_IDLE_S > 2 * HEARTBEAT_S


def test_every_node_is_in_its_zone_once() -> None:
    """Two zones with two nodes each, of one priority."""
    zones = configuration()["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
    found = {
        zone["locality"]["zone"]: [
            node["endpoint"]["address"]["socket_address"]["port_value"] for node in zone["lb_endpoints"]
        ]
        for zone in zones
    }
    assert found == {"a": [20011, 20013], "b": [20012, 20014]}
    assert not any("priority" in zone for zone in zones)


def test_the_settings_that_cost_requests_when_forgotten_are_set() -> None:
    """Each is a default of Envoy's that loses requests here."""
    cluster = configuration()["static_resources"]["clusters"][0]
    assert cluster["common_lb_config"]["update_merge_window"] == "0s"
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}
    assert cluster["health_checks"][0]["no_traffic_interval"] == "0.25s"
    assert cluster["outlier_detection"]["split_external_local_origin_errors"] is True
    assert cluster["outlier_detection"]["consecutive_local_origin_failure"] == 1
    assert cluster["outlier_detection"]["max_ejection_percent"] > 50
    assert cluster["load_assignment"]["policy"]["overprovisioning_factor"] == 200


def test_a_burst_of_retries_is_in_the_budget_and_a_flood_is_not() -> None:
    """Two hundred at a time are always allowed: more than are under way on a node that dies; no fixed number is."""
    breaker = configuration()["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"][0]
    limits = [breaker[name] for name in ("max_connections", "max_pending_requests", "max_requests")]
    assert min(limits) >= 1000
    assert breaker["retry_budget"] == {"budget_percent": {"value": 25.0}, "min_retry_concurrency": 200}
    assert "max_retries" not in breaker


def test_nodes_are_read_with_and_without_zones() -> None:
    """Spaces around a node are allowed; without a zone it is the default one."""
    assert parse_upstreams("127.0.0.1:1, 127.0.0.1:2@b") == (
        Upstream(port=1, zone="default"),
        Upstream(port=2, zone="b"),
    )


def test_nothing_is_in_the_path_of_requests_unless_it_is_asked_for() -> None:
    """One filter for each path, before the router, that does nothing by itself; without any only the router."""
    asked = filters(fault_prefixes=("/", "/v1/deposits"))
    assert [each["name"] for each in asked][-1] == "envoy.filters.http.router"
    whole, some = (each["typed_config"] for each in asked[:-1])
    assert whole["abort"]["percentage"]["numerator"] == whole["delay"]["percentage"]["numerator"] == 0
    assert whole["abort_percent_runtime"] == "fault.http.abort.abort_percent"
    assert "headers" not in whole
    assert some["delay_duration_runtime"] == "fault.http.v1.deposits.delay.fixed_duration_ms"
    assert some["headers"] == [{"name": ":path", "string_match": {"prefix": "/v1/deposits"}}]
    assert [each["name"] for each in filters()] == ["envoy.filters.http.router"]


def filters(**more: Any) -> list[Any]:
    """What a request passes."""
    whole = envoy_configuration(
        Ports(clients=1, admin=2), parse_upstreams("127.0.0.1:3"), retries=True, instance="balancer-1", **more
    )
    assert ("layered_runtime" in whole) is bool(more)
    (listener,) = whole["static_resources"]["listeners"]
    found: list[Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    return found


def test_the_paths_are_those_of_every_variable_that_begins_so() -> None:
    """Empty ones count as not set; what is no path is told by its variable."""
    given = {"HTTP_FAULTS_V1_DEPOSITS": "/v1/deposits", "HTTP_FAULTS": "/", "HTTP_FAULTS_X": "", "OTHER": "/x"}
    assert fault_prefixes_of(given) == ("/", "/v1/deposits")
    with pytest.raises(ConfigurationError, match=r"HTTP_FAULTS_X: expected a path such as / or /v1/deposits, got 'v1'"):
        fault_prefixes_of({"HTTP_FAULTS_X": "v1"})


def test_health_is_asked_directly_unless_lies_are_asked_for() -> None:
    """Then through a listener for each node; requests go straight to it in any case."""
    for lies in (False, True):
        whole = envoy_configuration(
            Ports(clients=1, admin=2), parse_upstreams("127.0.0.1:3"), retries=True, instance="b", health_lies=lies
        )
        portal = whole["static_resources"]["clusters"][0]
        endpoint = portal["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        assert endpoint["address"]["socket_address"]["port_value"] == 3
        asked_at = endpoint.get("health_check_config", {}).get("address")
        assert asked_at == ({"pipe": {"path": "@savings-health-2-3"}} if lies else None)
        listeners = [each["name"] for each in whole["static_resources"]["listeners"]]
        assert listeners == (["clients", "health_3"] if lies else ["clients"])
