"""One step of a fault that somebody has written as a Python class or function, in a process of its own.

    python -m chaos.calling outage.py:Outage effect '{"mark": "x"}'

A class is made with the parameters, and the method of the step's name is called; a function is called with the step's
name and the parameters. Either may be `async`. What is returned is printed; the exit status of `effect` says whether
that was true (0) or not (1), and 126 that something was raised.
"""

import importlib
import importlib.util
import inspect
import json
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

STEPS: Final = ("inject", "effect", "heal")
RAISED: Final = 126
_FORM: Final = re.compile(r"(?P<where>.+):(?P<name>[^\W\d]\w*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Callee:
    """A class or function by name, and the file or the module that defines it."""

    where: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "Callee":
        """`outage.py:Outage` or `package.module:Outage`.

        Raises:
            ValueError: another spelling.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"expected file.py:Name or package.module:Name, got {text!r}")
        return cls(**match.groupdict())

    def __str__(self) -> str:
        return f"{self.where}:{self.name}"

    @property
    def in_file(self) -> bool:
        """Whether it is named by a file rather than a module."""
        return self.where.endswith(".py")

    def check(self) -> None:
        """Looks for it without running any of it.

        Raises:
            ValueError: no such file or module, no such name in it, or a class that lacks a step.
        """
        import ast

        path = self._path()
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except SyntaxError as error:
            raise ValueError(f"{path}:{error.lineno}: no Python: {error.msg}") from error
        kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        found = {node.name: node for node in tree.body if isinstance(node, kinds)}
        node = found.get(self.name)
        if node is None:
            raise ValueError(f"{path} has no class or function {self.name!r}; it has {', '.join(found) or 'none'}")
        # What a class inherits is not known before it runs.
        if isinstance(node, ast.ClassDef) and not node.bases:
            methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
            if lacking := [step for step in STEPS if step not in methods]:
                raise ValueError(f"{path}:{node.lineno}: class {self.name} has no {' and no '.join(lacking)}")

    def _path(self) -> Path:
        if self.in_file:
            path = Path(self.where)
            if not path.is_file():
                raise ValueError(f"no such file: {path}")
            return path
        try:
            spec = importlib.util.find_spec(self.where)
        except (ImportError, ValueError) as error:
            raise ValueError(f"no module {self.where!r}: {error}; a file is written as name.py:{self.name}") from error
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ValueError(f"no module {self.where!r} in Python; a file is written as name.py:{self.name}")
        return Path(spec.origin)

    def load(self) -> Any:
        """The class or function itself; its module is run."""
        if not self.in_file:
            return getattr(importlib.import_module(self.where), self.name)
        path = Path(self.where)
        sys.path.insert(0, str(path.parent))  # so that it finds what lies beside it
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return getattr(module, self.name)


def call(callee: Any, step: str, parameters: dict[str, Any]) -> Any:
    """What a step returns, awaited where it is `async`."""
    returned = getattr(callee(**parameters), step)() if inspect.isclass(callee) else callee(step, **parameters)
    if not inspect.isawaitable(returned):
        return returned
    from asyncio import run  # here, since a step that needs it not should begin soon

    return run(_awaited(returned))


async def _awaited(returned: Any) -> Any:
    return await returned


def main(arguments: list[str]) -> int:
    """Carries out one step; see the module's head for what its exit status says."""
    where, step, parameters = arguments
    try:
        returned = call(Callee.parse(where).load(), step, json.loads(parameters))
    except Exception:  # noqa: BLE001  # it is somebody else's code, and its author reads this in the log
        traceback.print_exc()
        return RAISED
    if returned is not None:
        sys.stdout.write(f"{returned}\n")
    return int(not returned) if step == "effect" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
