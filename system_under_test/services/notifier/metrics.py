"""What the notifier counts; every label set that can occur exists from the start."""

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from system_under_test.services.notifier.channel import Reason

STATES: Final = ("unsent", "sent", "withdrawn", "undeliverable")


class NotifierMetrics:
    """The outbox as a whole (gauges), and what this process has done since its start (counters)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.notices = Gauge("savings_notices", "Notices in the outbox, by state.", ("state",), registry=registry)
        self.oldest_unsent = Gauge(
            "savings_notices_oldest_unsent_seconds",
            "How long ago the oldest plan with unsent notices was made; 0 when all are sent.",
            registry=registry,
        )
        self.sent = Counter("savings_notices_sent", "Notices that a provider took.", registry=registry)
        self.failures = Counter(
            "savings_notice_failures", "Tries that failed, by reason.", ("reason",), registry=registry
        )
        self.connections = Gauge(
            "savings_notice_connections", "Connections to providers that are open, or being opened.", registry=registry
        )
        self.foreign_key = Gauge(
            "savings_push_foreign_key",
            "1 while customers have subscribed with another key than this notifier's, which sends by e-mail only then.",
            registry=registry,
        )
        for state in STATES:
            self.notices.labels(state)
        for reason in Reason:
            self.failures.labels(reason.value)

    def show(self, states: Any) -> None:
        """Takes over a row of `notice_states()`."""
        for state in STATES:
            self.notices.labels(state).set(states[state])
        self.oldest_unsent.set(states["oldest_unsent_s"])
