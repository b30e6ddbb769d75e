"""How a hog divides its time, on a clock that a busy machine cannot disturb."""

from dataclasses import dataclass

import pytest

from chaos import hog


@dataclass
class Machine:
    """A simulated core: each look at a clock takes half a millisecond, of which the hog gets `granted_ratio`."""

    granted_ratio: float
    now_s: float = 100.0
    used_s: float = 0.0
    rests: int = 0

    def thread_time(self) -> float:
        self.used_s += 0.0005 * self.granted_ratio
        self.now_s += 0.0005
        return self.used_s

    def monotonic(self) -> float:
        return self.now_s

    def rest(self, within_s: float) -> bool:
        """Sleeps; the runner is gone after forty rests."""
        self.now_s += within_s
        self.rests += 1
        return self.rests >= 40


@pytest.mark.parametrize(
    ("asked_ratio", "granted_ratio", "got_ratio"),
    [(0.1, 1.0, 0.1), (0.6, 1.0, 0.6), (1.0, 1.0, 1.0), (0.4, 0.5, 0.4), (0.8, 0.5, 0.5)],
)
def test_a_hog_takes_its_share_of_what_it_is_granted(
    monkeypatch: pytest.MonkeyPatch, asked_ratio: float, granted_ratio: float, got_ratio: float
) -> None:
    """On a core of its own, and on one that it has to share: it goes on until it has its share, or all that it can."""
    machine = Machine(granted_ratio=granted_ratio)
    monkeypatch.setattr(hog, "time", machine)
    monkeypatch.setattr(hog, "_runner_gone", machine.rest)
    assert hog.burn(asked_ratio) == 0

    assert machine.used_s / (machine.now_s - 100.0) == pytest.approx(got_ratio, abs=0.03)
