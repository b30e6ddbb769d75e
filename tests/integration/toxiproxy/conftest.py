"""A server that the tests speak to: ours, or the one whose URL stands in HOLDFAST_TOXIPROXY_URL."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.toxiproxy.client import Client

URL_VARIABLE = "HOLDFAST_TOXIPROXY_URL"
STARTED = "toxiproxy listens at "


@pytest.fixture(scope="session")
def own_server() -> Iterator[str]:
    """The URL of a server of ours in a process of its own, with metrics and a fixed seed."""
    command = "from chaos.cli import main; main()"
    options = ["toxiproxy", "--port", "0", "--seed", "7", "-proxy-metrics"]
    process = subprocess.Popen([sys.executable, "-c", command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith(STARTED), first
        yield first.removeprefix(STARTED).split()[0]
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert "Traceback" not in said


@pytest.fixture
def any_server(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A server that speaks the interface, without proxies before and after a test."""
    given = os.environ.get(URL_VARIABLE)
    yield from _client(given or request.getfixturevalue("own_server"))


@pytest.fixture
def server(own_server: str) -> Iterator[Client]:
    """Our own server, without proxies before and after a test."""
    yield from _client(own_server)


def _client(url: str) -> Iterator[Client]:
    client = Client(url)
    client.delete_all()
    yield client
    client.delete_all()
