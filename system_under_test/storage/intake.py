"""A node's intake of redemptions: those that arrive together are made durable together.

    request -> waiting (in order of arrival) -> batch -> one statement, one commit -> each its own answer

One statement takes five hundred nearly as fast as one, and a commit is what a queue costs; so a batch waits two
milliseconds for company, and while one is under way the next gathers by itself.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from system_under_test.storage.database import NotDoneError, OutcomeUnknownError
from system_under_test.storage.ledger import Answer
from system_under_test.storage.redemptions import BUSY, Request

GATHER_S: Final = 0.002
BATCH_MAX: Final = 500
Queue = Callable[[Sequence[Request]], Awaitable[Sequence[Answer | str]]]


class Intake:
    """Gathers requests into batches; one batch is under way at a time, so that requests keep their order.

    A request that is still waiting after `wait_s`, or that comes when `waiting_max` wait, is certainly not done.
    """

    def __init__(self, queue: Queue, *, wait_s: float = 1.0, waiting_max: int = 5000) -> None:
        self._queue = queue
        self._wait_s = wait_s
        self._waiting_max = waiting_max
        self._waiting: deque[_Waiting] = deque()
        self._full = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    async def take(self, request: Request) -> Answer | str:
        """The answer to `request`, durable by then; MISMATCH or UNAUTHENTICATED where there is none.

        Raises:
            NotDoneError: it was not taken.
            OutcomeUnknownError: its batch was sent and no answer came.
        """
        if len(self._waiting) >= self._waiting_max:
            raise NotDoneError(f"{self._waiting_max} redemptions are waiting to be taken")
        waiting = _Waiting(request)
        self._waiting.append(waiting)
        if len(self._waiting) >= BATCH_MAX:
            self._full.set()
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        timer = asyncio.get_running_loop().call_later(self._wait_s, waiting.give_up)
        try:
            answer = await waiting.answer
        finally:
            timer.cancel()
        if answer == BUSY:
            raise NotDoneError("an order with this key is under way and takes too long")
        return answer

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                # Who gave up, or whose client is gone, has not been sent: it need not be.
                count = min(BATCH_MAX, len(self._waiting))
                batch = [one for one in (self._waiting.popleft() for _ in range(count)) if one.begin()]
                if batch:
                    await self._send(batch)
        finally:
            self._sending = None

    async def _gather(self) -> None:
        # Counted from the first one's arrival: what gathered behind the last batch goes at once.
        rest_s = self._waiting[0].arrived_s + GATHER_S - asyncio.get_running_loop().time()
        if rest_s <= 0 or len(self._waiting) >= BATCH_MAX:
            return
        self._full.clear()
        try:
            await asyncio.wait_for(self._full.wait(), rest_s)
        except TimeoutError:
            return

    async def _send(self, batch: Sequence["_Waiting"]) -> None:
        try:
            answers = await self._queue([one.request for one in batch])
            answered = list(zip(batch, answers, strict=True))
        except (NotDoneError, OutcomeUnknownError) as error:
            for one in batch:
                one.fail(type(error)(str(error)))
        except asyncio.CancelledError:
            for one in batch:
                one.fail(OutcomeUnknownError("the node stopped before the database had answered"))
            raise
        except Exception as error:  # noqa: BLE001 - of whatever kind: each request of the batch has to be told
            for one in batch:
                one.fail(error)
        else:
            for one, answer in answered:
                one.succeed(answer)


class _Waiting:
    """One request and who waits for its answer."""

    __slots__ = ("_sent", "answer", "arrived_s", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        loop = asyncio.get_running_loop()
        self.arrived_s = loop.time()
        self.answer: asyncio.Future[Answer | str] = loop.create_future()
        self._sent = False

    def begin(self) -> bool:
        """Whether it is still waited for; from here on it may have happened."""
        self._sent = not self.answer.done()
        return self._sent

    def give_up(self) -> None:
        """Ends the waiting, unless it has been sent: then the batch's end tells."""
        if not self._sent:
            self.fail(NotDoneError("the redemptions before this one are taking too long"))

    def succeed(self, answer: Answer | str) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
