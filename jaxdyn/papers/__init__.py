"""The catalogue: one place per paper, `papers/<subject>/<name>.py`, found by being there.

A paper's module holds `REFERENCE` and `EXPERIMENTS`.  An experiment is a function of keywords, with
the sweep that it uses among them, to a Dataset or {name: Dataset} with theory beside simulation as
`<name>_theory`; its claims and its plot work on saved results.
"""

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from jaxdyn.claims import Claim, Results
from jaxdyn.types import nearest

__all__ = ["SUBJECTS", "Experiment", "Option", "Reference", "load", "names", "options", "subject"]

SUBJECTS = (
    "linear",
    "regression",
    "online",
    "saddles",
    "descent",
    "plasticity",
    "width",
    "grokking",
    "attention",
    "measures",
    "systems",
)
"""The subjects in their order: that of theory, papers, tests and docs."""


class Reference(NamedTuple):
    """A paper.

    Attributes:
        title: its title.
        authors: the last names of its authors.
        year: the year in which it appeared first.
        name: the name of its system in short, for a list.
        reproduces: what is reproduced of it, for a list.
        arxiv: its number there, where it has one.
        doi: its DOI, where it has no number on arXiv.
    """

    title: str
    authors: str
    year: int
    name: str
    reproduces: str
    arxiv: str = ""
    doi: str = ""


class Experiment(NamedTuple):
    """One idea of a paper: what is run, what is claimed, how it is drawn.

    Attributes:
        run: the function `run(*, option=default, ..., sweep=sweep)` that simulates and computes
            theory; the defaults are those of the size "quick".
        claims: what is claimed of its results.
        plot: `plot(results, figure)` draws the results on an empty matplotlib figure.
        paper: what the paper's own size changes.
        others: other configurations, in which the claims are judged too.
    """

    run: Callable[..., Results]
    claims: tuple[Claim, ...]
    plot: Callable[[Results, Any], None]
    paper: Mapping[str, Any] = MappingProxyType({})
    others: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The name of the experiment, that of its function."""
        return self.run.__name__

    @property
    def sentence(self) -> str:
        """The first sentence of its docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n\n")[0].replace("\n", " ")

    def sized(self, size: str) -> dict[str, Any]:
        """Return all options at a size, "quick" or "paper"; ValueError for another size."""
        if size not in ("quick", "paper"):
            raise ValueError(f"size: {size!r}; pass 'quick' or 'paper'")
        quick = {name: option.default for name, option in options(self).items()}
        return quick | dict(self.paper if size == "paper" else {})


class Option(NamedTuple):
    """An option of an experiment: its default and its description, from the docstring."""

    default: Any
    description: str


def options(experiment: Experiment) -> dict[str, Option]:
    """Return the options of an experiment, declared by its signature and the `Args` of its
    docstring."""
    docstring = inspect.getdoc(experiment.run) or ""
    described = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", docstring, re.MULTILINE)
    descriptions = {name: " ".join(text.split()) for name, text in described}
    return {
        name: Option(parameter.default, descriptions.get(name, ""))
        for name, parameter in inspect.signature(experiment.run).parameters.items()
        if name != "sweep"
    }


def names() -> list[str]:
    """Return the names of all papers, by subject and then in order."""
    return [
        name for subject in SUBJECTS for name in sorted(_subjects()) if _subjects()[name] == subject
    ]


def subject(name: str) -> str:
    """Return the subject of a paper, its folder; a ValueError suggests the nearest name."""
    if name not in names():
        raise ValueError(f"name: there is no paper {name!r}; {nearest(name, names())}")
    return _subjects()[name]


def load(name: str) -> ModuleType:
    """Import a paper's module; a ValueError suggests the nearest name where there is none."""
    return importlib.import_module(f"{__name__}.{subject(name)}.{name}")


@functools.cache
def _subjects():
    """Return {name of a paper: its subject}."""
    return {
        name: folder.name
        for folder in pkgutil.iter_modules(__path__)
        if folder.ispkg
        for _, name, _ in pkgutil.iter_modules([f"{path}/{folder.name}" for path in __path__])
    }
