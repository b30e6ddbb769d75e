"""Wrong configuration is named whole, with exit code 64, and never by a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from system_under_test.__main__ import COMMANDS, main
from system_under_test.balancer.launcher import BalancerSettings
from system_under_test.services.accrual import AccrualSettings
from system_under_test.services.maintenance import MaintenanceSettings
from system_under_test.services.notifier.main import NotifierSettings
from system_under_test.services.portal.server import PortalSettings
from system_under_test.services.service import ServiceSettings
from system_under_test.services.settlement import SettlementSettings
from system_under_test.services.signer import SignerSettings
from system_under_test.settings import ConfigurationError, read_settings

URL = "postgresql://savings_portal:secret@127.0.0.1:20001/savings"
_SERVICE = {
    "HOLDFAST_PORT": "20002",
    "DATABASE_URL": URL,
    "SMTP_URL": "smtp://127.0.0.1:2525",
    "OPERATOR_TOKEN": "the-operators-token",
}


def test_every_problem_is_named_at_once_and_no_password_is_repeated() -> None:
    """Four wrong variables and a missing one: five lines, none with the address's password."""
    given = {
        "HOLDFAST_INSTANCE": "no spaces please",
        "DATABASE_URL": "mysql://savings_portal:secret@127.0.0.1/savings",
        "MAX_IN_FLIGHT": "0",
        "DRAIN_SECONDS": "soon",
    }
    with pytest.raises(ConfigurationError) as caught:
        read_settings(PortalSettings, given)
    problems = caught.value.problems
    assert sorted(problem.split()[0].rstrip(":") for problem in problems) == [
        "DATABASE_URL",
        "DRAIN_SECONDS",
        "HOLDFAST_INSTANCE",
        "HOLDFAST_PORT",
        "MAX_IN_FLIGHT",
    ]
    assert "HOLDFAST_PORT is not set" in problems
    assert any("got 'soon'" in problem for problem in problems)
    assert "secret" not in str(caught.value)


def test_an_empty_variable_counts_as_not_set() -> None:
    """VERSION="" is the default version; HOLDFAST_PORT="" is missing."""
    settings = read_settings(PortalSettings, {"HOLDFAST_PORT": "20002", "DATABASE_URL": URL, "VERSION": ""})
    assert (settings.port, settings.version) == (20002, "v1")
    with pytest.raises(ConfigurationError, match="HOLDFAST_PORT is not set"):
        read_settings(PortalSettings, {"HOLDFAST_PORT": "", "DATABASE_URL": URL})


def test_the_drain_lasts_longer_than_two_health_checks_unless_told_otherwise() -> None:
    """The default, against the balancer's interval and time limit."""
    settings = read_settings(PortalSettings, {"HOLDFAST_PORT": "20002", "DATABASE_URL": URL})
    assert settings.drain_s > 2 * 0.25


@pytest.mark.parametrize(
    ("upstreams", "said"),
    [
        ("", "UPSTREAMS is not set"),
        ("127.0.0.1:20011@a,", "got ''"),
        ("10.0.0.1:20011@a", "got '10.0.0.1:20011@a'"),
        ("127.0.0.1:99999@a", "a port from 1 to 65535, got 99999"),
        ("127.0.0.1:20011@a,127.0.0.1:20011@b", "each node once, got '127.0.0.1:20011@a,127.0.0.1:20011@b'"),
        ("abc", "got 'abc'"),
    ],
)
def test_a_wrong_list_of_nodes_is_named(tmp_path: Path, upstreams: str, said: str) -> None:
    """Each wrong UPSTREAMS, with everything else right."""
    given = {
        "HOLDFAST_PORT": "20002",
        "HOLDFAST_PORT_ADMIN": "20003",
        "HOLDFAST_DATA_DIR": str(tmp_path),
        "HOLDFAST_READY_FILE": str(tmp_path / "ready.json"),
        "UPSTREAMS": upstreams,
    }
    with pytest.raises(ConfigurationError) as caught:
        read_settings(BalancerSettings, given)
    assert len(caught.value.problems) == 1
    assert said in str(caught.value)
    assert str(caught.value).count(", got ") <= 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_its_environment_ends_with_64_and_says_what_is_missing(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command with an empty environment: exit code 64, a message, no traceback."""
    for variable in ("HOLDFAST_PORT", "DATABASE_URL", "DATABASE_ADMIN_URL", "DATABASE_AUDITOR_URL", "OPERATOR_URL"):
        monkeypatch.delenv(variable, raising=False)
    out = ["--out", str(tmp_path / "out")]
    needed = {
        "seed": ["--accounts", "3", *out],
        "dump": out,
        "operator": ["windows", "list"],
        "signers": ["list"],
    }
    arguments = needed.get(name, [])
    assert main([name, *arguments]) == 64
    said = capsys.readouterr().err
    assert said.startswith(f"{name}: cannot start, the configuration is wrong:\n")
    assert "is not set" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no command given"),
        (["postgress"], "no command called 'postgress'"),
        (["seed", "--accounts", "many"], "invalid int value: 'many'"),
        (["seed"], "the following arguments are required: --accounts, --out"),
        (["seed", "--accounts", "0", "--out", "/nowhere/a.csv"], "--accounts: expected 1 to 1000000, got 0"),
        (
            ["seed", "--accounts", "3", "--out", "a", "--push", "4"],
            "--push: expected 0 to 1000, not more than --accounts",
        ),
        (["seed", "--accounts", "3", "--out", "a", "--push", "3"], "--push and --push-service: give both or neither"),
        (
            ["seed", "--accounts", "3", "--out", "a", "--push", "3", "--push-service", "http://10.0.0.1:80"],
            "--push-service: expected an address as http://127.0.0.1:2580, got 'http://10.0.0.1:80'",
        ),
        (["seed", "--accounts", "0", "--out", "/nowhere/a.csv"], "--out: the folder of /nowhere/a.csv does not exist"),
        (["dump", "--out", "/nowhere/l.ndjson"], "--out: the folder of /nowhere/l.ndjson does not exist"),
        (["portal", "--port", "1"], "unrecognized arguments: --port 1"),
    ],
)
def test_wrong_usage_ends_with_64(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each wrong command line: exit code 64 and what is wrong with it."""
    assert main(arguments) == 64
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["seed", "--accounts", "3", "--out", "/nowhere/a.csv"], "DATABASE_ADMIN_URL"),
        (["dump", "--out", "/nowhere/l.ndjson"], "DATABASE_AUDITOR_URL"),
        (["signers", "revoke"], "DATABASE_ADMIN_URL"),
    ],
)
@pytest.mark.parametrize(("url", "said"), [("", "is not set"), ("no-url", "expected an address")])
def test_wrong_arguments_and_a_wrong_environment_are_named_together(
    arguments: list[str],
    variable: str,
    url: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command with a wrong argument and no, or a wrong, address of its database: 64, and two problems."""
    monkeypatch.setenv(variable, url)
    assert main(arguments) == 64
    problems = capsys.readouterr().err.splitlines()[1:]
    assert len(problems) == 2
    assert variable not in problems[0]
    assert variable in problems[1]
    assert said in problems[1]


@pytest.mark.parametrize("model", [SettlementSettings, AccrualSettings])
def test_a_folder_that_a_process_does_not_use_may_be_missing(model: type[ServiceSettings], tmp_path: Path) -> None:
    """HOLDFAST_DATA_DIR names what does not exist: nothing to those that keep nothing."""
    read_settings(model, {**_SERVICE, "HOLDFAST_DATA_DIR": str(tmp_path / "none")})


@pytest.mark.parametrize("model", [SignerSettings, MaintenanceSettings, NotifierSettings])
def test_a_folder_that_a_process_uses_has_to_exist(model: type[ServiceSettings], tmp_path: Path) -> None:
    """HOLDFAST_DATA_DIR names what does not exist: refused by those that keep a key there."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_DATA_DIR: expected a folder that exists"):
        read_settings(model, {**_SERVICE, "HOLDFAST_DATA_DIR": str(tmp_path / "none")})


@pytest.mark.parametrize("arguments", [["--help"], ["postgres", "--help"]])
def test_help_is_given(arguments: list[str]) -> None:
    """The help of the whole and of a command, in a process of its own: exit code 0."""
    command = [sys.executable, "-m", "system_under_test", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: python -m system_under_test")


def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`migrate` at a port where nobody listens: exit code 1, and the address is in the message."""
    monkeypatch.setenv("DATABASE_ADMIN_URL", "postgresql://savings_owner:secret@127.0.0.1:1/savings")
    assert main(["migrate"]) == 1
    said = capsys.readouterr().err
    assert "cannot connect to the database savings_owner@127.0.0.1:1/savings" in said
    assert "secret" not in said
