"""The load balancer: writes Envoy's configuration, reports where it will be, and becomes Envoy; the pid stays."""

import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from system_under_test.balancer.configuration import Ports, envoy_configuration
from system_under_test.balancer.upstreams import Upstream, parse_upstreams
from system_under_test.ready_file import write_ready_file
from system_under_test.settings import (
    Arguments,
    ConfigurationError,
    ExistingFolder,
    FileToBe,
    Name,
    PlatformError,
    Port,
    Settings,
    read_settings,
)

# Envoy writes its access log in blocks; a killed balancer loses at most this much of it.
_LOG_FLUSH_MS: Final = 100
_OPTIONS: Final = (
    *("--concurrency", "1"),  # one worker: every ejection is seen by all requests at once
    "--disable-hot-restart",
    *("--log-level", "warning"),
    *("--file-flush-interval-msec", str(_LOG_FLUSH_MS)),
)


_FAULTS_VARIABLE: Final = re.compile(r"HTTP_FAULTS(_\w+)?")
_FAULTS_PREFIX: Final = re.compile(r"/|(/[A-Za-z0-9_-]+)+")


class BalancerSettings(Settings):
    """What the balancer is told."""

    port: Port = Field(alias="HOLDFAST_PORT")
    admin_port: Port = Field(alias="HOLDFAST_PORT_ADMIN")
    data_dir: ExistingFolder = Field(alias="HOLDFAST_DATA_DIR")
    ready_file: FileToBe = Field(alias="HOLDFAST_READY_FILE")
    instance: Name = Field(default="balancer", alias="HOLDFAST_INSTANCE")
    upstreams: Annotated[tuple[Upstream, ...], BeforeValidator(parse_upstreams)] = Field(alias="UPSTREAMS")
    retries: Literal["on", "off"] = Field(default="on", alias="RETRIES")
    health_lies: Literal["on", "off"] = Field(default="off", alias="HEALTH_LIES")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Becomes Envoy; comes back only by an error."""
    parser = Arguments(
        "balancer",
        "The load balancer. Reads HOLDFAST_PORT, HOLDFAST_PORT_ADMIN, HOLDFAST_DATA_DIR, HOLDFAST_READY_FILE,"
        " UPSTREAMS (127.0.0.1:20011@a,127.0.0.1:20012@b), RETRIES (on, off), HEALTH_LIES"
        " (on, off: whether health checks can be made to lie), and HTTP_FAULTS and any HTTP_FAULTS_*:"
        " each a path below which requests can be aborted and delayed on demand (/, /v1/deposits).",
    )
    parser.parse_args(arguments)
    settings = read_settings(BalancerSettings, environment)
    envoy = _envoy()
    ports = Ports(clients=settings.port, admin=settings.admin_port)
    configuration = envoy_configuration(
        ports,
        settings.upstreams,
        retries=settings.retries == "on",
        instance=settings.instance,
        fault_prefixes=fault_prefixes_of(environment),
        health_lies=settings.health_lies == "on",
    )
    file = settings.data_dir / "envoy.json"
    file.write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    write_ready_file(
        settings.ready_file,
        {"url": f"http://127.0.0.1:{ports.clients}", "admin_url": f"http://127.0.0.1:{ports.admin}"},
    )
    kept = {
        name: value
        for name, value in environment.items()
        if name in {"PATH", "HOME", "LANG", "TMPDIR"} or name.startswith("HOLDFAST_")
    }
    try:
        os.execve(envoy, [str(envoy), "-c", str(file), *_OPTIONS], kept)  # noqa: S606 - becoming Envoy is the purpose
    except OSError as error:
        raise PlatformError(f"{envoy} cannot be run: {error}") from error


def fault_prefixes_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The paths of all HTTP_FAULTS variables, sorted.

    Raises:
        ConfigurationError: one that is no path.
    """
    named = {name: value for name, value in environment.items() if _FAULTS_VARIABLE.fullmatch(name) and value}
    problems = [
        f"{name}: expected a path such as / or /v1/deposits, got {value!r}"
        for name, value in sorted(named.items())
        if not _FAULTS_PREFIX.fullmatch(value)
    ]
    if problems:
        raise ConfigurationError(problems)
    return tuple(sorted(set(named.values())))


def _envoy() -> Path:
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        raise PlatformError("Envoy is not installed: no package envoy; install the extra 'reference'")
    return Path(spec.origin).parent / "_bin" / "envoy"
