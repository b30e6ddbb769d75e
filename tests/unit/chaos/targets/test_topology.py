"""The topology file: every problem at once with its line, overrides, and the order of start."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from chaos.errors import ExperimentError
from chaos.targets.models import RESERVED, Role
from chaos.targets.topology import Topology, load_topology, topology_schema

GOOD = """\
name: savings
url: balancer.url
probe: {path: /v1/status}
roles:
  postgres:
    command: ["${python}", -m, service, postgres]
    ready: {sql: select 1, dsn: postgres.admin_dsn, within: 30s}
    stop: {signal: SIGINT, grace: 10s}
  migrate: {command: [migrate], task: true, env: {DSN: "${postgres.admin_dsn}"}}
  portal:
    command: [./bin/portal, "${port}", "${instance}", "${zone}", "${data_dir}", "${run_dir}"]
    count: 3
    zones: [a, b]
    needs: [migrate]
    ready: {http: /readyz, within: 20s}
    version: {http: /healthz, field: version}
    metrics: /metrics
    env: {DATABASE_URL: "${postgres.dsn}", WORKERS: 2, DEBUG: false}
    links: {db: postgres}
    cwd: .
  balancer:
    command: [balancer, "${port.admin}"]
    ports: [admin]
    ready: {http: /ready, port: admin}
    metrics: {path: /stats/prometheus, port: admin}
    env: {UPSTREAMS: "${portal.addresses}"}
  legacy: {external: true, url: "http://127.0.0.1:8080", ready: {http: /health}, metrics: /metrics}
outputs: {postgres: [dsn, admin_dsn], balancer: [url, admin_url]}
prepare: [{command: [seed, "${run_dir}/accounts.csv"], env: {DSN: "${postgres.dsn}"}, within: 60s}]
observe:
  retries: {metric: 'retries{kind="a",zone="b"}', role: balancer, combine: max}
  leader.settlement: {sql: select holder from lease, dsn: postgres.admin_dsn}
  stage: {http: /v1/status, field: stage, role: portal}
  front: {http: /v1/status, field: stage, url: balancer.url}
actions:
  maintenance.start:
    http: {method: POST, url: balancer.url, path: /x, json: {now: true}, headers: {X-Token: t}}
    effect: {observe: stage, is: closed, within: 10s}
    undo: {http: {url: balancer.url, path: /y}}
  rotate: {command: [rotate, "${balancer.admin_url}"]}
quiet_when: {observe: leader.settlement, is: 0, and: {observe: retries, max: 5}}
final: [{name: ledger, schema: ledger/1, command: [dump, --out, "${out}"], within: 60s}]
allow_hosts: []
"""


def load_text(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> Topology:
    """The topology in a text."""
    path = tmp_path / "t.yaml"
    path.write_text(text)
    return load_topology(path, overrides)


def problems(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with a text, without the folder of the file."""
    with pytest.raises(ExperimentError) as caught:
        load_text(tmp_path, text, overrides)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    """The good file with one change, which must apply."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_the_example_of_the_format_is_valid(tmp_path: Path) -> None:
    """Instances with their zones in turn, roles in the order in which they can start."""
    topology = load_text(tmp_path, GOOD)
    assert [(it.name, it.zone) for it in topology.instances("portal")] == [
        ("portal-1", "a"),
        ("portal-2", "b"),
        ("portal-3", "a"),
    ]
    assert topology.instances("legacy")[0].external
    assert topology.levels() == (("postgres", "balancer", "legacy"), ("migrate",), ("portal",))
    assert topology.roles["portal"].env == {"DATABASE_URL": "${postgres.dsn}", "WORKERS": "2", "DEBUG": "false"}
    assert topology.roles["postgres"].stop.signal == "INT"
    assert topology.folder == tmp_path


def test_the_published_schema_takes_what_is_taken(tmp_path: Path) -> None:
    """The example passes the JSON Schema; a misspelt key and a bare number for a duration do not."""
    schema = json.loads(json.dumps(topology_schema()))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    data = yaml.safe_load(load_text(tmp_path, GOOD).path.read_text().replace("SIGINT", "INT"))
    validator.validate(data)
    data["roles"]["portal"]["redy"] = {}
    data["roles"]["postgres"]["stop"]["grace"] = 10
    wrong = {".".join(map(str, error.path)) for error in validator.iter_errors(data)}
    assert wrong == {"roles.portal", "roles.postgres.stop.grace"}


def mistakes() -> Iterator[tuple[str, str, str]]:
    """What `mistakes.txt` lists: old text, new text, how the problem begins."""
    lines = (Path(__file__).parent / "mistakes.txt").read_text().splitlines()
    texts = [line[2:].replace("\\n", "\n") for line in lines if line[:2] in {"- ", "+ ", "! "}]
    yield from zip(texts[::3], texts[1::3], texts[2::3], strict=True)


@pytest.mark.parametrize(("old", "new", "problem"), list(mistakes()))
def test_each_mistake_is_named_with_its_line_and_what_there_is(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    """The good file with one mistake gives exactly one problem."""
    found = problems(tmp_path, changed(old, new))
    assert len(found) == 1, found
    assert found[0].startswith(f"t.yaml:{problem}")


def test_all_mistakes_are_found_in_one_go(tmp_path: Path) -> None:
    """Wrong keys do not hide wrong references elsewhere, and cause no problems that are not there."""
    text = """\
name: x
url: web.url
roles:
  web: {command: [x, "${db.dsn}"], needs: [cache], cuont: 2}
  db: {command: y, count: -1}
  Bad: {command: [x]}
  port: {command: [x]}
observe:
  a: {metric: m, role: wbe}
quiet_when: {observe: b, is: 0}
"""
    assert problems(tmp_path, text) == [
        "t.yaml:4: roles.web.command.1: ${db.dsn}: 'db' has no output called 'dsn'; Known: addresses, port, url",
        f"t.yaml:4: roles.web.cuont: unknown key; did you mean 'count'? Known: {', '.join(sorted(Role.model_fields))}",
        "t.yaml:4: roles.web.needs.0: no role called 'cache'; Known: Bad, db, port, web",
        "t.yaml:5: roles.db.command: expected a list, got 'y'",
        "t.yaml:5: roles.db.count: expected at least 1, got -1",
        "t.yaml:6: roles.Bad: 'Bad' cannot name a role: lower-case letters, digits, - and _, not ending in -1 or so",
        "t.yaml:7: roles.port: 'port' cannot name a role: ${port} means something else; taken: "
        + ", ".join(sorted(RESERVED)),
        "t.yaml:9: observe.a.role: no role called 'wbe'; did you mean 'web'? Known: Bad, db, port, web",
        "t.yaml:10: quiet_when.observe: no reading called 'b'; Known: a",
    ]


def test_a_wrong_item_does_not_move_the_lines_of_those_after_it(tmp_path: Path) -> None:
    """The first two of a list are left out; what is wrong in the third is told of the third."""
    text = """\
name: x
url: a.url
roles:
  a: {command: [x]}
prepare:
  - {comand: [x]}
  - 5
  - {command: [x, "${b.url}"]}
"""
    assert [problem.partition(";")[0] for problem in problems(tmp_path, text)] == [
        "t.yaml:6: prepare.0.comand: unknown key",
        "t.yaml:7: prepare.1: expected a mapping, got 5",
        "t.yaml:8: prepare.2.command.1: ${b.url}: no role called 'b'",
    ]


def test_roles_that_wait_for_each_other_are_named_in_a_circle(tmp_path: Path) -> None:
    """One waits by `needs`, one by an output that its environment refers to."""
    text = """\
name: x
url: a.url
roles:
  a: {command: [x], needs: [b]}
  b: {command: [x], env: {C: "${c.key}"}}
  c: {command: [x], needs: [a]}
outputs: {c: [key]}
"""
    (found,) = problems(tmp_path, text)
    assert "these roles wait for each other: " in found
    circle = found.rpartition(": ")[2].split(" -> ")
    assert circle[0] == circle[-1]
    waits = {"a": "b", "b": "c", "c": "a"}
    assert all(waits[role] == other for role, other in itertools.pairwise(circle))


def test_a_file_without_roles_or_with_nothing_usable_is_refused(tmp_path: Path) -> None:
    """No roles at all, and an empty mapping of them."""
    assert problems(tmp_path, "name: x\nurl: a.url\n")[0] == "t.yaml:1: roles: required, but missing"
    assert "t.yaml:3: roles: expected at least 1 of them, got a mapping" in problems(
        tmp_path, "name: x\nurl: http://localhost/\nroles: {}\n"
    )


def test_named_hosts_may_be_used(tmp_path: Path) -> None:
    """`allow_hosts` lists the one that the file uses."""
    text = changed("http://127.0.0.1:8080", "http://bank.example").replace(
        "allow_hosts: []", "allow_hosts: [bank.example]"
    )
    assert load_text(tmp_path, text).instances("legacy")[0].external


def test_overrides_change_fields_and_are_kept(tmp_path: Path) -> None:
    """Into roles, new keys of free mappings, what was left out, lists, and names with dots."""
    overrides = {
        "portal.env.VERSION": "v2",
        "portal.count": 2,
        "migrate.stop.grace": "1s",
        "prepare.0.within": "5s",
        "observe.leader.settlement.sql": "select 1",
        "actions.maintenance.start.effect.is": "open",
        "roles.portal.zones": ["c"],
        "quiet_when.is": 3,
    }
    topology = load_text(tmp_path, GOOD, overrides)
    assert topology.overrides == overrides
    assert topology.roles["portal"].env["VERSION"] == "v2"
    assert [it.zone for it in topology.instances("portal")] == ["c", "c"]
    assert topology.roles["migrate"].stop.grace == 1.0
    assert topology.file.prepare[0].within == 5.0
    assert topology.file.observe["leader.settlement"].sql == "select 1"
    effect = topology.file.actions["maintenance.start"].effect
    assert effect is not None
    assert effect.equals == "open"
    assert topology.file.quiet_when is not None
    assert topology.file.quiet_when.equals == 3


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("portl.count", "nothing called 'portl'; did you mean 'portal'? Known: actions, allow_hosts, balancer, "),
        ("portal.cuont", "roles.portal has no 'cuont'; did you mean 'count'? Known: command, count, "),
        ("prepare.1.within", "prepare is a list of 1; give a position from 0"),
        ("portal.count.x", "roles.portal.count is a single value, there is nothing inside"),
        ("roles.portl.count", "roles has no 'portl'; did you mean 'portal'? Known: balancer, legacy, "),
    ],
)
def test_an_override_that_leads_nowhere_says_what_there_is(tmp_path: Path, path: str, problem: str) -> None:
    """The path is refused before anything is checked."""
    (found,) = problems(tmp_path, GOOD, {path: 1})
    assert found.startswith(f"t.yaml: override {path}: {problem}")


def test_a_wrong_value_of_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    """The problem names the override."""
    (found,) = problems(tmp_path, GOOD, {"portal.count": "many"})
    assert (
        found == "t.yaml:12: roles.portal.count: expected a whole number, got 'many' (set by the override portal.count)"
    )
    (found,) = problems(tmp_path, GOOD, {"portal.env.NEW": "${nothing}"})
    assert found.startswith("t.yaml:18: roles.portal.env.NEW: ${nothing} is not known here; ")
    assert found.endswith("(set by the override portal.env.NEW)")


def test_each_instance_can_be_given_its_own_output(tmp_path: Path) -> None:
    """`[index]` is known for all three instances or told for the one that lacks it; the order of start knows it too."""
    own = GOOD.replace('DATABASE_URL: "${postgres.dsn}"', 'DATABASE_URL: "${postgres.dsn_[index]}"')
    whole = own.replace("postgres: [dsn, admin_dsn]", "postgres: [dsn, admin_dsn, dsn_1, dsn_2, dsn_3]")
    assert load_text(tmp_path, whole.replace("needs: [migrate]", "needs: []")).needs()["portal"] == {"postgres"}
    short = own.replace("postgres: [dsn, admin_dsn]", "postgres: [dsn, admin_dsn, dsn_1, dsn_3]")
    assert [problem.partition(";")[0] for problem in problems(tmp_path, short)] == [
        "t.yaml:18: roles.portal.env.DATABASE_URL: ${postgres.dsn_2}: 'postgres' has no output called 'dsn_2'"
    ]
