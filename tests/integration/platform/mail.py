"""The notices' side of the stage: a mailbox that can be told to misbehave, a notifier, windows, what has arrived."""

import http.client
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

from tests.integration.platform.customers import until
from tests.integration.platform.stage import Process, Stage, await_true, free_port, get

CUSTOMERS = 300
_LEAD = timedelta(hours=25)
_APART = timedelta(hours=2)


@dataclass(slots=True, kw_only=True)
class Post:
    """A database with customers and a mailbox; windows are planned one after the other, never at the same time."""

    stage: Stage
    postgres: Process
    mailbox: Process
    planned: int = 0

    @property
    def key_file(self) -> Path:
        """The notifiers' key for web push: one for all that share a database."""
        return self.postgres.folder.with_name("vapid.key")

    def add_notifier(
        self, name: str, *, timeout_s: float = 1.0, claim_s: float = 10.0, key_file: Path | None = None
    ) -> Process:
        """Starts a notifier; its key for web push is the platform's unless told otherwise."""
        return self.stage.add(
            name,
            "notifier",
            DATABASE_URL=self.postgres.outputs()["notifier_dsn"],
            SMTP_URL=self.mailbox.outputs()["smtp_url"],
            SMTP_TIMEOUT_SECONDS=str(timeout_s),
            PUSH_TIMEOUT_SECONDS=str(timeout_s),
            PUSH_HOSTS=self.mailbox.outputs()["push_host"],
            VAPID_KEY_FILE=str(key_file or self.key_file),
            NOTICE_CLAIM_SECONDS=str(claim_s),
        )

    def behave(self, **behaviour: Any) -> None:
        """Puts a behaviour of the mailbox in force; none is the good one."""
        status, answer = self.post("/behaviour", json.dumps(behaviour).encode())
        assert status == 200, answer

    def behave_as_push_service(self, **behaviour: Any) -> None:
        """The same for messages of web push."""
        status, answer = self.post("/push-behaviour", json.dumps(behaviour).encode())
        assert status == 200, answer

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """POSTs to the mailbox's HTTP port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.mailbox.port, timeout=5)
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def received(self, what: str = "mails") -> dict[str, Any]:
        """What has arrived, all of it, and the counts; `what` is mails or pushes."""
        status, body = get(self.mailbox.port, f"/{what}?limit=100000")
        assert status == 200
        answer: dict[str, Any] = json.loads(body)
        return answer

    def arrived(self, window: int, revision: int) -> Counter[str]:
        """How many effective mails of that revision each recipient has."""
        name = f"<window-{window}.revision-{revision}."
        return Counter(mail["recipient"] for mail in self.received()["mails"] if mail["message_id"].startswith(name))

    def pushed(self, window: int, revision: int) -> Counter[str]:
        """How many effective messages of web push of that revision each account has."""
        names = (mail["message_id"].split(".") for mail in self.received("pushes")["mails"])
        return Counter(
            account
            for which, told, account, _ in names
            if (which, told) == (f"window-{window}", f"revision-{revision}")
        )

    async def await_arrived(self, window: int, *, at_least: int) -> None:
        """Waits until so many customers have the notice of the window's first revision."""

        async def count() -> int:
            return len(self.arrived(window, 1))

        await until(count, lambda arrived: arrived >= at_least)

    def await_mailbox(self) -> None:
        """Waits until the mailbox takes mail."""
        await_true(lambda: self.mailbox.answers("/readyz"), "the mailbox is ready")

    @asynccontextmanager
    async def database(self, role: str) -> AsyncIterator[Any]:
        """A connection as `role`."""
        connection = await asyncpg.connect(self.postgres.outputs()[role], timeout=5)
        try:
            yield connection
        finally:
            await connection.close()

    async def ask(self, role: str, question: str, *arguments: Any) -> Any:
        """The first row of an answer."""
        async with self.database(role) as connection:
            return await connection.fetchrow(question, *arguments)

    async def schedule(self) -> int:
        """Plans a window; gives its number."""
        self.planned += 1
        row = await self.ask(
            "maintenance_dsn",
            "select * from schedule_window(now() + $1, 45, 'new disks', $2)",
            timedelta(hours=48) + self.planned * _APART,
            _LEAD,
        )
        assert row["outcome"] == "planned", row
        return int(row["window_id"])

    async def move(self, window: int) -> None:
        """Moves a window to a time of its own: its next revision."""
        self.planned += 1
        row = await self.ask(
            "maintenance_dsn",
            "select * from move_window($1, now() + $2, 45, 'newer disks', $3)",
            window,
            timedelta(hours=48) + self.planned * _APART,
            _LEAD,
        )
        assert row["outcome"] == "planned", row

    async def cancel(self, window: int) -> None:
        """Cancels a window: its last revision."""
        row = await self.ask("maintenance_dsn", "select cancel_window($1, 'no disks') as outcome", window)
        assert row["outcome"] == "done", row

    async def progress(self, window: int, revision: int) -> Any:
        """How far the notices are."""
        return await self.ask("maintenance_dsn", "select * from notice_progress($1, $2)", window, revision)

    async def await_sent(self, window: int, revision: int = 1, *, at_least: int | None = None) -> None:
        """Waits until so many notices, all unless told otherwise, are known to be sent."""
        await until(
            lambda: self.progress(window, revision),
            lambda row: row["sent"] >= (row["total"] if at_least is None else at_least),
        )


def open_post(stage: Stage) -> Post:
    """A database with customers, and a mailbox."""
    postgres = stage.add_database()
    stage.seed(postgres, customers=CUSTOMERS)
    mailbox = stage.add("mailbox", "mailbox", HOLDFAST_PORT_SMTP=str(free_port()))
    post = Post(stage=stage, postgres=postgres, mailbox=mailbox)
    post.await_mailbox()
    return post


def metric(process: Process, name: str) -> float:
    """The value of one line of /metrics; waits for a process that has just been started."""
    await_true(lambda: process.answers("/metrics"), f"{process.name} answers")
    for line in get(process.port, "/metrics")[1].decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"{process.name} has no metric {name}")
