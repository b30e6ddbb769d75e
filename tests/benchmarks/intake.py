"""What keyed, durable intake of redemptions takes: through the balancer, with everything on this machine."""

import asyncio
import json
import random
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from tests.benchmarks.measure import Figure
from tests.benchmarks.requests import Load, post, send_all
from tests.integration.platform.queues import QueueDatabase
from tests.integration.platform.stage import Stage, await_ready

_NODES: Final = 4
"""As many as the platform has."""
_CUSTOMERS: Final = 1_000
_WARM_UP: Final = 2_000
_REQUESTS: Final = 20_000
_CONNECTIONS: Final = 256


def measure_intake() -> Iterator[Figure]:
    """Redemptions through Envoy to two and to four nodes, beside as many deposits, each of which is one transaction."""
    for nodes in (2, _NODES):
        with tempfile.TemporaryDirectory() as name:
            stage = Stage(folder=Path(name))
            try:
                redeemed, paid_in = _measure(stage, nodes)
            finally:
                stage.close()
        yield Figure(
            name=f"redemptions taken in a second, {nodes} nodes, through Envoy",
            value=redeemed.per_second,
            unit="1/s",
            compared_to="deposits",
            ratio=redeemed.per_second / paid_in.per_second,
            at_least=4_000 if nodes == _NODES else None,
        )
        yield Figure(name="  of them refused at first, sent again a second later", value=redeemed.again, unit="tries")
        for share in (0.5, 0.99):
            latency_ms = float(np.quantile(redeemed.latencies_s, share)) * 1e3
            yield Figure(name=f"  p{share * 100:.0f} with {_CONNECTIONS} at once", value=latency_ms, unit="ms")


def _measure(stage: Stage, nodes: int) -> tuple[Load, Load]:
    postgres = stage.add_database()
    portals = [stage.add_portal(f"portal-{number}", postgres) for number in range(1, nodes + 1)]
    for portal in portals:
        await_ready(portal)
    url = stage.add_balancer("balancer", portals).outputs()["url"]
    accounts = asyncio.run(QueueDatabase(postgres=postgres).new_customers(_CUSTOMERS))
    for route, status in (("redemptions", 202), ("deposits", 201)):
        send_all(url, _requests(route, accounts, _WARM_UP), connections=_CONNECTIONS, expected=status)
    redeemed = send_all(url, _requests("redemptions", accounts, _REQUESTS), connections=_CONNECTIONS, expected=202)
    paid_in = send_all(url, _requests("deposits", accounts, _REQUESTS // 4), connections=_CONNECTIONS, expected=201)
    return redeemed, paid_in


def _requests(route: str, accounts: list[str], count: int) -> list[bytes]:
    """Of random accounts, whose sessions' tokens are their names."""
    draw = random.Random(count)  # noqa: S311 - the same load each time
    return [
        post(
            f"/v1/{route}",
            token=draw.choice(accounts),
            key=str(uuid.uuid4()),
            body=json.dumps({"amount": draw.randint(1, 1000)}),
        )
        for _ in range(count)
    ]
