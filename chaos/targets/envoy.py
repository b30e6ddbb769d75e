"""The administration interface of an Envoy: its runtime settings and its counters."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from chaos.errors import TargetError
from chaos.undo import Step

_ASK_LIMIT_S: Final = 2.0


class EnvoyAdmin:
    """Asks one Envoy; a connection for each question, none through a proxy."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def set_runtime(self, settings: Mapping[str, str]) -> None:
        """Puts settings in force; those with an empty text are taken back.

        Raises:
            TargetError: no answer, or a refusal.
        """
        await self._ask("POST", _modify(settings))

    async def runtime(self, keys: Iterable[str]) -> dict[str, str]:
        """What is in force of these keys; a key that is not set is left out."""
        document = await self._ask_json("/runtime?format=json")
        entries = document.get("entries", {})
        found = {key: str(entries[key].get("final_value", "")) for key in keys if key in entries}
        return {key: value for key, value in found.items() if value}

    async def counters(self, suffix: str) -> dict[str, int]:
        """The counters whose names end in `suffix`."""
        document = await self._ask_json(f"/stats?{urlencode({'format': 'json', 'type': 'Counters'})}")
        return {it["name"]: int(it["value"]) for it in document["stats"] if it.get("name", "").endswith(suffix)}

    async def failing(self) -> frozenset[int]:
        """The ports of the hosts, of any cluster, that are out for their health checks."""
        document = await self._ask_json("/clusters?format=json")
        hosts = [host for cluster in document["cluster_statuses"] for host in cluster.get("host_statuses", ())]
        return frozenset(
            int(host["address"]["socket_address"]["port_value"])
            for host in hosts
            if host.get("health_status", {}).get("failed_active_health_check") and "socket_address" in host["address"]
        )

    def taking_back(self, keys: Iterable[str]) -> Step:
        """An undo step that takes settings back."""
        return {"do": "http", "method": "POST", "url": self._url + _modify(dict.fromkeys(keys, ""))}

    async def _ask_json(self, path: str) -> Any:
        text = await self._ask("GET", path)
        try:
            return json.loads(text)
        except ValueError as error:
            raise TargetError(
                f"GET {self._url}{path}: no JSON: {text[:200]}; is this an Envoy's admin address?"
            ) from error

    async def _ask(self, method: str, path: str) -> str:
        url = self._url + path
        limit = aiohttp.ClientTimeout(total=_ASK_LIMIT_S)
        connector = aiohttp.TCPConnector(force_close=True)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, connector=connector, trust_env=False) as session,
                # As it is written here: Envoy takes a + for a plus.
                session.request(method, URL(url, encoded=True), allow_redirects=False) as answer,
            ):
                text = await answer.text()
        except TimeoutError as error:
            raise TargetError(f"{method} {url}: no answer within {_ASK_LIMIT_S:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TargetError(f"{method} {url}: {error or type(error).__name__}") from error
        if answer.status != 200:
            raise TargetError(f"{method} {url}: status {answer.status}: {text[:200].strip()}")
        return text


def _modify(settings: Mapping[str, str]) -> str:
    return f"/runtime_modify?{urlencode(settings, quote_via=quote)}"
