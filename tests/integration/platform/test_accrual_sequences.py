"""Interest over sequences that nobody thought of: drawn by chance, compared with exact fractions at the end of each."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.integration.platform.accounts_and_clock import Books, opened
from tests.integration.platform.interest_oracle import HOUR, REMAINDERS
from tests.integration.platform.stage import Stage

_BIGINT_MAX: Final = 2**63 - 1
_AMOUNTS: Final = st.one_of(st.integers(1, 1000), st.integers(1, 10**12))


@pytest.fixture(scope="module")
def stage_with_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A database of one's own."""
    stage = Stage(folder=tmp_path_factory.mktemp("sequences"))
    try:
        stage.add_database(BUSINESS_START="2028-01-01T00:20:00Z")
        yield stage
    finally:
        stage.close()


@contextmanager
def _books(stage: Stage) -> Iterator[tuple[asyncio.Runner, Books]]:
    with asyncio.Runner() as runner:
        context = opened(stage.processes["postgres"])
        books = runner.run(context.__aenter__())
        try:
            yield runner, books
        finally:
            runner.run(context.__aexit__(None, None, None))


class Sequence(RuleBasedStateMachine):
    """Customers, an operator, a clock and accrual processes that come and go, in any order."""

    def __init__(self, runner: asyncio.Runner, books: Books) -> None:
        super().__init__()
        self.run, self.books = runner.run, books
        self.accounts: list[str] = []
        self.old_tokens: list[int] = []
        self.token = self.run(books.take_lease("first"))

    @rule(balance=st.one_of(st.just(0), _AMOUNTS, st.integers(10**14, 9 * 10**15)))
    def open_account(self, balance: int) -> None:
        self.accounts.append(self.run(self.books.open_account(balance)))

    @precondition(lambda self: self.accounts)
    @rule(which=st.integers(0), amount=_AMOUNTS)
    def deposit(self, which: int, amount: int) -> None:
        self.run(self.books.deposit(self._account(which), amount))

    @precondition(lambda self: self.accounts)
    @rule(which=st.integers(0), percent=st.integers(1, 100))
    def redeem(self, which: int, percent: int) -> None:
        account = self._account(which)
        balance = self.run(self.books.owner.fetchval("select balance from account where id = $1", account))
        if balance * percent // 100:
            self.run(self.books.redeem(account, balance * percent // 100))

    @rule(minutes=st.one_of(st.integers(1, 90), st.just(60), st.integers(90, 600)))
    def business_time_passes(self, minutes: int) -> None:
        self.run(self._go_on(timedelta(minutes=minutes)))

    @rule()
    def business_time_comes_to_an_edge(self) -> None:
        now = self.run(self.books.now())
        self.run(self.books.go_to(now.replace(minute=0, second=0, microsecond=0) + HOUR))

    @rule(minutes=st.integers(1, 150))
    def the_wall_clock_is_set_back(self, minutes: int) -> None:
        self.run(
            self.books.owner.execute(
                "insert into business_clock"
                " select clock_timestamp(), business_time(clock_timestamp()) - make_interval(mins => $1), 1",
                minutes,
            )
        )

    @rule(hours=st.integers(0, 5), rate_ppb=st.integers(0, 10**9))
    def the_rate_changes(self, hours: int, rate_ppb: int) -> None:
        hour = self.run(self.books.next_hour()) + hours * HOUR
        self.run(
            self.books.owner.execute(
                "insert into interest_rate values ($1, $2) on conflict (from_hour) do update set rate_ppb = $2",
                *(hour, rate_ppb),
            )
        )

    @rule(chunk=st.integers(1, 4), steps=st.integers(1, 5))
    def accrual_takes_steps(self, chunk: int, steps: int) -> None:
        for _ in range(steps):
            self.run(self.books.step(self.token, chunk))

    @rule()
    def another_process_takes_over(self) -> None:
        self.old_tokens.append(self.token)
        self.token = self.run(self.books.take_lease("another"))

    @precondition(lambda self: self.old_tokens)
    @rule(which=st.integers(0))
    def a_process_of_the_past_takes_a_step(self, which: int) -> None:
        before = self.run(self._counts())
        try:
            step = self.run(self.books.step(self.old_tokens[which % len(self.old_tokens)]))
        except asyncpg.PostgresError as error:
            assert error.sqlstate == "SV001"  # noqa: PT017 - either is right: refused, or nothing to do
        else:
            assert step["step"] == "waiting"
        assert self.run(self._counts()) == before

    def teardown(self) -> None:
        """Lets all that is begun be completed, and compares."""
        self.run(self._go_on(HOUR))
        self.run(self.books.catch_up(self.token))
        self.run(self.books.assert_exact())

    def _account(self, which: int) -> str:
        return self.accounts[which % len(self.accounts)]

    async def _go_on(self, by: timedelta) -> None:
        await self.books.go_to(await self.books.now() + by)

    async def _counts(self) -> Any:
        return await self.books.owner.fetchrow(
            "select (select count(*) from accrual_hour), (select count(*) from accrual_snapshot),"
            " (select count(*) from transfer)"
        )


@pytest.mark.parametrize("sequences", [15, pytest.param(40, marks=pytest.mark.prove)])
def test_any_sequence_of_events_leaves_interest_exact(stage_with_database: Stage, sequences: int) -> None:
    """Sequences of up to thirty events; what one leaves, the next goes on with."""
    with _books(stage_with_database) as (runner, books):

        class OnTheseBooks(Sequence):
            def __init__(self) -> None:
                super().__init__(runner, books)

        run_state_machine_as_test(
            OnTheseBooks,
            settings=settings(
                max_examples=sequences,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )


def test_one_hour_loses_and_invents_nothing(stage_with_database: Stage) -> None:
    """Any balance, rate and carried remainder: units and new remainder are exactly what was earned and carried."""
    hours = st.tuples(
        st.one_of(st.integers(-_BIGINT_MAX, _BIGINT_MAX), st.integers(0, 10**6)),
        st.integers(0, 10**9),
        st.one_of(st.integers(0, REMAINDERS - 1), st.just(REMAINDERS - 1)),
    )
    with _books(stage_with_database) as (runner, books):

        @settings(max_examples=60, deadline=None)
        @given(given_hours=st.lists(hours, min_size=1, max_size=50))
        def check(given_hours: list[tuple[int, int, int]]) -> None:
            rows = runner.run(
                books.owner.fetch(
                    "select e.* from unnest($1::bigint[], $2::bigint[], $3::bigint[]) with ordinality as g (b, p, r, n)"
                    " cross join lateral hourly_interest(g.b, g.p, g.r) as e order by g.n",
                    *(list(column) for column in zip(*given_hours, strict=True)),
                )
            )
            for (balance, rate, carried), row in zip(given_hours, rows, strict=True):
                assert row["interest"] * REMAINDERS + row["remainder"] == max(balance, 0) * rate + carried
                assert 0 <= row["remainder"] < REMAINDERS

        check()
