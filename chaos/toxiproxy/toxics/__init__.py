"""The toxics by type; adding one is a module with a description and a stage, and a line here."""

from typing import Final

from chaos.toxiproxy.toxics.bandwidth import Bandwidth
from chaos.toxiproxy.toxics.latency import Latency
from chaos.toxiproxy.toxics.limit_data import LimitData
from chaos.toxiproxy.toxics.noop import Noop
from chaos.toxiproxy.toxics.reset_peer import ResetPeer
from chaos.toxiproxy.toxics.slicer import Slicer
from chaos.toxiproxy.toxics.slow_close import SlowClose
from chaos.toxiproxy.toxics.stage import Toxic
from chaos.toxiproxy.toxics.timeout import Timeout

TOXICS: Final[dict[str, type[Toxic]]] = {
    toxic.TYPE: toxic for toxic in (Bandwidth, Latency, LimitData, Noop, ResetPeer, Slicer, SlowClose, Timeout)
}
"""What may stand as `type` of a toxic."""
