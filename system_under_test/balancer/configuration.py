"""Envoy's static configuration from a list of nodes, as data.

What a request survives is decided here:

    node answers not at all   reset or 0.4 s -> another node, where a key or a safe method allows to try again
    node is gone              first connection error -> out at once (outlier detection), health check keeps it out
    node drains               /readyz is 503 -> out at the next check (0.25 s)
    node says no on purpose   503 with x-envoy-ratelimited -> passed on, neither tried again nor held against the node
    too many tries            a quarter of the requests under way at most, or 200: retries must not feed an overload
    no node is left           503 at once, with Retry-After where nothing was ever sent
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from system_under_test.balancer.faults import RUNTIME, fault_filter
from system_under_test.balancer.health_lies import health_cluster, health_listener, pipe
from system_under_test.balancer.upstreams import Upstream

CLUSTER: Final = "portal"
PER_TRY_S: Final = 0.4
ROUTE_S: Final = 3.0
"""Includes all tries."""
STREAM_IDLE_S: Final = 12.0
"""A node sends something on every event stream each five seconds."""

_TYPE: Final = "type.googleapis.com/envoy"
# Far above what this machine can do.
_UNLIMITED: Final = 10_000
_RETRIES_PERCENT: Final = 25.0
_RETRIES_MIN: Final = 200
"""The balancer's default of three at a time would drop retries when a node dies; without any limit they multiply what
is too much already, and go on doing so when it is no longer."""
_CONNECTIONS_MAX: Final = 10_000
# The portal keeps idle connections longer than this, so that it never closes one that is being written to.
_UPSTREAM_IDLE_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where Envoy listens on the loopback interface: for clients, and for its own administration."""

    clients: int
    admin: int


def envoy_configuration(
    ports: Ports,
    upstreams: Sequence[Upstream],
    *,
    retries: bool,
    instance: str,
    fault_prefixes: Sequence[str] = (),
    health_lies: bool = False,
) -> dict[str, Any]:
    """The bootstrap configuration, ready to be written as JSON.

    For each of `fault_prefixes` ("/" or "/v1/deposits") it has a filter that can abort and delay the requests below it;
    they do nothing until told to by the administration's runtime settings. Without any, no request passes one. With
    `health_lies` each node's health is asked through a listener of its own, with such a filter.
    """
    names = {upstream.port: f"@savings-health-{ports.admin}-{upstream.port}" for upstream in upstreams if health_lies}
    return {
        **({"layered_runtime": RUNTIME} if fault_prefixes or health_lies else {}),
        "node": {"id": instance, "cluster": "savings"},
        "admin": {"address": _loopback(ports.admin)},
        "static_resources": {
            "listeners": [
                _listener(ports.clients, retries=retries, fault_prefixes=fault_prefixes),
                *map(health_listener, names.items()),
            ],
            "clusters": [_cluster(upstreams, names), *map(health_cluster, names)],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _CONNECTIONS_MAX,
                    },
                }
            ]
        },
    }


def _listener(port: int, *, retries: bool, fault_prefixes: Sequence[str]) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        # Every client counts as a stranger: what it says in x-envoy-* is not believed.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 24}]},
        # A request keeps the id its client gave it, in every log.
        "preserve_external_request_id": True,
        "request_id_extension": {
            "typed_config": {
                "@type": f"{_TYPE}.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        # From a request's first byte to the end of its headers; a node that waits for the body has its own limit.
        "request_headers_timeout": "10s",
        "access_log": [_access_log()],
        "local_reply_config": _local_replies(),
        "http_filters": [
            *(fault_filter(prefix) for prefix in fault_prefixes),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            },
        ],
        "route_config": {
            "name": "savings",
            "virtual_hosts": [
                {
                    "name": "savings",
                    "domains": ["*"],
                    "include_request_attempt_count": True,
                    "include_attempt_count_in_response": True,
                    "routes": _routes(retries=retries),
                }
            ],
        },
    }
    return {
        "name": "clients",
        "address": _loopback(port),
        "enable_reuse_port": False,  # or a second balancer would share the port in silence
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _routes(*, retries: bool) -> list[dict[str, Any]]:
    safe_method = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    keyed = {"name": "Idempotency-Key", "present_match": True}
    again = _try_anywhere_else() if retries else None
    # Nothing was sent yet: safe for whatever the request is.
    only_unsent = {"retry_on": "connect-failure,refused-stream", **_RETRY_ELSEWHERE} if retries else None
    return [
        _stream(again),
        _route({"prefix": "/v1/"}, again, [safe_method]),
        _route({"prefix": "/v1/"}, again, [keyed]),
        _route({"prefix": "/v1/"}, only_unsent, []),
        _route({"path": "/openapi.json"}, again, [safe_method]),
        _route({"path": "/"}, again, [safe_method]),
        _route({"prefix": "/web/"}, again, [safe_method]),
        # Health and metrics are each node's own; through a balancer they would be some node's.
        {"match": {"prefix": "/"}, "direct_response": {"status": 404, "body": {"inline_string": "no such resource"}}},
    ]


def _route(path: Mapping[str, str], retry: Mapping[str, Any] | None, headers: Sequence[Any]) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": CLUSTER, "timeout": _seconds(ROUTE_S)}
    if retry is not None:
        action["retry_policy"] = dict(retry)
    return {"match": {**path, "headers": list(headers)}, "route": action}


def _stream(retry: Mapping[str, Any] | None) -> dict[str, Any]:
    # Lasts as long as something is sent. The limit on one try is one on its first byte, as long as the whole has none.
    route = _route({"path": "/v1/events"}, retry, [])
    route["route"] |= {"timeout": "0s", "idle_timeout": _seconds(STREAM_IDLE_S)}
    return route


_RETRY_ELSEWHERE: Final[Mapping[str, Any]] = {
    "num_retries": 4,
    "host_selection_retry_max_attempts": 8,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": f"{_TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
}


def _try_anywhere_else() -> dict[str, Any]:
    return {
        "retry_on": "reset,connect-failure,refused-stream,retriable-status-codes",
        "retriable_status_codes": [502, 503],
        "per_try_timeout": _seconds(PER_TRY_S),
        **_RETRY_ELSEWHERE,
    }


def _cluster(upstreams: Sequence[Upstream], health_at: Mapping[int, str]) -> dict[str, Any]:
    return {
        "name": CLUSTER,
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",  # fewest requests would draw traffic to a dead node, which fails fast
        "connect_timeout": "0.25s",
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},  # never to nodes known to be out, even when they are most
            "update_merge_window": "0s",  # the default holds a second change back for a second
        },
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _UNLIMITED,
                    "max_pending_requests": _UNLIMITED,
                    "max_requests": _UNLIMITED,
                    "retry_budget": {
                        "budget_percent": {"value": _RETRIES_PERCENT},
                        "min_retry_concurrency": _RETRIES_MIN,
                    },
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": _seconds(_UPSTREAM_IDLE_S)},
                "outlier_detection": {"error_matcher": _held_against_a_node()},
            }
        },
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": _endpoints(upstreams, health_at),
            "policy": {"overprovisioning_factor": 200},  # a node that calls itself degraded loses all of its traffic
        },
    }


def _endpoints(upstreams: Sequence[Upstream], health_at: Mapping[int, str]) -> list[dict[str, Any]]:
    # Both zones have the same priority, and turns go over all nodes: each node gets the same share.
    zones = dict.fromkeys(upstream.zone for upstream in upstreams)
    return [
        {
            "locality": {"zone": zone},
            "lb_endpoints": [
                {
                    "endpoint": {
                        "address": _loopback(upstream.port),
                        **(
                            {"health_check_config": {"address": pipe(health_at[upstream.port])}}
                            if upstream.port in health_at
                            else {}
                        ),
                    }
                }
                for upstream in upstreams
                if upstream.zone == zone
            ],
        }
        for zone in zones
    ]


def _health_check() -> dict[str, Any]:
    # A 503 counts at once. Two timeouts in a row, not one: a short freeze of the machine must not take all nodes out;
    # a node that hangs is put out earlier by its first request's time limit.
    return {
        "interval": "0.25s",
        "timeout": "0.35s",
        "unhealthy_interval": "0.25s",
        "no_traffic_interval": "0.25s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }


def _held_against_a_node() -> dict[str, Any]:
    # Everything else counts as a success. The header alone keeps a refusal from being tried again, not from ejecting.
    gateway_failure = {"name": ":status", "string_match": {"safe_regex": {"regex": "50[234]"}}}
    on_purpose = {"name": "x-envoy-ratelimited", "present_match": True}
    return {
        "and_match": {
            "rules": [
                {"http_response_headers_match": {"headers": [gateway_failure]}},
                {"not_match": {"http_response_headers_match": {"headers": [on_purpose]}}},
            ]
        }
    }


def _outlier_detection() -> dict[str, Any]:
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 1,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "consecutive_5xx": 3,  # of the answers that are held against a node, and no others
        "enforcing_consecutive_5xx": 100,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "0.5s",
        "base_ejection_time": "1s",
        "max_ejection_time": "3s",
        "max_ejection_percent": 67,  # the default of 10 % lets one of four go only because it is the first
    }


def _local_replies() -> dict[str, Any]:
    return {
        "mappers": [
            {
                "filter": {
                    "and_filter": {
                        "filters": [
                            {"response_flag_filter": {"flags": ["UH"]}},
                            # Only when no try came before: what was sent once may have happened, and
                            # Retry-After would promise that it did not. The header that counts the tries is not
                            # asked: while a second try looks for a node, it still says 1.
                            {
                                "extension_filter": {
                                    "name": "first try",
                                    "typed_config": {
                                        "@type": f"{_TYPE}.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                                        "expression": "upstream.request_attempt_count < 2u",
                                    },
                                }
                            },
                        ]
                    }
                },
                "headers_to_add": [{"header": {"key": "Retry-After", "value": "1"}}],
            }
        ],
        "body_format": {
            "content_type": "application/problem+json",
            "json_format": {
                "type": "about:blank",
                "title": "Balancer",
                "status": "%RESPONSE_CODE%",
                "detail": "%LOCAL_REPLY_BODY%",
            },
        },
    }


def _access_log() -> dict[str, Any]:
    fields = {
        "event": "balancer.request",
        "started": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "response_code": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        "response_details": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "upstream_host": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": fields},
        },
    }


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
