"""An experiment with its target: every mistake is told once, and all mistakes together, however they meet."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.cli import execute
from chaos.errors import ExperimentError
from chaos.preparing import prepare

EXPERIMENT = """\
title: everything
target: topology.yaml
seed: 7
load: {locustfile: users.py, arrivals: 30/s}
phases: {warmup: 1s, faults: 40s, recovery: 1s}
faults:
  - kill: {role: portal, count: 2, restart_after: 3s}
    every: 10s
    times: 2
  - pause: {role: portal, zone: a, for: 2s}
    at: 36s
  - stop: {role: db, all: true, restart_after: 1s}
    at: 5s
  - deploy: {role: web, set: {env.VERSION: v2}}
  - action: {name: shut, for: 1s}
expect:
  - failed: {max: 0}
  - sometimes: {during: kill, operation: redeem}
  - observed: {reading: retries, increase: {min: 1}}
  - ledger: {dump: bookings}
guardrails:
  - error_rate: {max: 50%, over: 5s}
set: {web.env.VERSION: v1}
"""
TOPOLOGY = """\
name: shop
url: portal.url
probe: {path: /}
roles:
  portal: {count: 4, zones: [a, b], metrics: /metrics, command: [portal]}
  web: {command: [web], count: 2, env: {}}
  db: {command: [db]}
  seed: {command: [seed], task: true}
observe:
  retries: {metric: retries, role: portal}
final:
  - {name: bookings, schema: ledger/1, command: [dump, "${out}"]}
actions:
  shut:
    command: [shut]
    effect: {observe: retries, is: 0}
    undo: {command: [open]}
"""


class Mistake(NamedTuple):
    """What stands there, what stands there instead, and how the problem begins.

    `e` is the experiment, `t` the target.
    """

    old: str
    new: str
    told: str


MISTAKES = [
    Mistake("title: everything", "titel: everything", "e:1: titel: unknown key; did you mean 'title'?"),
    Mistake("seed: 7", "seed: -7", "e:3: seed: expected at least 0"),
    Mistake("users.py", "user.py", "e:4: load.locustfile: no such file: "),
    Mistake("arrivals", "arivals", "e:4: load.arivals: unknown key; did you mean 'arrivals'?"),
    Mistake("warmup: 1s", "warmup: 1", "e:5: phases.warmup: expected a duration"),
    Mistake("recovery: 1s", "recovary: 1s", "e:5: phases.recovary: unknown key; did you mean 'recovery'?"),
    Mistake(
        "{role: portal, count: 2", "{role: protal, count: 2", "e:7: faults.0.kill: the target has no role 'protal'"
    ),
    Mistake("times: 2", "times: 20", "e:9: faults.0.times: only 4 of 20 fit"),
    Mistake("zone: a", "count: 5", "e:10: faults.1.pause: role 'portal' has 4 instances, not 5"),
    Mistake("zone: a", "zone: c", "e:10: faults.1.pause: role 'portal' has nobody in zone 'c'"),
    Mistake("for: 2s", "for: 2s, cuont: 1", "e:10: faults.1.pause.cuont: unknown key; did you mean 'count'?"),
    Mistake("at: 36s", "at: 50s", "e:10: faults.1.pause: does not fit: it begins at 50 s"),
    Mistake("at: 36s", "at: soon", "e:11: faults.1.at: expected a duration"),
    Mistake("all: true", "count: 1", "e:12: faults.2.stop: that takes the last db of 1"),
    Mistake("all: true", "all: true, count: 1", "e:12: faults.2.stop: count and all exclude each other"),
    Mistake("restart_after: 1s", "restart_aftr: 1s", "e:12: faults.2.stop.restart_aftr: unknown key"),
    Mistake("env.VERSION: v2", "VERSION: v2", "e:14: faults.3.deploy: set: VERSION: a deploy changes the environment"),
    Mistake("deploy: {role: web", "deploy: {role: seed", "e:14: faults.3.deploy: the target has no role 'seed'"),
    Mistake("name: shut", "name: shoot", "e:15: faults.4.action.name: the target has no action 'shoot'"),
    Mistake("failed: {max: 0}", "failed: {maximum: 0}", "e:17: expect.0.failed.maximum: unknown parameter"),
    Mistake("failed: {max: 0}", "faild: {max: 0}", "e:17: expect.0: no checker called 'faild'; did you mean 'failed'?"),
    Mistake("during: kill", "during: kil", "e:18: expect.1.sometimes.during: this experiment has no fault 'kil'"),
    Mistake("operation: redeem", "operation: 5", "e:18: expect.1.sometimes.operation: Input should be a valid string"),
    Mistake(
        "reading: retries", "reading: retrys", "e:19: expect.2.observed.reading: the target has no reading 'retrys'"
    ),
    Mistake("increase: {min: 1}", "increase: {mn: 1}", "e:19: expect.2.observed.increase.mn: unknown parameter"),
    Mistake("dump: bookings", "dump: booking", "e:20: expect.3.ledger.dump: the target has no dump 'booking'"),
    Mistake("dump: bookings", "dmup: bookings", "e:20: expect.3.ledger.dmup: unknown parameter"),
    Mistake("over: 5s", "over: 5s, over: 6s", "e:22: guardrails.0.error_rate.over: this key is given twice"),
    Mistake("count: 2, env", "count: 2, 5: x, env", "t:6: roles.web: keys must be text, got 5"),
    Mistake("max: 50%", "max: lots", "e:22: guardrails.0.error_rate.max: expected a share"),
    Mistake("probe: {path: /}", "probe: {path: x}", "t:3: probe.path: expected a path that begins with /"),
    Mistake("command: [portal]", "command: [portal], cvd: .", "t:5: roles.portal.cvd: unknown key"),
    Mistake("command: [web]", "command: web", "t:6: roles.web.command: expected a list"),
    Mistake("command: [db]", "command: [db], needs: [cache]", "t:7: roles.db.needs.0: no role called 'cache'"),
    Mistake("retries: {metric: retries", "retries: {metrc: retries", "t:10: observe.retries.metrc: unknown key"),
    Mistake("schema: ledger/1", "schema: ledger", "t:12: final.0.schema: string should match pattern"),
]
"""Whatever else is wrong, each of them stays a mistake."""

BLINDING = [
    Mistake("target: topology.yaml", "target: topologie.yaml", "e:2: target: no such file: "),
    Mistake("target: topology.yaml", "tagret: topology.yaml", "e:2: tagret: unknown key; did you mean 'target'?"),
    Mistake("target: topology.yaml", "target: 7", "e:2: target: expected text"),
    Mistake("load: {locustfile", "laod: {locustfile", "e:4: laod: unknown key"),
    Mistake("phases: {", "phasen: {", "e:5: phasen: unknown key; did you mean 'phases'?"),
    Mistake("faults: 40s", "faults: 40", "e:5: phases.faults: expected a duration"),
    Mistake("faults: 40s, ", "fault: 40s, ", "e:5: phases.fault: unknown key; did you mean 'faults'?"),
    Mistake("\nfaults:\n", "\nfautls:\n", "e:6: fautls: unknown key; did you mean 'faults'?"),
    Mistake("stop: {role: db", "halt: {role: db", "e:12: faults.2.halt: unknown key"),
    Mistake("- kill:", "- kll:", "e:7: faults.0.kll: unknown key"),
    Mistake("{role: portal, count: 2", "{rol: portal, count: 2", "e:7: faults.0.kill.rol: unknown key"),
    Mistake("{role: portal, count: 2, restart_after: 3s}", "portal", "e:7: faults.0.kill: expected a mapping"),
    Mistake("all: true, ", "al: true, ", "e:12: faults.2.stop.al: unknown key; did you mean 'all'?"),
    Mistake("for: 2s", "fo: 2s", "e:10: faults.1.pause.fo: unknown key; did you mean 'for'?"),
    Mistake("every: 10s", "evry: 10s", "e:8: faults.0.evry: unknown key; did you mean 'every'?"),
    Mistake("    every: 10s\n", "", "e:8: faults.0.times: needs every"),
    Mistake("expect:", "expects:", "e:16: expects: unknown key; did you mean 'expect'?"),
    Mistake("set: {web.env", "set: {wbe.env", "e:23: set.wbe.env.VERSION: nothing called 'wbe'; did you mean 'web'?"),
    Mistake("count: 4", "count: many", "t:5: roles.portal.count: expected a whole number"),
    Mistake("count: 4", "cuont: 4", "t:5: roles.portal.cuont: unknown key; did you mean 'count'?"),
    Mistake("zones: [a, b]", "zone: [a, b]", "t:5: roles.portal.zone: unknown key; did you mean 'zones'?"),
    Mistake("\nobserve:\n", "\nobsrve:\n", "t:9: obsrve: unknown key; did you mean 'observe'?"),
    Mistake("final:", "finals:", "t:11: finals: unknown key; did you mean 'final'?"),
    Mistake("name: bookings", "nam: bookings", "t:12: final.0.nam: unknown key; did you mean 'name'?"),
    Mistake("effect: {observe", "efect: {observe", "t:16: actions.shut.efect: unknown key; did you mean 'effect'?"),
    Mistake("undo: {command", "undoo: {command", "t:17: actions.shut.undoo: unknown key; did you mean 'undo'?"),
    Mistake("command: [shut]", "comand: [shut]", "t:15: actions.shut.comand: unknown key; did you mean 'command'?"),
    Mistake("name: shop\n", "name: shop\n  url: x\n", "t:2: not YAML: "),
]
"""After these it cannot be told whether something else fits: until they are mended that is no problem."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where both files lie, beside the users."""
    (tmp_path / "users.py").touch()
    return tmp_path


def problems(folder: Path, *mistakes: Mistake, **options: Any) -> list[str]:
    """What is told of the two files with these mistakes in them; files are called `e` and `t`."""
    texts = {"experiment.yaml": EXPERIMENT, "topology.yaml": TOPOLOGY}
    for old, new, _ in mistakes:
        (name,) = [name for name, text in texts.items() if old in text]
        assert texts[name].count(old) == 1, old
        texts[name] = texts[name].replace(old, new)
    for name, text in texts.items():
        (folder / name).write_text(text)
    try:
        prepare(folder / "experiment.yaml", **options)
    except ExperimentError as error:
        names = ((f"{folder}/experiment.yaml:", "e:"), (f"{folder}/topology.yaml:", "t:"))
        return [_short(problem, names) for problem in error.problems]
    return []


def _short(problem: str, names: tuple[tuple[str, str], ...]) -> str:
    for path, short in names:
        if problem.startswith(path):
            return short + problem.removeprefix(path)
    return problem


def test_without_mistakes_there_is_a_plan(folder: Path) -> None:
    """Otherwise nothing below would mean anything."""
    assert problems(folder) == []
    ready = prepare(folder / "experiment.yaml")
    played = [one.fault_id for one in ready.plan.timeline]
    assert played == ["kill-1", "deploy-1", "action-1", "stop-1", "kill-2", "pause-1"]
    assert (ready.plan.seed, ready.topology.name) == (7, "shop")


@pytest.mark.parametrize("mistake", [*MISTAKES, *BLINDING], ids=lambda mistake: mistake.new.strip())
def test_a_mistake_is_told_once_and_nothing_that_only_follows_from_it(folder: Path, mistake: Mistake) -> None:
    """Two good files with one mistake give exactly one problem."""
    (found,) = problems(folder, mistake)
    assert found.startswith(mistake.told)


@settings(max_examples=100, deadline=None)
@given(wanted=st.lists(st.sampled_from(MISTAKES), unique=True))
def test_any_mistakes_are_told_together(wanted: list[Mistake]) -> None:
    """Each is told, and nothing else; Hypothesis finds the fewest that do not go together."""
    chosen = compatible(wanted)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "users.py").touch()
        found = problems(Path(folder), *chosen)
    assert is_told(found, chosen), "\n".join(found)


def test_all_mistakes_are_told_in_order_of_lines(folder: Path) -> None:
    """As many as fit into the two files, those of the experiment first."""
    chosen = compatible(MISTAKES)
    found = problems(folder, *chosen)

    assert len(chosen) > 25
    assert is_told(found, chosen), "\n".join(found)
    places = [(problem[0], int(problem.split(":")[1])) for problem in found]
    assert places == sorted(places)


@pytest.mark.parametrize("command", ["validate", "run"])
def test_the_commands_tell_all_kinds_at_once_and_start_nothing(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key, an unknown role, too many instances, a fault outside its phase, an unknown reading, a parameter."""
    monkeypatch.chdir(folder)
    (folder / "topology.yaml").write_text(TOPOLOGY)
    (folder / "mine.yaml").write_text("""\
title: six mistakes
target: topology.yaml
lod: {}
phases: {warmup: 1s, faults: 30s}
faults:
  - kill: {role: protal}
  - pause: {role: portal, count: 9}
  - stop: {role: web, restart_after: 31s}
expect:
  - observed: {reading: retrys, last: {max: 1}}
  - failed: {mox: 0}
  - sometimes: {during: kill, operation: redeem}
""")
    before = sorted(folder.rglob("*"))

    assert execute([command, "mine.yaml"]) == 64
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [
        line.removeprefix("holdfast: ").partition(";")[0].partition(" lasts")[0] for line in captured.err.splitlines()
    ] == [
        "mine.yaml:3: lod: unknown key",
        "mine.yaml:6: faults.0.kill: the target has no role 'protal'. Known: db, portal, web",
        "mine.yaml:7: faults.1.pause: role 'portal' has 4 instances, not 9",
        "mine.yaml:8: faults.2.stop: does not fit: it begins at 0 s and is healed after 31 s, but the phase faults",
        "mine.yaml:10: expect.0.observed.reading: the target has no reading 'retrys'",
        "mine.yaml:11: expect.1.failed.mox: unknown parameter",
    ]
    assert sorted(folder.rglob("*")) == before


def test_overrides_that_lead_nowhere_are_told_with_the_rest(folder: Path) -> None:
    """What they would have changed is not known, so that too many instances are no problem yet."""
    role, count, reading = (next(one for one in MISTAKES if word in one.new) for word in ("prot", "count: 5", "retrys"))
    assert is_told(problems(folder, role, count, reading), [role, count, reading])

    found = problems(folder, role, count, reading, overrides={"portal.cuont": 6})
    lost = Mistake("", "", "t: override portal.cuont: roles.portal has no 'cuont'")
    assert is_told(found, [role, reading, lost])


def test_a_misspelt_fault_counts_as_the_one_that_is_meant(folder: Path) -> None:
    """`kll` is no pause, so that waiting for a pause is a mistake too; what may be anything may be one."""
    (folder / "topology.yaml").write_text(TOPOLOGY)
    told = {}
    for name in ("kll", "something"):
        (folder / "experiment.yaml").write_text(
            f"title: t\ntarget: topology.yaml\nfaults:\n  - {name}: {{role: portal}}\n"
            "expect:\n  - sometimes: {during: pause, operation: x}\n  - sometimes: {during: kill, operation: x}\n"
        )
        with pytest.raises(ExperimentError) as caught:
            prepare(folder / "experiment.yaml")
        told[name] = [problem.removeprefix(f"{folder}/experiment.yaml:")[:30] for problem in caught.value.problems]

    assert told["something"] == ["4: faults.0.something: unknown key"[:30]]
    assert told["kll"] == ["4: faults.0.kll: unknown key; did"[:30], "6: expect.0.sometimes.during: t"[:30]]


def test_another_target_takes_the_place_of_one_that_is_not_there(folder: Path) -> None:
    """Both what the experiment names and what the command names may be missing; one of the two counts."""
    gone = next(one for one in BLINDING if one.new == "target: topologie.yaml")
    assert problems(folder, gone, target=folder / "topology.yaml") == []
    assert problems(folder, gone, target=folder / "nowhere.yaml") == [f"{folder}/nowhere.yaml: no such file"]


def test_a_zone_and_a_number_that_are_not_there_are_both_told(folder: Path) -> None:
    """Neither hides the other."""
    wrong = Mistake("zone: a", "zone: c, count: 5", "e:10: faults.1.pause: role 'portal' has ")
    found = problems(folder, wrong)
    assert len(found) == 2
    assert all(problem.startswith(wrong.told) for problem in found)


def compatible(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """The first of them, and each that changes another place than those before it."""
    chosen: list[Mistake] = []
    for mistake in mistakes:
        if not any(mistake.old in other.old or other.old in mistake.old for other in chosen):
            chosen.append(mistake)
    return chosen


def is_told(found: Sequence[str], mistakes: Sequence[Mistake]) -> bool:
    """Whether each mistake is told, once, and nothing else."""
    told = [[problem for problem in found if problem.startswith(mistake.told)] for mistake in mistakes]
    return all(len(one) == 1 for one in told) and len(found) == len(mistakes)
