"""The command line: exit codes, messages, and results for programs; every command as a user calls it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from chaos.cli import execute, holdfast
from chaos.cli.run import Options, _prepare
from chaos.cli.shipped import shipped
from chaos.errors import HealError, TargetError
from chaos.experiment import experiment_schema
from chaos.faults.fault import FAULTS
from chaos.preparing import prepare
from chaos.targets.topology import topology_schema

Captured = pytest.CaptureFixture[str]
SYSTEM = Path(__file__).parents[3] / "integration" / "engine" / "system" / "topology.yaml"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", list(holdfast.commands))
def test_every_command_has_help_with_an_example(name: str, capsys: Captured) -> None:
    """Asked as a user would."""
    assert execute([name, "--help"]) == 0
    assert f"Example: holdfast {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-command"], "No such command"),
        (["run"], "name experiments"),
        (["run", "tour", "--all"], "name experiments"),
        (["run", "tour", "--nonsense"], "No such option"),
        (["run", "tour", "--seed", "many"], "not a valid integer"),
        (["run", "tour", "--set", "portal"], "expected K=V"),
        (["run", "tour", "--max-duration", "5"], "expected a duration"),
        (["run", "node-kil"], "did you mean 'node-kill'?"),
        (["run", "missing.yaml"], "missing.yaml: no such file"),
        (["run", "node-kill", "--target", "missing.yaml"], "missing.yaml: no such file"),
        (["run", "node-kill", "--set", "portal.cuont=2"], "did you mean 'count'?"),
        (["run", "node-kill", "--set", "portal.count=1"], "takes the last portal of 1"),
        (["validate", "missing.yaml"], "no such file"),
        (["check", "missing"], "is no folder of a run"),
        (["replay", "missing"], "is no folder of a run"),
        (["shrink", "missing"], "is no folder of a run"),
        (["shrink", "missing", "--failing", "4"], "--failing 4 of --of 3 can never be reached"),
        (["swarm", "missing.yaml"], "missing.yaml: no such file"),
        (["swarm", "missing.yaml", "--seeds", "0"], "0 is not in the range"),
        (["up", "missing.yaml"], "no such file"),
        (["runs", "--out", "/dev/null"], "/dev/null is no folder; choose another"),
        (["list", "wishes"], "is not one of"),
        (["schema"], "Missing argument"),
    ],
)
def test_what_a_user_got_wrong_is_told_and_exits_with_64(arguments: list[str], told: str, capsys: Captured) -> None:
    """Never a traceback, and nothing on standard output that a program could take for a result."""
    assert execute(arguments) == 64
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
    assert list(Path().iterdir()) == []


def test_a_dry_run_prints_the_timeline_and_starts_nothing(capsys: Captured) -> None:
    """Exit 2: nothing was shown. The same seed prints the same bytes."""
    printed = []
    for _ in range(2):
        assert execute(["run", "node-kill", "--seed", "7", "--dry-run"]) == 2
        printed.append(capsys.readouterr().out)

    assert printed[0] == printed[1]
    assert "kill-6" in printed[0]
    assert not Path("runs").exists()


def test_without_a_seed_one_is_drawn_and_printed(capsys: Captured) -> None:
    """node-kill has no seed of its own; two draws differ."""
    seeds = set()
    for _ in range(2):
        execute(["run", "node-kill", "--dry-run", "--json"])
        seeds.add(json.loads(capsys.readouterr().out)[0]["seed"])
    assert len(seeds) == 2


def test_lists_name_what_there_is(capsys: Captured) -> None:
    """As text and as JSON."""
    assert execute(["list", "faults", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(FAULTS)
    assert execute(["list", "experiments"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()] == list(shipped())
    assert execute(["list", "checkers"]) == 0
    assert "exactly_once" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["experiment", "swarm", "topology", "verdict"])
def test_schemas_are_valid_json_schemas(what: str, capsys: Captured) -> None:
    """Draft 2020-12, each with a title."""
    assert execute(["schema", what]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"]


def test_init_writes_files_that_are_valid_as_they_are(capsys: Captured) -> None:
    """Read strictly, planned, and held against the published schemas; a second time nothing is touched."""
    assert execute(["init", "mine"]) == 0
    assert prepare(Path("mine/experiment.yaml")).plan.timeline[0].instances == ("app-1",)
    jsonschema.validate(yaml.safe_load(Path("mine/experiment.yaml").read_text()), experiment_schema())
    jsonschema.validate(yaml.safe_load(Path("mine/topology.yaml").read_text()), topology_schema())
    compile(Path("mine/locustfile.py").read_text(), "locustfile.py", "exec")
    assert execute(["validate", "mine/experiment.yaml"]) == 0
    assert execute(["validate", "mine/topology.yaml"]) == 0

    before = Path("mine/topology.yaml").read_bytes()
    capsys.readouterr()
    assert execute(["init", "mine"]) == 64
    assert "exists already" in capsys.readouterr().err
    assert Path("mine/topology.yaml").read_bytes() == before


def test_without_runs_there_is_nothing_to_show_and_nothing_to_heal(capsys: Captured) -> None:
    """In an empty folder."""
    told = {}
    for command in ("runs", "status", "heal"):
        assert execute([command, "--json"]) == 0
        told[command] = json.loads(capsys.readouterr().out)
        assert execute([command]) == 0
        assert capsys.readouterr().out
    assert told == {"runs": [], "status": {"running": [], "up": [], "left": []}, "heal": {}}


@pytest.mark.parametrize(
    ("error", "code"),
    [(TargetError("no port"), 2), (HealError("kill -CONT 1"), 5), (OSError(28, "No space left on device"), 2)],
)
def test_what_the_environment_or_a_heal_did_has_a_code_of_its_own(
    error: Exception, code: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command fails with the error; the message is printed without a traceback."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(holdfast, "main", fail)
    assert execute(["status"]) == code
    assert str(error) in capsys.readouterr().err


def test_help_comes_at_once_and_without_the_heavy_libraries() -> None:
    """Start-up is measured elsewhere; here it is what makes it slow that must not be imported."""
    heavy = "aiohttp, asyncpg, bokeh, locust, numpy, pyarrow, pydantic, yaml"
    script = f"""
import sys
from chaos.cli import execute
assert execute(["--help"]) == 0
loaded = {{name for name in "{heavy}".split(", ") if name in sys.modules}}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, timeout=30)


def test_planning_does_not_import_what_only_judging_needs() -> None:
    """The runner stays small while the run goes on."""
    script = """
import sys
from chaos.cli import execute
import chaos.engine.run
assert execute(["run", "node-kill", "--dry-run"]) == 2
loaded = {name for name in ("numpy", "pyarrow", "bokeh", "locust", "gevent") if name in sys.modules}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, timeout=30)


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    """Standard output is a pipe whose reader is gone before we write."""
    reading, writing = os.pipe()
    os.close(reading)
    script = "from chaos.cli import main; main(['schema', 'experiment'])"
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("out", ["file", "file/runs"])
@pytest.mark.parametrize("command", [["up", str(SYSTEM)], ["run", "mine/experiment.yaml"]], ids=["up", "run"])
def test_a_folder_of_runs_that_cannot_be_made_is_a_wrong_option(
    command: list[str], out: str, tmp_path: Path, capsys: Captured
) -> None:
    """A file lies there, or where it should be made: exit 64 before anything starts, with the place and what to do."""
    execute(["init", "mine"])
    (tmp_path / "file").touch()
    capsys.readouterr()

    assert execute([*command, "--out", out]) == 64
    told = capsys.readouterr().err
    assert out in told
    assert "choose another" in told
    assert "Traceback" not in told
    assert (tmp_path / "file").read_bytes() == b""


def test_a_run_is_repeated_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """What a run of files in this folder prints as its repetition gives the same plan in another folder."""
    execute(["init", "mine"])
    options = Options(
        target=Path("mine/topology.yaml"),
        seed=7,
        overrides={"app.count": 3},
        runs_dir=Path("runs"),
        max_duration_s=None,
    )
    (request,) = _prepare(["mine/experiment.yaml"], options)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()

    program, *arguments = shlex.split(request.replay)
    assert program == "holdfast"
    assert execute([*arguments, "--dry-run", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == [request.plan.to_json()]


def test_a_shipped_experiment_is_repeated_by_its_name() -> None:
    """Wherever Holdfast is installed."""
    options = Options(target=None, seed=7, overrides={}, runs_dir=Path("runs"), max_duration_s=None)
    (request,) = _prepare(["tour"], options)
    assert request.replay == "holdfast run tour --seed 7"


def test_what_is_wrong_for_several_experiments_is_told_once(capsys: Captured) -> None:
    """All shipped ones have the same target."""
    assert execute(["run", "--all", "--set", "portal.cuont=2"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "override portal.cuont: roles.portal has no 'cuont'; did you mean 'count'?" in line
