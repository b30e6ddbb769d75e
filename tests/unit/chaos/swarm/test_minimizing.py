"""Delta debugging: what is left fails, and nothing of it can be spared; against predicates of every shape."""

from hypothesis import given
from hypothesis import strategies as st

from chaos.swarm.minimizing import ddmin, simplify


@st.composite
def monotone(draw: st.DrawFn) -> tuple[int, list[frozenset[int]]]:
    """A number of items, and the sets of them of which any one is enough to fail."""
    size = draw(st.integers(1, 24))
    causes = draw(st.lists(st.frozensets(st.integers(0, size - 1), min_size=1, max_size=4), min_size=1, max_size=3))
    return size, causes


@given(monotone())
def test_what_is_left_fails_and_nothing_of_it_can_be_left_out(case: tuple[int, list[frozenset[int]]]) -> None:
    """Of random monotone predicates: the result is one of the causes, in the order of the items."""
    size, causes = case
    asked: list[tuple[int, ...]] = []

    def fails(part: tuple[int, ...]) -> bool:
        asked.append(part)
        return any(cause <= set(part) for cause in causes)

    found = ddmin(range(size), fails)

    assert any(cause <= set(found) for cause in causes)
    assert not any(cause <= set(found) - {one} for cause in causes for one in found)
    assert list(found) == sorted(found)
    assert len(asked) == len(set(asked)), "the same part was asked for twice"
    assert len(asked) <= size**2 + 3 * size, "more than the paper's bound"


@given(st.integers(2, 64), st.data())
def test_two_of_many_are_found_with_few_questions(size: int, data: st.DataObject) -> None:
    """A cause of two: about as many questions as the logarithm asks for, never one for each item of a long list."""
    pair = data.draw(st.sets(st.integers(0, size - 1), min_size=2, max_size=2))
    count = 0

    def fails(part: tuple[int, ...]) -> bool:
        nonlocal count
        count += 1
        return pair <= set(part)

    assert set(ddmin(range(size), fails)) == pair
    assert count <= 8 * size.bit_length() + 4


@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_it_ends_whatever_the_answers(size: int, rng: object) -> None:
    """Answers at random, the same for the same part: it ends, and what is left failed or is the whole."""
    answers: dict[tuple[int, ...], bool] = {tuple(range(size)): True}

    def fails(part: tuple[int, ...]) -> bool:
        return answers.setdefault(part, rng.random() < 0.3)  # type: ignore[attr-defined]

    assert answers[ddmin(range(size), fails)]


def test_one_alone_is_asked_for_nothing() -> None:
    """There is nothing to leave out."""
    assert ddmin(["a"], lambda _part: False) == ("a",)


@given(st.integers(0, 200), st.integers(0, 200))
def test_simplifying_goes_on_while_it_fails(start: int, needed: int) -> None:
    """A number is halved while it stays above a limit; each refused one is asked for once."""
    whole = start + needed
    asked: list[int] = []

    def fails(value: int) -> bool:
        asked.append(value)
        return value >= needed

    found = simplify(whole, lambda value: [value // 2, value - 1] if value else [], fails, rounds=10_000)

    assert found in {needed, 0}
    assert len(asked) == len(set(asked))
