"""pg_cancel_backend: statements are broken off, their connections stay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.volleys import Repeated
from chaos.targets.backends import Backend

_SQL: Final = "select pg_cancel_backend($1) as hit"


@FAULTS.register("pg_cancel")
@dataclass(frozen=True, slots=True, kw_only=True)
class PgCancel(Repeated):
    """Cancel what backends of an `application` are carrying out, once or `every` so often `for` a time.

    Whoever carries out nothing at the moment is left alone. A statement that ends by itself in the very moment in
    which it is cancelled cannot be told from one that was broken off.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "dsn": "postgres.admin_dsn",
        "application": "portal-*",
        "every": "100ms",
        "for": "3s",
    }

    async def inject(self, scene: Scene) -> None:
        """Cancels what is carried out now."""
        await self._begin(scene, _SQL, only_active=True)

    async def effect(self, scene: Scene) -> Proof:
        """None of the statements that were cancelled is carried out any more."""
        return await self._seen(scene, _still_at_it)


def _still_at_it(cancelled: Backend, listed: Backend | None) -> bool:
    return listed is not None and (listed.began, listed.statement) == (cancelled.began, cancelled.statement)
