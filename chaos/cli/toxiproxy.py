"""`holdfast toxiproxy`: the embedded proxy for network faults."""

import secrets
from pathlib import Path

import click

from chaos.cli.options import say

_SEED_BITS = 63


@click.command(epilog="Example: holdfast toxiproxy --port 8474 --config proxies.json --seed 42")
@click.option("--host", "-host", default="localhost", show_default=True, help="Where the HTTP interface listens.")
@click.option("--port", "-port", default="8474", show_default=True, help="Its port; 0 takes any free one.")
@click.option(
    "--config",
    "-config",
    type=click.Path(path_type=Path),
    default=None,
    help="JSON list of proxies to begin with.",
)
@click.option("--seed", "-seed", type=int, default=None, help="Decides every chance of the toxics.")
@click.option("--proxy-metrics", "-proxy-metrics", is_flag=True, help="Serve /metrics with the bytes of each proxy.")
def toxiproxy(host: str, port: str, config: Path | None, seed: int | None, *, proxy_metrics: bool) -> None:
    """Run a TCP proxy with faults, compatible with Toxiproxy 2.12.0.

    Its clients and its command line work with it. The single-dash spellings of the original's options do, too.
    """
    from chaos.toxiproxy.server import Serving, Settings, run

    chosen = secrets.randbits(_SEED_BITS) if seed is None else seed

    def started(server: Serving) -> None:
        say(f"toxiproxy listens at {server.url} (seed {chosen})")

    run(Settings(host=host, port=port, seed=chosen, config=config, proxy_metrics=proxy_metrics), started=started)
