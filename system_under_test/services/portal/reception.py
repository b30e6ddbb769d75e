"""Bodies on their way in: waited for apart from the requests that a node works on, a limited number of them."""

import asyncio

from aiohttp import web

from system_under_test.services.portal import problems
from system_under_test.services.portal.requests import attempt_of, receive


class Reception:
    """Takes bodies in; at most `at_most` are waited for at a time.

    One that is here with its request's head, as nearly every customer's is, is not waited for. When one more has to be
    waited for than may be, the one that has been for longest makes room: it is the least likely to come.
    """

    def __init__(self, *, at_most: int) -> None:
        self._at_most = at_most
        self._waits: dict[asyncio.Timeout, None] = {}  # in the order in which they began

    @property
    def waiting(self) -> int:
        """How many bodies are waited for."""
        return len(self._waits)

    async def take_in(self, request: web.Request) -> None:
        """Waits until the body is here; reading it takes no time afterwards.

        Raises:
            Problem: it had to make room, or as `receive` does.
            HTTPRequestEntityTooLarge: as `receive` does.
        """
        if request.content.is_eof():
            await receive(request)
            return
        if len(self._waits) >= self._at_most:
            self._make_room()
        try:
            async with asyncio.timeout(None) as wait:  # until it is to make room
                self._waits[wait] = None
                try:
                    await receive(request)
                finally:
                    self._waits.pop(wait, None)
        except TimeoutError as error:
            raise problems.refuse_on_purpose(
                problems.SHED,
                "The body was waited for while many others were, too; send it together with its head.",
                attempt=attempt_of(request),
                safe=False,
            ) from error

    def _make_room(self) -> None:
        longest = next(iter(self._waits))
        del self._waits[longest]
        longest.reschedule(asyncio.get_running_loop().time())
