"""For each node a listener of the balancer's own, through which its health is asked: it can be made to lie.

    health check --> @savings-health-... (fault filter: fault.http.health.PORT.abort...) --> node

The listeners are sockets of the abstract namespace: no port is taken, and no file is left.
"""

from typing import Any, Final

from system_under_test.balancer.faults import fault_filter

_TYPE: Final = "type.googleapis.com/envoy"


def pipe(name: str) -> dict[str, Any]:
    """The address of a listener."""
    return {"pipe": {"path": name}}


def health_listener(of: tuple[int, str]) -> dict[str, Any]:
    """The listener for the node with a port, at an address."""
    port, name = of
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"health_{port}",
        "http_filters": [
            fault_filter("/", key=f"fault.http.health.{port}"),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            },
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "health",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": _cluster_name(port)}}],
                }
            ]
        },
    }
    return {
        "name": f"health_{port}",
        "address": pipe(name),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def health_cluster(port: int) -> dict[str, Any]:
    """The node alone, asked by its listener whatever its health; a connection for each question, as a check has."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": _cluster_name(port),
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "load_assignment": {
            "cluster_name": _cluster_name(port),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _cluster_name(port: int) -> str:
    return f"health_{port}"
