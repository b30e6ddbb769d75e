"""What a portal node counts; every label set that can occur exists from the start, so that a first error shows."""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from system_under_test.services.portal.admission import Rank
from system_under_test.services.portal.route import UNOBSERVED, Route

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Holds every limit that an experiment may set, exactly.
_BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0),
)
UNMATCHED: Final = "unmatched"
"""The route of a request that no route takes."""


class PortalMetrics:
    """The metrics of one node, in a registry of its own."""

    def __init__(self, *, version: str, routes: Sequence[Route]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "savings_http_requests",
            "Requests answered, by full status.",
            ("method", "route", "code"),
            registry=self.registry,
        )
        self.duration_seconds = Histogram(
            "savings_http_request_duration_seconds",
            "Time from a request's headers to its answer.",
            ("method", "route"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "savings_http_requests_in_flight",
            "Requests of customers being worked on; neither health checks, metrics nor the public status.",
            registry=self.registry,
        )
        self.being_read = Gauge(
            "savings_http_requests_being_read",
            "Requests of customers whose body is waited for; they are not in flight yet.",
            registry=self.registry,
        )
        self.replays = Counter(
            "savings_idempotent_replays",
            "Orders that got the stored answer of an earlier try.",
            registry=self.registry,
        )
        self.postings = Counter(
            "savings_ledger_postings", "Orders answered, by outcome.", ("kind", "outcome"), registry=self.registry
        )
        self.shed = Counter(
            "savings_http_requests_shed",
            "Requests refused because there was too much to do, by how urgent they are.",
            ("rank",),
            registry=self.registry,
        )
        self.ready = Gauge("savings_node_ready", "1 while the node can serve.", registry=self.registry)
        self.draining = Gauge("savings_node_draining", "1 from the request to stop.", registry=self.registry)
        self.build_info = Gauge(
            "savings_build_info", "1 for the running version.", ("version",), registry=self.registry
        )
        self.build_info.labels(version).set(1)
        for route in routes:
            if route.path not in UNOBSERVED:
                if not route.stream:
                    self.duration_seconds.labels(route.method, route.path)
                for code in route.codes:
                    self.requests.labels(route.method, route.path, str(code))
        for rank in Rank:
            self.shed.labels(rank.name.lower())
        for kind in ("deposit", "redemption"):
            for outcome in ("ok", "rejected", "duplicate"):
                self.postings.labels(kind, outcome)

    def render(self) -> bytes:
        """The text that /metrics answers."""
        return generate_latest(self.registry)
