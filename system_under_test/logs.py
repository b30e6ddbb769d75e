"""Structured logs: one JSON object a line on standard output, flushed at once so that a killed process loses none."""

import sys

import structlog


def configure_logs(instance: str) -> structlog.stdlib.BoundLogger:
    """The logger of this process; every line carries its `instance`."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    log: structlog.stdlib.BoundLogger = structlog.get_logger(instance=instance)
    return log
