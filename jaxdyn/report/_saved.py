"""What `jaxdyn run` saved of a paper, read for showing: whole, missing or damaged."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jaxdyn import papers, results
from jaxdyn.claims import Verdict

__all__ = ["Ran", "Saved", "counts", "damaged", "read", "two_digits", "write"]

MADE = {"size", "default", "options", "started", "device", "versions", "cpu_seconds", "reused"}
NOT_RUN = "not run yet"
WORDS = {
    "holds": "hold",
    "fails": "fail",
    "unexpected": "unexpected",
    "refuted": "refuted",
    "undecided": "undecided",
}


class Ran(NamedTuple):
    """An experiment and what there is of it.

    Attributes:
        experiment: the experiment.
        folder: where its results are.
        verdicts: how its claims came out.
        made: its provenance.
        datasets: its results by name.
        trouble: what is wrong with them; there are no verdicts and datasets then.
    """

    experiment: papers.Experiment
    folder: Path
    verdicts: tuple[Verdict, ...] = ()
    made: dict[str, Any] = {}  # noqa: RUF012, never written to
    datasets: dict[str, Any] = {}  # noqa: RUF012
    trouble: str = NOT_RUN


class Saved(NamedTuple):
    """A paper and what there is of each of its experiments."""

    name: str
    reference: papers.Reference
    ran: tuple[Ran, ...]

    @property
    def whole(self) -> list[Ran]:
        """The experiments whose results can be shown."""
        return [ran for ran in self.ran if not ran.trouble]

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts of all experiments."""
        return [verdict for ran in self.ran for verdict in ran.verdicts]

    @property
    def trouble(self) -> str:
        """What is wrong where nothing can be shown, first of all damage."""
        if self.whole:
            return ""
        return next((ran.trouble for ran in self.ran if ran.trouble != NOT_RUN), NOT_RUN)

    @property
    def datasets(self) -> dict[str, Any]:
        """The results of all experiments, under names that tell them apart."""
        return {
            key if key == ran.experiment.name else f"{ran.experiment.name}, {key}": dataset
            for ran in self.ran
            for key, dataset in ran.datasets.items()
        }


def read(name: str, folder: Path) -> Saved:
    """Read the results of the paper `name` in `folder/<name>`; ValueError where there is no such
    paper."""
    paper = papers.load(name)
    ran = tuple(_read(experiment, folder / name) for experiment in paper.EXPERIMENTS)
    return Saved(name, paper.REFERENCE, ran)


def damaged(ran: Ran, error: Exception) -> Ran:
    """Return an experiment of which nothing can be shown."""
    return Ran(ran.experiment, ran.folder, trouble=f"damaged results ({type(error).__name__})")


def counts(words: Iterable[str]) -> str:
    """Count verdicts in words, what holds first.

    >>> counts(["holds", "refuted", "holds", "fails"])
    '2 hold, 1 fails, 1 refuted'
    """
    found = Counter(words)
    parts = []
    for word, plural in WORDS.items():
        if found[word]:
            parts.append(f"{found[word]} {word if found[word] == 1 else plural}")
    return ", ".join(parts)


def two_digits(value: float) -> str:
    """Return a number to two digits.

    >>> two_digits(123.4)
    '120'
    """
    return f"{float(f'{value:.2g}'):g}"


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def _read(experiment, paper):
    folder = paper / experiment.name
    if (paper / "provenance.json").exists():
        return Ran(experiment, folder, trouble="results of jaxdyn 0.1")
    if not (folder / "provenance.json").exists():
        return Ran(experiment, folder)
    try:
        judged = json.loads((folder / "verdicts.json").read_text())
        verdicts = tuple(Verdict(**verdict) for verdict in judged)
        made = json.loads((folder / "provenance.json").read_text())
        opened = results.open(folder / "results")
        named = opened if isinstance(opened, dict) else {experiment.name: opened}
        datasets = {key: dataset.load() for key, dataset in named.items()}
        missing = MADE - made.keys()
        if missing:
            raise KeyError(*missing)
    # What a damaged file raises is up to json, zarr, its codecs and the file system.
    except Exception as error:
        return damaged(Ran(experiment, folder), error)
    return Ran(experiment, folder, verdicts, made, datasets, "")
