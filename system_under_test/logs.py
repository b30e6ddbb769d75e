"""Structured logs: one JSON object a line on standard output, flushed at once so that a killed process loses none."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

_OVER_AFTER_S: Final = 5.0


def configure_logs(instance: str) -> structlog.stdlib.BoundLogger:
    """The logger of this process; every line carries its `instance`, those of libraries' warnings, too."""
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
    # Nothing where somebody else takes them already, as tests do.
    logging.basicConfig(handlers=[_OfLibraries(log)])
    return log


class _OfLibraries(logging.Handler):
    """Takes what libraries log into lines like ours: otherwise a stranger's half request is ten lines of traceback."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(
            record.levelno, "library", logger=record.name, problem=record.getMessage(), exc_info=record.exc_info
        )


class Troubles:
    """Logs what goes wrong again and again once for each reason: what does not come back for 5 s is over."""

    def __init__(self, log: structlog.stdlib.BoundLogger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock_s = clock
        self._seen_s: dict[tuple[str, str], float] = {}

    def warn(self, event: str, *, problem: str, **fields: Any) -> None:
        """Logs `problem` as a warning, unless it is going on."""
        now_s = self._clock_s()
        self._seen_s = {which: at_s for which, at_s in self._seen_s.items() if now_s - at_s < _OVER_AFTER_S}
        if (event, problem) not in self._seen_s:
            self._log.warning(event, problem=problem, **fields)
        self._seen_s[event, problem] = now_s
