"""The catalogue: one file per paper, found by being here.

A paper's module holds `REFERENCE`, `SIZES` ({"quick": ..., "paper": ...}, flat options of `run`), `run(*, sweep, ...)
-> {name: Dataset}` with theory beside simulation as `<name>_theory`, `CLAIMS` and `plot(results, axes)`.
"""

import difflib
import importlib
import pkgutil
from types import ModuleType
from typing import NamedTuple


class Reference(NamedTuple):
    """A paper; `chapter` is its place in the catalogue."""

    title: str
    authors: str
    year: int
    arxiv: str = ""
    chapter: str = ""


def names() -> list[str]:
    """Return the names of all papers, in order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """Import a paper's module; a ValueError suggests the nearest name where there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        raise ValueError(
            f"name: there is no paper {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"pass one of {names()}")
        )
    return importlib.import_module(f"{__name__}.{name}")
