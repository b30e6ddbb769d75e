import sys
from pathlib import Path

import pytest

from metrics.registry import Registry

TOOLS = "from metrics.registry import Registry\nTOOLS: Registry[type] = Registry('{package}', 'tool')\n"
SAW = "from {package} import TOOLS\n\n@TOOLS.register('{name}')\nclass Tool:\n    pass\n"


def _package(path: Path, name: str, **modules: str) -> None:
    (path / name).mkdir()
    (path / name / "__init__.py").write_text(TOOLS.format(package=name))
    for module, tool in modules.items():
        (path / name / f"{module}.py").write_text(SAW.format(package=name, name=tool))


def test_whatever_lies_in_the_package_is_found_in_alphabetical_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of its own, none of whose modules anybody has imported before the first look."""
    _package(tmp_path, "shed_of_tools", b="saw", a="vice", c="axe")
    monkeypatch.syspath_prepend(tmp_path)
    tools = __import__("shed_of_tools").TOOLS

    assert isinstance(tools, Registry)
    assert "shed_of_tools.a" not in sys.modules
    assert list(tools) == ["axe", "saw", "vice"]
    assert tools["saw"].__name__ == "Tool"
    with pytest.raises(KeyError):
        tools["plane"]


def test_two_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the noun and the name."""
    _package(tmp_path, "shed_of_twins", a="saw", b="saw")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ValueError, match="two tools are called 'saw'"):
        list(__import__("shed_of_twins").TOOLS)


def test_a_single_module_may_hold_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing below it to import."""
    text = TOOLS.format(package="lone_tools") + "\n@TOOLS.register('saw')\nclass Tool:\n    pass\n"
    (tmp_path / "lone_tools.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    assert list(__import__("lone_tools").TOOLS) == ["saw"]
