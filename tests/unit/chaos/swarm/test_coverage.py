"""The matrix of a swarm: what was proven together is counted, what was never seen is a gap."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chaos.swarm.coverage import ALONE, Sighting, cover, render, sightings
from metrics.events import Event

LABELS = ("kill portal", "pause portal", "slow portal")


def event(t_s: float, kind: str, fault_id: str | None = None, **data: Any) -> Event:
    """An event at a second."""
    return Event(t_ns=int(t_s * 1e9), kind=kind, fault_id=fault_id, instance=None, data=data)


def played(fault_id: str, begins_s: float, ends_s: float, *, proven: bool = True) -> list[Event]:
    """The events of a fault that was in force from when to when."""
    return [
        event(begins_s, "fault.injected", fault_id, fault=fault_id.partition("-")[0], instances=[], params={}),
        event(begins_s + 0.1, "fault.effect", fault_id, proven=proven, evidence={}),
        event(ends_s, "fault.healed", fault_id),
        event(ends_s + 0.1, "fault.heal_proven", fault_id, proven=True, evidence={}),
    ]


def plan(*spans: tuple[str, float, float]) -> dict[str, Any]:
    """A plan with faults of these ids, times and durations."""
    return {
        "timeline": [
            {"fault_id": fault_id, "at_s": begins_s, "heal_after_s": ends_s - begins_s}
            for fault_id, begins_s, ends_s in spans
        ]
    }


def test_what_was_in_force_at_the_same_time_is_beside_each_other() -> None:
    """A kill over a pause, and a slow one after both: pairs are seen from both sides, states by the fault's id."""
    spans = [("kill-1", 1.0, 3.0), ("pause-1", 2.0, 4.0), ("slow-1", 5.0, 6.0)]
    events = [one for span in spans for one in played(*span)]
    events += [event(1.2, "reading", name="stage", value="closed", at="kill-1")]
    events += [event(1.3, "reading", name="other", value="?", at="pause-1")]
    labels = {"kill-1": "kill portal", "pause-1": "pause portal", "slow-1": "slow portal"}

    assert sightings(labels, plan(*spans), events, state="stage") == [
        Sighting(label="kill portal", beside=("pause portal",), state="closed"),
        Sighting(label="pause portal", beside=("kill portal",), state=None),
        Sighting(label="slow portal", beside=(), state=None),
    ]


def test_what_nobody_saw_is_not_counted() -> None:
    """A kill whose effect was not proven is seen by itself no more than beside the pause."""
    spans = [("kill-1", 1.0, 3.0), ("pause-1", 2.0, 4.0)]
    events = [*played(*spans[0], proven=False), *played(*spans[1])]

    found = sightings({"kill-1": "kill portal", "pause-1": "pause portal"}, plan(*spans), events)

    assert found == [Sighting(label="pause portal", beside=(), state=None)]


def test_gaps_name_what_was_never_seen() -> None:
    """Of three faults one was never proven, and of the two others the pair was; one state is missing for one."""
    seen = [
        Sighting(label="kill portal", beside=("pause portal",), state="open"),
        Sighting(label="pause portal", beside=("kill portal",), state="open"),
        Sighting(label="kill portal", beside=(), state="closed"),
    ]

    coverage = cover(LABELS, seen, at_once=2, states=["open", "closed"])

    assert coverage.gaps == ("never proven: slow portal", "never in closed: pause portal")
    assert cover(LABELS[:2], seen[2:], at_once=2).gaps == ("never proven: pause portal",)
    apart = [Sighting(label=label, beside=(), state=None) for label in LABELS[:2]]
    assert cover(LABELS[:2], apart, at_once=2).gaps == ("never together: kill portal, pause portal",)
    assert cover(LABELS[:2], apart, at_once=1).gaps == ()
    text = render(coverage)
    assert "kill portal" in text
    assert "never proven: slow portal" in text


@given(
    st.lists(
        st.builds(
            Sighting,
            label=st.sampled_from(LABELS),
            beside=st.lists(st.sampled_from(LABELS), max_size=2).map(tuple),
            state=st.sampled_from([None, "open", "closed"]),
        ),
        max_size=20,
    )
)
def test_every_sighting_is_in_the_matrix(seen: list[Sighting]) -> None:
    """Whatever was seen: rows add up, nothing seen is called a gap, and the text has a line for each fault."""
    coverage = cover(LABELS, seen, at_once=2, states=["open"])

    for label in LABELS:
        of_it = [one for one in seen if one.label == label]
        assert coverage.proven.get(label, 0) == len(of_it)
        assert coverage.counts.get((label, ALONE), 0) == sum(not one.beside for one in of_it)
        assert coverage.counts.get((label, "in open"), 0) == sum(one.state == "open" for one in of_it)
        assert (f"never proven: {label}" in coverage.gaps) == (not of_it)
    assert sum(line.startswith(LABELS) for line in render(coverage).splitlines()) == 3
    assert [Sighting.from_json(one.to_json()) for one in seen] == seen
