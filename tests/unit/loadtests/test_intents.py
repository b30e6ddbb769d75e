"""What an arrival does follows from seed and number."""

from collections import Counter

from loadtests.intents import BALANCE, DEPOSIT, DEPOSIT_RANGE, REDEEM, REDEEM_RANGE, WEIGHTS, intend, repeats


def test_the_same_seed_means_the_same_operation_whatever_was_asked_before() -> None:
    """Asked forwards and backwards."""
    forwards = [intend(42, 1, number) for number in range(200)]
    backwards = [intend(42, 1, number) for number in reversed(range(200))]
    assert forwards == backwards[::-1]


def test_another_seed_or_writer_means_other_operations() -> None:
    """Two load processes of one run must not share keys, nor two seeds."""
    keys = [{intend(seed, writer, n).key for n in range(500)} - {None} for seed, writer in [(1, 1), (2, 1), (1, 2)]]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]


def test_the_same_seed_in_another_run_asks_for_the_same_under_new_keys() -> None:
    """A target that stayed up would otherwise answer the second run from what it stored for the first."""
    first, second = ([intend(9, 1, number, run_id=run_id) for number in range(200)] for run_id in ("one", "two"))
    assert [(i.f, i.amount) for i in first] == [(i.f, i.amount) for i in second]
    assert not ({i.key for i in first} - {None}) & {i.key for i in second}


def test_no_key_is_used_twice_and_reads_have_none() -> None:
    """Ten thousand arrivals: as many keys as effects."""
    intents = [intend(7, 1, number) for number in range(10_000)]
    effects = [intent for intent in intents if intent.f != BALANCE]
    assert len({intent.key for intent in effects}) == len(effects)
    assert all(intent.key is None and intent.amount == 0 for intent in intents if intent.f == BALANCE)


def test_the_mix_is_as_weighted() -> None:
    """10,000 draws at 40/30/30 %: five standard deviations are 245, so 300 off cannot be chance."""
    counts = Counter(intend(3, 1, number).f for number in range(10_000))
    for f, weight in WEIGHTS.items():
        assert abs(counts[f] - weight * 1_000) < 300


def test_deposits_bring_in_what_redemptions_need() -> None:
    """Amounts stay in their ranges, and the smallest deposit covers the largest redemption."""
    intents = [intend(5, 1, number) for number in range(5_000)]
    assert all(DEPOSIT_RANGE[0] <= i.amount <= DEPOSIT_RANGE[1] for i in intents if i.f == DEPOSIT)
    assert all(REDEEM_RANGE[0] <= i.amount <= REDEEM_RANGE[1] for i in intents if i.f == REDEEM)
    assert REDEEM_RANGE[1] <= DEPOSIT_RANGE[0]


def test_other_weights_and_amounts_are_kept_and_one_order_in_ten_is_sent_again() -> None:
    """A rush: nothing but redemptions up to 50; of 10,000 arrivals about 1,000 repeat (five deviations are 150)."""
    rush = [intend(3, 1, number, weights={REDEEM: 1}, redeem=(1, 50)) for number in range(1_000)]
    assert {intent.f for intent in rush} == {REDEEM}
    assert {intent.amount for intent in rush} == set(range(1, 51))
    again = [number for number in range(10_000) if repeats(3, 1, number)]
    assert abs(len(again) - 1_000) < 150
    assert again == [number for number in range(10_000) if repeats(3, 1, number)]
