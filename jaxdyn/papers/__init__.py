"""The catalogue: one file per paper, found by being here.

A paper's module holds `REFERENCE`, `SIZES` ({"quick": ..., "paper": ...}, flat options of `run`), `run(*, sweep, ...)
-> {name: Dataset}` with theory beside simulation as `<name>_theory`, `CLAIMS` and `plot(results, axes)`.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import NamedTuple

from jaxdyn.types import nearest


class Reference(NamedTuple):
    """A paper; `chapter` is its place in the catalogue, `summary` its name in short, ": " and what is reproduced."""

    title: str
    authors: str
    year: int
    arxiv: str = ""
    chapter: str = ""
    summary: str = ""


def names() -> list[str]:
    """Return the names of all papers, in order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """Import a paper's module; a ValueError suggests the nearest name where there is none."""
    if name not in names():
        raise ValueError(f"name: there is no paper {name!r}; {nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")
