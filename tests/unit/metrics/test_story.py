import json
from pathlib import Path
from typing import Any

from metrics.judge import judge
from metrics.story import LINES_MAX, stories
from tests.run_folders import Folder, event, savings

ID = (1 << 40) + 201
LOST = "\nredeem r1 10 @5 +0.4 info !timeout portal-2 x2"


def _line(**fields: Any) -> str:
    return json.dumps({"request_id": str(ID), **fields})


def test_a_witness_has_its_whole_life_in_order_of_time(tmp_path: Path) -> None:
    """The client's rows, the balancer's and two nodes' lines, by their own clocks; a line without time stands last."""
    logs = {
        "balancer": ["plain text", _line(started="2023-11-14T22:13:25.010Z", upstream_host="127.0.0.1:2")],
        "portal-2": [f"prefix {_line(ts=1_700_000_005.1, said='hello')}", _line(level="info")],
        "portal-1": [_line(t_ns=5_200_000_000)],
    }
    folder = Folder(path=tmp_path, clients=savings() + LOST, logs=logs)
    (finding,) = judge(folder.write()).expectations
    story = finding.witness[0]["story"]

    assert [(step["t_s"], step["who"]) for step in story] == [
        (2.0, "client"),
        (2.01, "balancer"),
        (2.1, "portal-2"),
        (2.2, "portal-1"),
        (2.4, "client"),
        (None, "portal-2"),
    ]
    assert story[1]["line"]["upstream_host"] == "127.0.0.1:2"


def test_lines_of_other_operations_are_not_taken(tmp_path: Path) -> None:
    """The id as part of another, in another field, as a number, in broken or nested JSON."""
    lines = [
        json.dumps({"request_id": f"{ID}9"}),
        json.dumps({"request_id": f"9{ID}"}),
        json.dumps({"request_id": "x", "key": str(ID)}),
        json.dumps({"inner": {"request_id": str(ID)}}),
        '{"request_id": "' + str(ID),
        "[" * 100_000 + str(ID),
        json.dumps({"request_id": ID, "mine": True}),
    ]
    evidence = Folder(path=tmp_path, clients=savings() + LOST, logs={"node": lines}).evidence()
    told = [step for step in stories(evidence, [str(ID)])[str(ID)] if step["who"] == "node"]

    assert [step["line"] for step in told] == [{"request_id": ID, "mine": True}]


def test_a_chatty_log_does_not_drown_the_story(tmp_path: Path) -> None:
    """Ten thousand lines about one operation are cut, and a log that is empty is none."""
    logs = {"node": [_line(n=number) for number in range(10_000)], "empty": []}
    evidence = Folder(path=tmp_path, clients=savings() + LOST, logs=logs).evidence()

    life = stories(evidence, [str(ID)])[str(ID)]
    assert len(life) == LINES_MAX
    assert {step["who"] for step in life} == {"client", "node"}


def test_times_that_cannot_be_placed_are_left_open(tmp_path: Path) -> None:
    """No clock anchor, or a moment that is none."""
    logs = {
        "a": [
            _line(ts="2023-99-14T22:13:25Z"),
            _line(start_time="2023-11-14T22:13:25Z", ts="yesterday"),
            _line(ts=None),
        ]
    }
    folder = Folder(path=tmp_path, clients=savings() + LOST, logs=logs, run={"clock": None})
    folder.more_events.append(event(1, "run.note"))
    life = stories(folder.evidence(), [str(ID)])[str(ID)]

    assert [step["t_s"] for step in life if step["who"] == "a"] == [None, None, None]
