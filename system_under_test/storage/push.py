"""The portal's way to push subscriptions, and the notifier's to the key that they are made for."""

from typing import Final

from system_under_test.domain.push import Subscription
from system_under_test.storage.database import Database

STORED: Final = "stored"
REMOVED: Final = "removed"


class PushSubscriptions:
    """The functions of the database that subscriptions are made of; failures are those of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def is_session(self, token_hash: bytes) -> bool:
        """Whether there is such a session."""
        row = await self._database.row("select is_session($1) as known", token_hash)
        return bool(row["known"])

    async def put(self, token_hash: bytes, subscription: Subscription) -> bool:
        """Keeps the subscription of the session's account, in place of the one before; False without a session."""
        row = await self._database.row(
            "select put_push_subscription($1, $2, $3, $4) as outcome",
            *(token_hash, subscription.endpoint, subscription.keys.p256dh, subscription.keys.auth),
        )
        return bool(row["outcome"] == STORED)

    async def delete(self, token_hash: bytes) -> bool:
        """Forgets the subscription of the session's account, if there is one; False without a session."""
        row = await self._database.row("select delete_push_subscription($1) as outcome", token_hash)
        return bool(row["outcome"] == REMOVED)

    async def key(self) -> str | None:
        """The public key in force, in base64url; None before a notifier has published one."""
        row = await self._database.row("select read_push_key() as key")
        key: str | None = row["key"]
        return key

    async def publish(self, public_key: str) -> str:
        """Publishes a notifier's public key, unless there is one; gives the one in force."""
        row = await self._database.row("select publish_push_key($1) as key", public_key)
        return str(row["key"])
