"""pg_terminate_backend: clients lose their connections, as when an operator or a failover ends them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.volleys import Repeated
from chaos.targets.backends import Backend

_SQL: Final = "select pg_terminate_backend($1) as hit"


@FAULTS.register("pg_terminate")
@dataclass(frozen=True, slots=True, kw_only=True)
class PgTerminate(Repeated):
    """End the backends of an `application`, once or `every` so often `for` a time."""

    example: ClassVar[Mapping[str, Any]] = {
        "dsn": "postgres.admin_dsn",
        "application": "portal-*",
        "every": "500ms",
        "for": "3s",
    }

    async def inject(self, scene: Scene) -> None:
        """Ends those that are connected now."""
        await self._begin(scene, _SQL, only_active=False)

    async def effect(self, scene: Scene) -> Proof:
        """The server lists none of those that were ended any more."""
        return await self._seen(scene, _still_connected)


def _still_connected(ended: Backend, listed: Backend | None) -> bool:
    return listed is not None and listed.began == ended.began
