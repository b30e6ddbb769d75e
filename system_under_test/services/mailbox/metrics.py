"""What the mailbox counts, since its start."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from system_under_test.services.mailbox.behaviour import STAGES


class MailboxMetrics:
    """The metrics of one mailbox, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.mails = Counter(
            "savings_mailbox_mails", "Mails taken, one for each recipient.", ("kind",), registry=self.registry
        )
        self.refusals = Counter(
            "savings_mailbox_refusals", "What was refused because it was told to.", ("stage",), registry=self.registry
        )
        self.unanswered = Counter(
            "savings_mailbox_unanswered", "Mails whose sender was left without an answer.", registry=self.registry
        )
        self.connections = Gauge(
            "savings_mailbox_connections", "SMTP connections that are open.", registry=self.registry
        )
        self.pushes = Counter(
            "savings_mailbox_pushes",
            "Messages of web push taken; unreadable are those that their subscriber cannot decrypt.",
            ("kind",),
            registry=self.registry,
        )
        self.push_refusals = Counter(
            "savings_mailbox_push_refusals",
            "Messages of web push that were refused, told to or not.",
            registry=self.registry,
        )
        for kind in ("effective", "duplicate", "unreadable"):
            self.pushes.labels(kind)
        for kind in ("effective", "duplicate"):
            self.mails.labels(kind)
        for stage in STAGES:
            self.refusals.labels(stage)
