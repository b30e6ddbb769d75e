"""Business time: piecewise linear in wall time, never backwards, and invertible."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.platform.stage import Stage

_INSTANT: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_FIVE_YEARS_US: Final = 5 * 366 * 86_400 * 10**6
_RATES: Final = st.one_of(
    st.sampled_from([1.0, 60.0, 3600.0, 86_400.0, 0.5]), st.floats(min_value=0.01, max_value=100_000, allow_nan=False)
)
_MANY: Final = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Piece = tuple[datetime, datetime, float]


class Clock:
    """The clock's functions, each example in a transaction that is rolled back."""

    def __init__(self, runner: asyncio.Runner, owner: Any) -> None:
        self.run = runner.run
        self.owner = owner

    def restart(self, pieces: Sequence[Piece]) -> None:
        """Begins an example with these pieces alone."""
        self.end()
        self.run(self.owner.execute("begin; delete from business_clock"))
        self.run(self.owner.executemany("insert into business_clock values ($1, $2, $3)", pieces))

    def end(self) -> None:
        """Forgets the example."""
        self.run(self.owner.execute("rollback"))

    def business(self, walls: Sequence[datetime]) -> list[datetime]:
        """business_time of each."""
        return self._map("business_time", walls)

    def wall(self, businesses: Sequence[datetime]) -> list[datetime]:
        """wall_time of each."""
        return self._map("wall_time", businesses)

    def set(self, business: datetime | None, rate: float | None) -> datetime:
        """set_business_clock, after which this session still can be used when it is refused."""
        self.run(self.owner.execute("savepoint before"))
        try:
            moment: datetime = self.run(self.owner.fetchval("select set_business_clock($1, $2)", business, rate))
        except asyncpg.PostgresError:
            self.run(self.owner.execute("rollback to before"))
            raise
        return moment

    def now(self) -> datetime:
        """Business time at this moment."""
        moment: datetime = self.run(self.owner.fetchval("select business_time(clock_timestamp())"))
        return moment

    def _map(self, function: str, moments: Sequence[datetime]) -> list[datetime]:
        each = "from unnest($1::timestamptz[]) with ordinality as u (t, n) order by n"
        statement = {"business_time": f"select business_time(t) {each}", "wall_time": f"select wall_time(t) {each}"}
        return [row[0] for row in self.run(self.owner.fetch(statement[function], list(moments)))]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    """A database of which only the clock is used."""
    stage = Stage(folder=tmp_path_factory.mktemp("clock"))
    try:
        address = stage.add_database().outputs()["admin_dsn"]
        with asyncio.Runner() as runner:
            owner = runner.run(asyncpg.connect(address, timeout=5))
            clock = Clock(runner, owner)
            try:
                yield clock
            finally:
                clock.end()
                runner.run(owner.close())
    finally:
        stage.close()


@st.composite
def _pieces(draw: st.DrawFn) -> list[Piece]:
    """Clocks as an operator makes them: each piece begins when the one before has come at least so far."""
    wall = _EPOCH + timedelta(microseconds=draw(st.integers(0, _FIVE_YEARS_US)))
    business = _EPOCH + timedelta(microseconds=draw(st.integers(0, _FIVE_YEARS_US)))
    pieces = [(wall, business, draw(_RATES))]
    for _ in range(draw(st.integers(0, 4))):
        passed_us = draw(st.integers(1, 10**11))
        _, business, rate = pieces[-1]
        jumped_us = draw(st.one_of(st.just(0), st.integers(0, 10**13)))
        wall += timedelta(microseconds=passed_us)
        # Half an instant more, because the database rounds.
        business += timedelta(microseconds=int(passed_us * Fraction(rate)) + 1 + jumped_us)
        pieces.append((wall, business, draw(_RATES)))
    return pieces


# A day of wall time, at most three centuries of business time: Python's calendar ends in the year 9999.
_OFFSETS: Final = st.lists(st.integers(-(10**11), 10**11), min_size=2, max_size=20)


@_MANY
@given(pieces=_pieces(), offsets_us=_OFFSETS)
def test_business_time_is_linear_between_its_pieces_and_never_runs_backwards(
    clock: Clock, pieces: list[Piece], offsets_us: list[int]
) -> None:
    """Moments around every piece, compared with exact fractions: at most an instant off, and in order."""
    clock.restart(pieces)
    walls = sorted(
        {wall + timedelta(microseconds=offset) for wall, _, _ in pieces for offset in (*offsets_us, -1, 0, 1)}
    )
    got = clock.business(walls)
    for wall, business in zip(walls, got, strict=True):
        begun, start, rate = max((piece for piece in pieces if piece[0] <= wall), default=pieces[0])
        passed_us = max((wall - begun) // _INSTANT, 0)
        expected_us = (start - _EPOCH) // _INSTANT + passed_us * Fraction(rate)
        assert abs((business - _EPOCH) // _INSTANT - expected_us) <= 1
    assert got == sorted(got)


@_MANY
@given(pieces=_pieces(), offsets_us=_OFFSETS)
def test_wall_time_is_when_business_time_will_be(clock: Clock, pieces: list[Piece], offsets_us: list[int]) -> None:
    """Moments since the newest piece, there and back: off by no more than what one instant of either clock is worth."""
    clock.restart(pieces)
    begun, _, rate = pieces[-1]
    walls = [begun + timedelta(microseconds=abs(offset)) for offset in offsets_us]
    back = clock.wall(clock.business(walls))
    worth = timedelta(microseconds=1 + 1 / rate)
    assert all(abs(there - here) <= worth for there, here in zip(walls, back, strict=True))


@_MANY
@given(
    changes=st.lists(
        st.tuples(st.one_of(st.none(), st.integers(-(10**10), 10**12)), st.one_of(st.none(), _RATES)), max_size=8
    )
)
def test_setting_the_clock_never_takes_business_time_back(
    clock: Clock, changes: list[tuple[int | None, float | None]]
) -> None:
    """An operator's changes: jumps forward and rates hold from now on, a jump back is refused and changes nothing."""
    clock.restart([(_EPOCH, _EPOCH, 1.0)])
    past, rate = clock.business([_EPOCH + timedelta(days=day) for day in range(30)]), 1.0
    for jump_us, new_rate in changes:
        before = clock.now()
        target = None if jump_us is None else before + timedelta(microseconds=jump_us)
        if target is not None and target < before:
            with pytest.raises(asyncpg.InvalidParameterValueError, match="cannot go back"):
                clock.set(target, new_rate)
        else:
            try:
                went_on_from = clock.set(target, new_rate)
            except asyncpg.InvalidParameterValueError:
                assert target is not None, "to stay as it is cannot be refused"
                assert target < clock.now(), "business time had not come so far"
            else:
                rate = rate if new_rate is None else new_rate
                assert went_on_from >= (before if target is None else target)
        assert clock.now() >= before
        newest = clock.run(clock.owner.fetchval("select rate from business_clock order by wall desc limit 1"))
        assert newest == rate
    assert clock.business([_EPOCH + timedelta(days=day) for day in range(30)]) == past, "the past has changed"


@pytest.mark.parametrize("rate", [0.0, -1.0, 1_000_001.0])
def test_a_rate_that_would_stop_or_reverse_time_is_refused(clock: Clock, rate: float) -> None:
    """Nothing, less, and more than a million: refused."""
    clock.restart([(_EPOCH, _EPOCH, 1.0)])
    with pytest.raises(asyncpg.CheckViolationError):
        clock.set(None, rate)


def test_the_clock_goes_on_from_its_newest_piece_where_the_wall_clock_was_set_back(clock: Clock) -> None:
    """The newest piece begins an hour from now, as it looks after a wall clock's step back: a change comes after it."""
    wall = clock.run(clock.owner.fetchval("select clock_timestamp()"))
    clock.restart([(_EPOCH, _EPOCH, 1.0), (wall + timedelta(hours=1), _EPOCH + timedelta(days=4000), 1.0)])
    went_on_from = clock.set(None, 60.0)
    assert went_on_from >= _EPOCH + timedelta(days=4000)
    walls = [wall + timedelta(minutes=minutes) for minutes in range(0, 121, 10)]
    got = clock.business(walls)
    assert got == sorted(got)
