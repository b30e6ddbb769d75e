"""`/metrics` with the names and labels of the original: the bytes of connections that are over."""

from collections.abc import Iterable

from chaos.toxiproxy.proxy import Proxy, Traffic

_FAMILIES = ("received", "sent")


def exposition(proxies: Iterable[Proxy]) -> str:
    """The text that Prometheus reads; a family without a sample is left out."""
    known = list(proxies)
    return "".join(_family(family, known) for family in _FAMILIES)


def _family(family: str, proxies: list[Proxy]) -> str:
    name = f"toxiproxy_proxy_{family}_bytes_total"
    samples = sorted(
        f'{name}{{direction="{stream.value}",listener="{_escaped(listener)}",proxy="{_escaped(proxy.name)}",'
        f'upstream="{_escaped(upstream)}"}} {_number(_bytes(family, traffic))}\n'
        for proxy in proxies
        for (listener, upstream, stream), traffic in proxy.traffic.items()
    )
    return f"# HELP {name} \n# TYPE {name} counter\n{''.join(samples)}" if samples else ""


def _bytes(family: str, traffic: Traffic) -> int:
    return traffic.received_bytes if family == "received" else traffic.sent_bytes


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: int) -> str:
    """As Go writes a counter: from a million on with an exponent."""
    if value < 1_000_000:
        return str(value)
    mantissa, _, exponent = f"{float(value):.16e}".partition("e")
    for digits in range(17):
        mantissa = f"{float(value):.{digits}e}".partition("e")[0]
        if float(f"{mantissa}e{exponent}") == float(value):
            break
    return f"{mantissa}e{exponent}"
