"""The operator's command: help for each part of it, and what it refuses before it asks anybody."""

import pytest

from system_under_test.__main__ import main


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody listens, and some token."""
    monkeypatch.setenv("OPERATOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPERATOR_TOKEN", "some-token-of-an-operator")


@pytest.mark.parametrize(
    "command",
    [[], ["windows"], ["clock"]]
    + [["windows", verb] for verb in ("list", "schedule", "move", "cancel", "finish")]
    + [["clock", verb] for verb in ("show", "forward")],
)
def test_every_part_has_help_that_names_its_environment(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """--help of each: exit code 0, the variables it reads."""
    with pytest.raises(SystemExit) as ended:
        main(["operator", *command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "OPERATOR_URL" in said
    assert "OPERATOR_TOKEN" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: subject"),
        (["windows"], "the following arguments are required: verb"),
        (["windows", "shedule"], "invalid choice: 'shedule'"),
        (["windows", "schedule"], "the following arguments are required: --starts-at"),
        (
            ["windows", "schedule", "--starts-at", "soon"],
            "expected a time such as 2026-11-21T10:00:00+00:00, got 'soon'",
        ),
        (["windows", "schedule", "--starts-at", "2031-01-01T00:00:00"], "has no offset from UTC"),
        (["windows", "move", "1", "--starts-at", "2031-01-01T00:00:00Z"], "required: --reason"),
        (["windows", "cancel", "first", "--reason", "r"], "invalid int value: 'first'"),
        (["clock", "forward", "--by", "1", "--to", "2031-01-01T00:00:00Z"], "not allowed with argument"),
        (["clock", "forward", "--rate", "fast"], "invalid float value: 'fast'"),
    ],
)
def test_wrong_usage_ends_with_64(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each wrong command line: exit code 64 and what is wrong with it."""
    assert main(["operator", *arguments]) == 64
    assert said in capsys.readouterr().err


def test_a_wrong_address_is_named_and_a_wrong_token_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address without a scheme and a token with a space: exit code 64, both variables."""
    monkeypatch.setenv("OPERATOR_URL", "nowhere")
    monkeypatch.setenv("OPERATOR_TOKEN", "my secret")
    assert main(["operator", "clock", "show"]) == 64
    said = capsys.readouterr().err
    assert "OPERATOR_URL" in said
    assert "OPERATOR_TOKEN" in said
    assert "secret" not in said


def test_a_maintenance_process_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens there: exit code 1, and where."""
    assert main(["operator", "clock", "show"]) == 1
    assert "the maintenance process at http://127.0.0.1:1 did not answer" in capsys.readouterr().err
