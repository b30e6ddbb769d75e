"""What toxics do to a stream, in virtual time: exact times, and every order of events that Hypothesis finds."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.toxiproxy.toxics.bandwidth import Bandwidth
from chaos.toxiproxy.toxics.latency import Latency
from chaos.toxiproxy.toxics.limit_data import LimitData
from chaos.toxiproxy.toxics.noop import Noop
from chaos.toxiproxy.toxics.reset_peer import ResetPeer
from chaos.toxiproxy.toxics.slicer import Slicer
from chaos.toxiproxy.toxics.slow_close import SlowClose
from chaos.toxiproxy.toxics.stage import Ending, Toxic
from chaos.toxiproxy.toxics.timeout import Timeout
from tests.unit.chaos.toxiproxy.virtual import Passage, installed

FOREVER_S = 1e7

delaying: st.SearchStrategy[Toxic] = st.one_of(
    st.builds(Latency, latency_ms=st.integers(-5, 500), jitter_ms=st.integers(-1, 600)),
    st.builds(Bandwidth, rate_kb_per_s=st.integers(1, 50)),
    st.builds(
        Slicer,
        average_size_bytes=st.integers(-1, 40),
        size_variation_bytes=st.integers(-1, 60),
        delay_us=st.integers(-1, 2000),
    ),
    st.builds(SlowClose, delay_ms=st.integers(0, 300)),
    st.just(Noop()),
)
shares = st.sampled_from((0.0, 0.5, 1.0))
stacks = st.lists(st.tuples(delaying, shares), max_size=4)
data = st.binary(min_size=1, max_size=400)  # a socket never reads nothing
small = st.binary(min_size=1, max_size=30)  # so that a limit is often reached by several
Step = Callable[[Passage], None]


def send(chunk: bytes) -> Step:
    """Sends data."""
    return lambda passage: passage.send(chunk)


def wait(milliseconds: int) -> Step:
    """Lets time pass."""
    return lambda passage: passage.run(milliseconds / 1000)


def take(ready: bool) -> Step:  # noqa: FBT001 -- given by Hypothesis
    """Has the receiver read, or not."""
    return lambda passage: passage.take(ready=ready)


def add(toxic: tuple[Toxic, float]) -> Step:
    """Adds a toxic to the running stream."""
    return lambda passage: passage.link.add(installed(toxic[0], toxicity=toxic[1]))


def change(which: tuple[int, bool]) -> Step:
    """Starts one of the toxics over, or removes it."""

    def step(passage: Passage) -> None:
        slots = passage.link._slots
        if slots:
            chosen = slots[which[0] % len(slots)].installed
            (passage.link.remove if which[1] else passage.link.update)(chosen)

    return step


steps = st.lists(
    st.one_of(
        st.builds(send, data),
        st.builds(wait, st.integers(0, 400)),
        st.builds(take, st.booleans()),
        st.builds(add, st.tuples(delaying, shares)),
        st.builds(change, st.tuples(st.integers(0, 3), st.booleans())),
    ),
    max_size=20,
)


def stack_of(toxics: list[tuple[Toxic, float]]) -> list[Any]:
    """The toxics as they stand on a proxy."""
    return [installed(one, toxicity=share, name=str(number)) for number, (one, share) in enumerate(toxics)]


def play(passage: Passage, story: list[Step]) -> None:
    """Does the steps, ends the stream, and waits for whatever still comes."""
    for step in story:
        step(passage)
    passage.send(None)
    passage.take(ready=True)
    passage.run(FOREVER_S)


class Sent:
    """Remembers what a story sends."""

    def __init__(self, story: list[Step]) -> None:
        self.bytes = b""
        for step in story:
            step(self)  # type: ignore[arg-type]

    def send(self, chunk: bytes) -> None:
        """Remembers it."""
        self.bytes += chunk

    def run(self, for_s: float) -> None:
        """Nothing is sent."""

    def take(self, *, ready: bool) -> None:
        """Nothing is sent."""

    class link:  # noqa: N801 -- stands where a passage has its link
        """Has no toxics."""

        _slots: tuple[()] = ()

        @staticmethod
        def add(toxic: object) -> None:
            """Nothing is sent."""


@given(stacks, steps)
def test_any_stream_through_any_delaying_toxics_arrives_unchanged_and_in_order(
    toxics: list[tuple[Toxic, float]], story: list[Step]
) -> None:
    """Whatever is added, changed and removed meanwhile, and whenever the receiver reads; the end comes last."""
    passage = Passage(stack_of(toxics))

    play(passage, story)

    assert passage.received == Sent(story).bytes
    assert passage.ending is Ending.END


@given(
    stacks,
    stacks,
    st.integers(-1, 60),
    st.lists(st.one_of(st.builds(send, small), st.builds(wait, st.integers(0, 99))), min_size=2, max_size=12),
)
def test_with_a_limit_exactly_the_prefix_arrives(
    before: list[tuple[Toxic, float]], behind: list[tuple[Toxic, float]], limit_bytes: int, story: list[Step]
) -> None:
    """Wherever the limit stands among them; it closes once it is reached, and not before."""
    limit = (LimitData(limit_bytes=limit_bytes), 1.0)
    passage = Passage(stack_of([*before, limit, *behind]))
    sent = Sent(story).bytes

    play(passage, story)

    assert passage.received == sent[: max(limit_bytes, 0)]
    assert passage.ending is (Ending.CLOSE if sent and len(sent) >= limit_bytes else Ending.END)


@given(st.integers(1, 200), st.lists(st.binary(min_size=1, max_size=60), min_size=2), st.integers(0, 9))
def test_a_limit_goes_on_counting_when_it_is_started_over(limit_bytes: int, chunks: list[bytes], at: int) -> None:
    """In the middle of the stream, with the receiver stopped, so that data is held by it."""
    limit = installed(LimitData(limit_bytes=limit_bytes))
    passage = Passage([limit])
    passage.take(ready=False)
    for number, chunk in enumerate(chunks):
        if number == at:
            passage.link.update(limit)
        passage.send(chunk)

    play(passage, [])

    assert passage.received == b"".join(chunks)[:limit_bytes]


def test_a_limit_counts_what_has_passed_before_it_was_started_over() -> None:
    """6 of 10 bytes have passed: 4 of the next 6 still do."""
    limit = installed(LimitData(limit_bytes=10))
    passage = Passage([limit])
    passage.send(b"abcdef")
    assert passage.received == b"abcdef"
    passage.link.update(limit)
    passage.send(b"ghijkl")

    assert passage.received == b"abcdefghij"
    assert passage.ending is Ending.CLOSE


def test_latency_delays_every_chunk_from_its_own_arrival() -> None:
    """Five chunks 10 ms apart, 100 ms of delay: 100, 110, ... ms, not one after the other."""
    passage = Passage([installed(Latency(latency_ms=100))])
    for _ in range(5):
        passage.send(b"x")
        passage.run(0.010)
    passage.run(1)

    assert [at for at, _ in passage.pieces] == pytest.approx([0.1, 0.11, 0.12, 0.13, 0.14], abs=0.0015)


def test_jitter_stays_within_its_bounds_and_uses_them() -> None:
    """100 +- 50 ms over 300 chunks a second apart: none outside, and both ends are nearly reached."""
    passage = Passage([installed(Latency(latency_ms=100, jitter_ms=50))])
    for _ in range(300):
        passage.send(b"x")
        passage.run(1)

    delays = [at - number for number, (at, _) in enumerate(passage.pieces)]
    assert 0.0499 < min(delays) < 0.06  # times are floats
    assert 0.14 < max(delays) < 0.1515


def test_bandwidth_gives_every_piece_the_time_that_it_takes() -> None:
    """200 kB at 100 kB/s take 2 s, in pieces of at most 100 ms."""
    passage = Passage([installed(Bandwidth(rate_kb_per_s=100))])
    passage.send(bytes(200_000))
    passage.run(10)

    assert len(passage.received) == 200_000
    assert passage.pieces[-1][0] == pytest.approx(2.0, abs=0.002)
    assert max(len(piece) for _, piece in passage.pieces) <= 10_000


def test_a_rate_of_nothing_holds_back_until_it_is_removed() -> None:
    """Nothing in an hour; everything at once then."""
    toxic = installed(Bandwidth())
    passage = Passage([toxic])
    passage.send(b"held")
    passage.run(3600)
    assert passage.pieces == []

    passage.link.remove(toxic)

    assert passage.received == b"held"


def test_a_receiver_that_does_not_read_is_not_made_up_for_by_a_burst() -> None:
    """After 10 s without reading, 100 kB at 100 kB/s still take nearly a second."""
    passage = Passage([installed(Bandwidth(rate_kb_per_s=100))])
    passage.take(ready=False)
    passage.send(bytes(100_000))
    passage.run(10)
    passage.take(ready=True)
    passage.run(10)

    assert len(passage.received) == 100_000
    assert passage.pieces[-1][0] >= 10.75


@pytest.mark.parametrize("toxic", [Noop(), Bandwidth(rate_kb_per_s=1), Slicer(average_size_bytes=10), SlowClose()])
def test_a_receiver_that_does_not_read_stops_the_sender(toxic: Toxic) -> None:
    """Of a sender without end, no more than the limit and one chunk is taken in, though ten seconds pass."""
    passage = Passage([installed(toxic)])
    passage.take(ready=False)
    for _ in range(1000):
        passage.send(bytes(16_000))
    passage.run(10)

    assert passage.fed_bytes <= 64 * 1024 + 16_000
    assert not passage.reading


def test_slow_close_delays_the_end_alone() -> None:
    """Data at once, the end 700 ms after it was sent."""
    passage = Passage([installed(SlowClose(delay_ms=700))])
    passage.send(b"x")
    passage.send(None)
    passage.run(2)

    assert passage.pieces == [(0.0, b"x")]
    assert passage.ended_s == pytest.approx(0.7, abs=0.002)


def test_timeout_closes_when_nothing_came_for_so_long() -> None:
    """Data starts the time again: dropped at 200 ms, so the close comes at 500 ms, also when the sender has ended."""
    passage = Passage([installed(Timeout(timeout_ms=300))])
    passage.run(0.2)
    passage.send(b"dropped")
    passage.send(None)
    passage.run(1)

    assert passage.pieces == []
    assert passage.ending is Ending.CLOSE
    assert passage.ended_s == pytest.approx(0.5, abs=0.002)


def test_timeout_without_a_time_closes_when_it_is_removed() -> None:
    """Not in an hour before; and where its dice fell against it, never."""
    for toxicity, ending in ((1.0, Ending.CLOSE), (0.0, None)):
        toxic = installed(Timeout(), toxicity=toxicity)
        passage = Passage([toxic])
        passage.run(3600)
        assert passage.ending is None

        passage.link.remove(toxic)
        assert passage.ending is ending


def test_reset_peer_resets_after_the_first_data_even_when_the_receiver_does_not_read() -> None:
    """200 ms after it; nothing of it passes."""
    passage = Passage([installed(ResetPeer(timeout_ms=200))])
    passage.take(ready=False)
    passage.run(1)
    assert passage.pieces == []
    passage.send(b"x")
    passage.run(1)

    assert passage.pieces == []
    assert passage.ending is Ending.RESET
    assert passage.ended_s == pytest.approx(1.2, abs=0.002)


def test_a_reset_that_is_called_off_loses_nothing() -> None:
    """Removed before its time: the data goes on."""
    toxic = installed(ResetPeer(timeout_ms=200))
    passage = Passage([toxic])
    passage.send(b"kept")
    passage.run(0.1)
    passage.link.remove(toxic)
    passage.run(1)

    assert (passage.received, passage.ending) == (b"kept", None)


def test_a_slicer_cuts_to_size_and_leaves_time_between_the_pieces() -> None:
    """10 +- 3 bytes: at most 13, halved from at least 14; with 1,000 us after each piece."""
    passage = Passage([installed(Slicer(average_size_bytes=10, size_variation_bytes=3, delay_us=1000))])
    passage.send(bytes(range(250)) * 4)
    passage.run(5)

    sizes = [len(piece) for _, piece in passage.pieces]
    assert passage.received == bytes(range(250)) * 4
    assert 2 <= min(sizes) <= max(sizes) <= 13
    assert passage.pieces[-1][0] == pytest.approx((len(sizes) - 1) / 1000, rel=0.02)


@given(st.integers(0, 3000), st.integers(-3, 50), st.integers(-3, 80), st.randoms(use_true_random=False))
def test_cuts_of_a_slicer_cover_the_data_once(size: int, average: int, variation: int, random: Any) -> None:
    """Ascending, no empty piece, up to the end, whatever the attributes."""
    cuts = list(Slicer(average_size_bytes=average, size_variation_bytes=variation).cuts(size, random))

    assert cuts[-1] == size
    assert cuts == sorted(set(cuts))
    if average > 0:
        largest = average + max(variation, 0)
        assert all(end - start <= max(largest, 1) for start, end in zip([0, *cuts], cuts, strict=False))


def test_the_same_seed_gives_the_same_behaviour() -> None:
    """Pieces and times of a stack with chances, twice with one seed and once with another."""

    def pieces(seed: str) -> list[tuple[float, bytes]]:
        toxics: list[tuple[Toxic, float]] = [
            (Latency(latency_ms=50, jitter_ms=40), 0.7),
            (Slicer(average_size_bytes=20, size_variation_bytes=9), 0.9),
        ]
        passage = Passage(stack_of(toxics), seed=seed)
        for _ in range(10):
            passage.send(bytes(200))
            passage.run(0.5)
        return passage.pieces

    assert pieces("1") == pieces("1")
    assert len({str(pieces(str(seed))) for seed in range(4)}) == 4


def test_the_dice_fall_as_often_as_the_toxicity_says() -> None:
    """400 connections at 0.3: within 5 standard deviations (9.2) of 120; at 0 none, from 1 on all."""

    def affected(toxicity: float) -> int:
        toxic = installed(Latency(latency_ms=1), toxicity=toxicity)
        for number in range(400):
            Passage([toxic], seed=str(number)).send(b"x")
        return toxic.effect.connections

    assert abs(affected(0.3) - 120) <= 46
    assert [affected(0), affected(-1), affected(1), affected(7)] == [0, 0, 400, 400]


def test_the_effect_counts_what_reached_the_toxic() -> None:
    """Bytes and the connection once; a connection that nothing came through is none."""
    toxic = installed(Latency(latency_ms=1))
    Passage([toxic])
    passage = Passage([toxic])
    for _ in range(3):
        passage.send(b"four")

    assert (toxic.effect.connections, toxic.effect.bytes) == (1, 12)
