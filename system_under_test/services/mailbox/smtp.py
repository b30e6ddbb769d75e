"""The mailbox's SMTP port: each connection a session, answered as the behaviour in force says."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import structlog

from system_under_test.services.mailbox.behaviour import Behaviour
from system_under_test.services.mailbox.metrics import MailboxMetrics
from system_under_test.services.mailbox.session import Closed, Received, Reply, Session, reply
from system_under_test.services.mailbox.store import MailStore

HOST: Final = "mailbox.savings.example"
_CONNECTIONS: Final = 200
_IDLE_S: Final = 300.0
_READ_BYTES: Final = 65_536


class MailServer:
    """Takes mail into `store`; `behaviour` may be changed at any time and holds from the next reply on."""

    def __init__(self, store: MailStore, metrics: MailboxMetrics, log: structlog.stdlib.BoundLogger) -> None:
        self.behaviour = Behaviour()
        self._store = store
        self._metrics = metrics
        self._log = log
        self._mails = 0
        self._talks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> asyncio.Server:
        """Starts to listen on the loopback interface; each connection is a task that `close` ends."""
        return await asyncio.start_server(self._begin, "127.0.0.1", port, limit=_READ_BYTES)

    async def close(self) -> None:
        """Ends all connections where they are: a mail that was not answered for is its sender's."""
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.ensure_future(self._talk(reader, writer))
        self._talks.add(talk)
        self._metrics.connections.set(len(self._talks))
        talk.add_done_callback(self._end)

    def _end(self, talk: asyncio.Task[None]) -> None:
        self._talks.discard(talk)
        self._metrics.connections.set(len(self._talks))
        if not talk.cancelled() and (error := talk.exception()) is not None:
            self._log.error("connection.failed", exc_info=error)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await self._greet(writer):
                await self._serve(reader, writer)
        except (OSError, TimeoutError) as error:
            self._log.info("connection.lost", problem=str(error) or type(error).__name__)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _greet(self, writer: asyncio.StreamWriter) -> bool:
        refused = self._refusal("connection")
        if refused is None and len(self._talks) > _CONNECTIONS:
            refused = reply(421, f"4.7.0 no more than {_CONNECTIONS} connections")
        await self._answer(writer, refused or reply(220, f"{HOST} ESMTP"))
        await writer.drain()
        return refused is None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(host=HOST, refusal=self._refusal)
        while True:
            async with asyncio.timeout(_IDLE_S):
                data = await reader.read(_READ_BYTES)
            if not data:
                return
            for event in session.receive(data):
                match event:
                    case Reply():
                        await self._answer(writer, event)
                    case Received():
                        if not await self._take(event, writer):
                            return
                    case Closed():
                        await writer.drain()
                        return
            async with asyncio.timeout(_IDLE_S):
                await writer.drain()

    async def _take(self, mail: Received, writer: asyncio.StreamWriter) -> bool:
        """Keeps the mail and says so; False where the connection is to be closed without a word."""
        behaviour, self._mails = self.behaviour, self._mails + 1
        concerned = behaviour.concerns(self._mails)
        answer = self._refusal("content") or self._keep(mail)
        if concerned and behaviour.drop_after_data:
            self._metrics.unanswered.inc()
            return False
        for _ in range(2 if concerned and behaviour.answer_twice else 1):
            await self._answer(writer, answer)
        return True

    def _keep(self, mail: Received) -> Reply:
        duplicates = self._store.duplicates
        try:
            self._store.keep(mail.recipients, mail.content, datetime.now(UTC))
        except OSError as error:
            self._log.error("mail.not_kept", problem=str(error))
            return reply(452, "4.3.1 it could not be written down")
        repeated = self._store.duplicates - duplicates
        self._metrics.mails.labels("duplicate").inc(repeated)
        self._metrics.mails.labels("effective").inc(len(set(mail.recipients)) - repeated)
        return reply(250, "2.0.0 taken")

    def _refusal(self, stage: str) -> Reply | None:
        refused = self.behaviour.refusal(stage)
        if refused is not None:
            self._metrics.refusals.labels(stage).inc()
        return refused

    async def _answer(self, writer: asyncio.StreamWriter, answer: Reply) -> None:
        if self.behaviour.delay_s:
            await writer.drain()
            await asyncio.sleep(self.behaviour.delay_s)
        writer.write(answer.encode())
