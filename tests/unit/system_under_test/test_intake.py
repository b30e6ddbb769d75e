"""A node's intake: batches in order of arrival, and the truth to everyone when one fails."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from system_under_test.storage.database import FencedError, NotDoneError, OutcomeUnknownError
from system_under_test.storage.intake import BATCH_MAX, Intake
from system_under_test.storage.ledger import MISMATCH, UNAUTHENTICATED, Answer
from system_under_test.storage.redemptions import BUSY, Request


@dataclass(slots=True)
class Store:
    """What stands in for the database: keeps the batches, and answers each when `gate` is open."""

    batches: list[list[str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    words: dict[str, str] = field(default_factory=dict)
    at_once: int = 0

    async def queue(self, requests: Sequence[Request]) -> list[Answer | str]:
        self.batches.append([request.key for request in requests])
        self.at_once += 1
        assert self.at_once == 1, "two batches of a node are under way"
        self.begun.set()
        await self.gate.wait()
        self.at_once -= 1
        if self.errors:
            raise self.errors.pop(0)
        return [self.words.get(request.key) or answer_to(request.key) for request in requests]


def answer_to(key: str) -> Answer:
    """What the store answers."""
    return Answer(status=202, body=key, replayed=False)


def request(key: int | str) -> Request:
    """A redemption under this key."""
    return Request(token_hash=b"t" * 32, key=str(key), payload=b"p" * 32, amount=1)


@pytest.fixture
def store() -> Store:
    """One whose gate is open."""
    store = Store()
    store.gate.set()
    return store


async def test_a_thousand_at_once_are_taken_in_their_order_by_few_batches(store: Store) -> None:
    """Twelve hundred at the same moment: three statements of at most five hundred, in order, each its own answer."""
    intake = Intake(store.queue)
    answers = await asyncio.gather(*(intake.take(request(n)) for n in range(1200)))
    assert answers == [answer_to(str(n)) for n in range(1200)]
    assert [key for batch in store.batches for key in batch] == [str(n) for n in range(1200)]
    assert [len(batch) for batch in store.batches] == [BATCH_MAX, BATCH_MAX, 200]


async def test_what_comes_while_a_batch_is_under_way_is_the_next_one() -> None:
    """One is sent and not answered; ten come meanwhile: they wait, and go together."""
    store = Store()
    intake = Intake(store.queue)
    first = asyncio.create_task(intake.take(request("first")))
    await store.begun.wait()
    others = [asyncio.create_task(intake.take(request(n))) for n in range(10)]
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.gather(first, *others)
    assert store.batches == [["first"], [str(n) for n in range(10)]]


@pytest.mark.parametrize("error", [NotDoneError("x"), FencedError("x"), OutcomeUnknownError("x"), RuntimeError("x")])
async def test_a_batch_that_fails_fails_for_all_of_it_and_for_nobody_else(store: Store, error: Exception) -> None:
    """Three together get the database's error, each as it is; a fourth, later, is taken."""
    store.errors.append(error)
    intake = Intake(store.queue)
    failed = await asyncio.gather(*(intake.take(request(n)) for n in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [type(error)] * 3
    assert await intake.take(request(3)) == answer_to("3")


async def test_a_database_that_answers_too_few_fails_the_batch(store: Store) -> None:
    """Two asked, one answered: nobody gets another one's answer."""

    async def lose_one(requests: Sequence[Request]) -> list[Answer | str]:
        return (await store.queue(requests))[1:]

    failed = await asyncio.gather(*map(Intake(lose_one).take, map(request, range(2))), return_exceptions=True)
    assert [type(one) for one in failed] == [ValueError, ValueError]


async def test_a_client_that_is_gone_before_its_batch_is_not_sent_and_others_are() -> None:
    """Of three waiting behind a batch the second is cancelled: the first and the third are taken, it never is."""
    store = Store()
    intake = Intake(store.queue)
    first = asyncio.create_task(intake.take(request("first")))
    await store.begun.wait()
    waiting = [asyncio.create_task(intake.take(request(n))) for n in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    store.gate.set()
    answers = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert (answers[1], answers[3]) == (answer_to("0"), answer_to("2"))
    assert store.batches == [["first"], ["0", "2"]]


async def test_a_client_that_is_gone_during_its_batch_breaks_nobody_elses() -> None:
    """One of two is cancelled while the statement runs: the other gets its answer, and the next batch goes."""
    store = Store()
    intake = Intake(store.queue)
    both = [asyncio.create_task(intake.take(request(n))) for n in range(2)]
    await store.begun.wait()
    both[0].cancel()
    store.gate.set()
    assert await both[1] == answer_to("1")
    assert await intake.take(request(2)) == answer_to("2")


async def test_who_waits_too_long_is_certainly_not_done() -> None:
    """One statement hangs; one waits behind it: not done after its limit, and never sent; the first waits on."""
    store = Store()
    intake = Intake(store.queue, wait_s=0.05)
    first = asyncio.create_task(intake.take(request("first")))
    await store.begun.wait()
    with pytest.raises(NotDoneError):
        await intake.take(request("second"))
    assert not first.done()
    store.gate.set()
    assert await first == answer_to("first")
    assert await intake.take(request("third")) == answer_to("third")
    assert store.batches == [["first"], ["third"]]


async def test_more_than_may_wait_are_refused_at_once() -> None:
    """Two may wait behind a batch; a third is not done, without waiting."""
    store = Store()
    intake = Intake(store.queue, waiting_max=2)
    tasks = [asyncio.create_task(intake.take(request("first")))]
    await store.begun.wait()
    tasks += [asyncio.create_task(intake.take(request(n))) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(NotDoneError):
        await intake.take(request("too many"))
    store.gate.set()
    assert len(await asyncio.gather(*tasks)) == 3


async def test_words_reach_their_own_request(store: Store) -> None:
    """One of each: mismatch and unauthenticated are given as they are, busy is certainly not done."""
    store.words.update({"m": MISMATCH, "u": UNAUTHENTICATED, "b": BUSY})
    intake = Intake(store.queue)
    answers = await asyncio.gather(*(intake.take(request(key)) for key in "mub1"), return_exceptions=True)
    assert (answers[0], answers[1], answers[3]) == (MISMATCH, UNAUTHENTICATED, answer_to("1"))
    assert isinstance(answers[2], NotDoneError)
