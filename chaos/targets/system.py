"""A running system as far as its topology and its launchers tell: addresses, outputs, templates, one HTTP client."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from chaos.errors import TargetError
from chaos.targets.crosschecks import check_host
from chaos.targets.models import Request, Role
from chaos.targets.target import Instance
from chaos.targets.templates import expand, expand_all, is_reference, numbered
from chaos.targets.topology import Topology

ASK_LIMIT_S: Final = 2.0
"""How long one question to an instance may take."""
_ANSWER_LIMIT_BYTES: Final = 32 * 1024 * 1024


class System:
    """Resolves names of a topology against what runs now; used by every driver."""

    def __init__(self, topology: Topology, *, run_dir: Path, instances: Mapping[str, Instance]) -> None:
        self.topology = topology
        self.run_dir = run_dir.resolve()
        self.by_name = dict(instances)
        self.outputs: dict[str, dict[str, Any]] = {}
        """What launchers reported, by role."""
        self._session: aiohttp.ClientSession | None = None

    def instances(self, role: str | None = None) -> tuple[Instance, ...]:
        """All instances, or one role's, in the order of their numbers."""
        if role is not None and role not in self.topology.roles:
            raise TargetError(f"{self.topology.name} has no role {role!r}; known: {', '.join(self.topology.roles)}")
        return tuple(it for it in self.by_name.values() if role in (None, it.role))

    def instance(self, name: str) -> Instance:
        """One instance by name."""
        if name not in self.by_name:
            raise TargetError(f"{self.topology.name} has no instance {name!r}; known: {', '.join(self.by_name)}")
        return self.by_name[name]

    def role(self, instance: Instance) -> Role:
        """The role of an instance."""
        return self.topology.roles[instance.role]

    def base_url(self, instance: Instance, port: str | None = None) -> str:
        """Where an instance is reached, at its first port or a named one."""
        role = self.role(instance)
        if role.url is not None:
            return expand(role.url, self.look_up).rstrip("/")
        return f"http://127.0.0.1:{instance.port if port is None else instance.ports[port]}"

    def addresses(self, role: str) -> str:
        """`127.0.0.1:20011@a,127.0.0.1:20012@b`: every instance of a role, with its zone where it has one."""
        return ",".join(self._address(it) for it in self.instances(role))

    def _address(self, instance: Instance) -> str:
        host = urlsplit(self.base_url(instance)).hostname or "127.0.0.1"
        return f"{host}:{instance.port}{f'@{instance.zone}' if instance.zone else ''}"

    def output(self, reference: str) -> Any:
        """What a launcher reported, by `role.output`; also the built-in ones.

        Raises:
            TargetError: nothing of that name, or not reported yet.
        """
        role, _, name = reference.partition(".")
        reported = self.outputs.get(role, {})
        if name in reported:
            return reported[name]
        if name in self.topology.file.outputs.get(role, ()):
            raise TargetError(f"{role} has not reported {name!r} yet: it has not been started")
        instances = self.instances(role)
        match name:
            case "addresses":
                return self.addresses(role)
            case "url":
                return self.base_url(instances[0])
            case "port":
                return instances[0].port
        raise TargetError(f"{role} has no output {name!r}")

    def look_up(self, name: str) -> str:
        """What `${name}` stands for in commands and addresses outside an instance."""
        if name == "run_dir":
            return str(self.run_dir)
        if name == "python":
            return sys.executable
        return str(self.output(name))

    def look_up_for(self, instance: Instance, data_dir: Path) -> Callable[[str], str]:
        """What `${name}` stands for in an instance's command and environment."""
        own = {
            "port": str(instance.port),
            "instance": instance.name,
            "zone": instance.zone or "",
            "data_dir": str(data_dir),
            **{f"port.{name}": str(port) for name, port in instance.ports.items()},
        }
        number = int(instance.name.rpartition("-")[2])
        return lambda name: own[name] if name in own else self.look_up(numbered(name, number))

    def url(self, text: str) -> str:
        """The address that `url:` means.

        Raises:
            TargetError: a launcher reported an address of another machine that the topology does not allow.
        """
        is_address = text.startswith(("http://", "https://", "${"))
        url = expand(text, self.look_up) if is_address or not is_reference(text) else str(self.output(text))
        if problem := check_host(url, self.topology.file.allow_hosts):
            raise TargetError(f"{self.topology.path}: {text}: {problem}")
        return url.rstrip("/")

    def dsn(self, text: str) -> str:
        """The connection string that `dsn:` means."""
        return str(self.output(text)) if is_reference(text) else text

    def request(self, request: Request) -> tuple[str, str, Any, dict[str, str]]:
        """Method, address, JSON body and headers of a request, resolved to plain values."""
        url = self.url(request.url) + expand(request.path, self.look_up)
        return request.method, url, expand_all(request.body, self.look_up), expand_all(request.headers, self.look_up)

    async def ask(
        self,
        url: str,
        *,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        within_s: float = ASK_LIMIT_S,
    ) -> tuple[int, bytes]:
        """Status and body of one request, never redirected, resent or sent through a proxy.

        Raises:
            TargetError: no answer in time.
        """
        if self._session is None:
            # A connection for each request: one kept open would die with a killed instance and fail the next one.
            connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._session.request(
                method, url, json=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                data = await answer.content.read(_ANSWER_LIMIT_BYTES)
                while not answer.content.at_eof() and len(data) < _ANSWER_LIMIT_BYTES:
                    data += await answer.content.read(_ANSWER_LIMIT_BYTES - len(data))
                return answer.status, data
        except TimeoutError as error:
            raise TargetError(f"{method} {url}: no answer within {within_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TargetError(f"{method} {url}: {error or type(error).__name__}") from error

    async def ask_json(self, url: str, field: str) -> Any:
        """One field (dotted) of a JSON answer.

        Raises:
            TargetError: no 2xx answer, no JSON, or no such field.
        """
        status, data = await self.ask(url)
        if not 200 <= status < 300:
            raise TargetError(f"GET {url}: status {status}: {data[:200].decode(errors='replace')}")
        try:
            value = json.loads(data)
            for part in field.split("."):
                value = value[int(part)] if isinstance(value, list) else value[part]
        except (ValueError, LookupError, TypeError) as error:
            shown = data[:200].decode(errors="replace")
            raise TargetError(f"GET {url}: the answer has no field {field!r}: {shown}") from error
        return value

    async def close(self) -> None:
        """Closes the HTTP client; asking again opens a new one."""
        if self._session is not None:
            await self._session.close()
            # The transports of closed connections end in the next turn of the loop.
            await asyncio.sleep(0)
            self._session = None
