"""The bodies of answers, key by key in the order of the original."""

import dataclasses

from chaos.toxiproxy.gojson import Raw, Shown, float32_text
from chaos.toxiproxy.installed import InstalledToxic
from chaos.toxiproxy.proxy import Proxy
from chaos.toxiproxy.shapes import attribute_names


def proxy_answer(proxy: Proxy) -> Shown:
    """A proxy with its toxics; the original shows its logger, which is always empty."""
    return {
        "name": proxy.name,
        "listen": proxy.listen,
        "upstream": proxy.upstream,
        "enabled": proxy.enabled,
        "Logger": {},
        "toxics": [toxic_answer(one) for one in proxy.ordered_toxics()],
    }


def toxic_answer(installed: InstalledToxic) -> dict[str, Shown]:
    """A toxic with all its attributes."""
    values = dataclasses.asdict(installed.toxic)
    names = attribute_names(type(installed.toxic))
    return {
        "attributes": {name: values[field] for name, field in names.items()},
        "name": installed.name,
        "type": installed.toxic.TYPE,
        "stream": installed.stream_text,
        "toxicity": Raw(float32_text(installed.toxicity)),
    }
