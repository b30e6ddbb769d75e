"""Named kinds of one thing, each in a module of its own: put the module into the package, and it is known.

@TOOLS.register("saw")  --import of the package's modules, at the first look-->  TOOLS["saw"], list(TOOLS)
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Registered = TypeVar("Registered", bound=type[Any])


class Registry(Generic[T]):
    """The classes that modules of `package` register, by name; `noun` is what errors call one of them."""

    def __init__(self, package: str, noun: str) -> None:
        self._package = package
        self._noun = noun
        self._found: dict[str, Any] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Makes the decorated class the one that is called `name`.

        Raises:
            ValueError: another class has that name.
        """

        def add(cls: Registered) -> Registered:
            if name in self._found:
                raise ValueError(f"two {self._noun}s are called {name!r}: {self._found[name]} and {cls}")
            self._found[name] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> T:
        self._discover()
        found: T = self._found[name]
        return found

    def __iter__(self) -> Iterator[str]:
        """Names in alphabetical order."""
        self._discover()
        return iter(sorted(self._found))

    def _discover(self) -> None:
        if not self._complete:
            package = importlib.import_module(self._package)
            # One module that holds all of them has nothing below it.
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                importlib.import_module(f"{self._package}.{module.name}")
            self._complete = True
