"""How a load or prober process talks with the one that started it; see docs/formats.md.

    environment HOLDFAST_URL, HOLDFAST_RUN_DIR, HOLDFAST_SEED  ->  process  ->  one JSON object a line on stdout

Nothing here imports gevent or Locust: the prober uses it too.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

EXIT_FINE: Final = 0
EXIT_FAILED: Final = 1
EXIT_UNUSABLE: Final = 64
IN_FLIGHT_GRACE_S: Final = 10.0
"""How long requests in flight are awaited once the load is told to end."""
STATUS_EVERY_S: Final = 1.0


class UnusableInputError(Exception):
    """Options, environment or locustfile cannot be used; exit 64 with this text and nothing else."""


class LoadError(Exception):
    """The load could not begin, or somebody must look at it; exit 1 with this text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the system under test listens; `authority` is the Host header."""

    host: str
    port: int
    tls: bool
    authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The environment of a load process, checked."""

    url: str
    address: Address
    run_dir: Path
    seed: int
    run_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Running totals of a load.

    `intended` arrivals were due so far and `unsent` of them have not started yet (at the end: never did); `declined`
    are those among `fail` whose answer was a correct no. Lateness is the generator's own: the actual start after the
    intended one although a client was free. Queueing is the wait of arrivals that found every client busy.
    """

    intended: int = 0
    started: int = 0
    completed: int = 0
    ok: int = 0
    fail: int = 0
    info: int = 0
    unsent: int = 0
    declined: int = 0
    lateness_p50_s: float = 0.0
    lateness_p99_s: float = 0.0
    lateness_max_s: float = 0.0
    queued: int = 0
    queueing_p99_s: float = 0.0
    queueing_max_s: float = 0.0
    user_errors: int = 0


def parse_address(url: str) -> Address:
    """The address in `http://host:port` or `https://host[:port]`.

    Raises:
        ValueError: another scheme, no host, or something after the port.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise ValueError(f"expected nothing but scheme, host and port, got {url!r}")
    tls = parts.scheme == "https"
    return Address(
        host=parts.hostname, port=parts.port or (443 if tls else 80), tls=tls, authority=parts.netloc.rpartition("@")[2]
    )


def read_environment(environment: Mapping[str, str]) -> Given:
    """What the starting process gave.

    Raises:
        UnusableInputError: with every problem found, in one line.
    """
    wanted = ("HOLDFAST_URL", "HOLDFAST_RUN_DIR", "HOLDFAST_SEED")
    problems = [f"{name} is not set in the environment" for name in wanted if not environment.get(name)]
    try:
        address = parse_address(environment.get("HOLDFAST_URL") or "http://unset")
    except ValueError as error:
        problems.append(f"HOLDFAST_URL: {error}")
    try:
        seed = int(environment.get("HOLDFAST_SEED") or 0)
    except ValueError:
        problems.append(f"HOLDFAST_SEED: expected an integer, got {environment['HOLDFAST_SEED']!r}")
    run_dir = Path(environment.get("HOLDFAST_RUN_DIR") or ".")
    if not run_dir.is_dir():
        problems.append(f"HOLDFAST_RUN_DIR: {run_dir} is no folder; create it first")
    if problems:
        raise UnusableInputError("; ".join(problems))
    return Given(
        url=environment["HOLDFAST_URL"].rstrip("/"),
        address=address,
        run_dir=run_dir,
        seed=seed,
        run_id=environment.get("HOLDFAST_RUN_ID", ""),
    )


def complain(text: str) -> None:
    """Tells a person something, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Channel:
    """The line protocol on the real standard output; everybody else's `print` goes to standard error from now on."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self.heard = True
        """False once nobody reads any more: the load has lost the process that started it and should end."""

    def say(self, load: str, **fields: Any) -> None:
        """Writes one line in one piece: `{"load": load, ...fields}`."""
        line = json.dumps({"load": load, **fields}, separators=(",", ":")) + "\n"
        try:
            os.write(self._descriptor, line.encode())
        except BrokenPipeError:
            self.heard = False

    def say_counts(self, load: str, counts: Counts) -> None:
        """Writes running totals as a `status` or `finished` line."""
        self.say(load, **asdict(counts))
