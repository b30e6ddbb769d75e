"""The load balancer: writes Envoy's configuration, reports where it will be, and becomes Envoy; the pid stays."""

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from system_under_test.balancer.configuration import Ports, envoy_configuration
from system_under_test.balancer.upstreams import Upstream, parse_upstreams
from system_under_test.ready_file import write_ready_file
from system_under_test.settings import (
    Arguments,
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


class BalancerSettings(Settings):
    """What the balancer is told."""

    port: Port = Field(alias="HOLDFAST_PORT")
    admin_port: Port = Field(alias="HOLDFAST_PORT_ADMIN")
    data_dir: ExistingFolder = Field(alias="HOLDFAST_DATA_DIR")
    ready_file: FileToBe = Field(alias="HOLDFAST_READY_FILE")
    instance: Name = Field(default="balancer", alias="HOLDFAST_INSTANCE")
    upstreams: Annotated[tuple[Upstream, ...], BeforeValidator(parse_upstreams)] = Field(alias="UPSTREAMS")
    retries: Literal["on", "off"] = Field(default="on", alias="RETRIES")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Becomes Envoy; comes back only by an error."""
    parser = Arguments(
        "balancer",
        "The load balancer. Reads HOLDFAST_PORT, HOLDFAST_PORT_ADMIN, HOLDFAST_DATA_DIR, HOLDFAST_READY_FILE,"
        " UPSTREAMS (127.0.0.1:20011@a,127.0.0.1:20012@b) and RETRIES (on, off).",
    )
    parser.parse_args(arguments)
    settings = read_settings(BalancerSettings, environment)
    envoy = _envoy()
    ports = Ports(clients=settings.port, admin=settings.admin_port)
    configuration = envoy_configuration(
        ports, settings.upstreams, retries=settings.retries == "on", instance=settings.instance
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


def _envoy() -> Path:
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        raise PlatformError("Envoy is not installed: no package envoy; install the extra 'reference'")
    return Path(spec.origin).parent / "_bin" / "envoy"
