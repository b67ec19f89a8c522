"""Modules that are found by being in the folder of a package."""

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from jaxdyn.types import nearest

__all__ = ["load", "names"]


def names(path: Iterable[str]) -> list[str]:
    """Return the names of all modules in the folders of a package's `__path__`, in order."""
    return sorted(module.name for module in pkgutil.iter_modules(path))


def load(package: str, name: str, known: list[str], kind: str) -> ModuleType:
    """Import a module of a package; where it is not known, a ValueError says of what kind it is and
    suggests the nearest name."""
    if name not in known:
        raise ValueError(f"name: there is no {kind} {name!r}; {nearest(name, known)}")
    return importlib.import_module(f"{package}.{name}")
