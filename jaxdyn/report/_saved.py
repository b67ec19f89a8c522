"""What `jaxdyn run` saved of a paper, read for showing: whole, missing or damaged."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jaxdyn import papers, results
from jaxdyn.compare import Verdict

MADE = "size", "default", "options", "started", "device", "versions", "wall_seconds"
MADE_LATELY = {"cpu_seconds": None, "reused": False, "git": None}
WORDS = {
    "fails": "fail",
    "unexpected": "unexpected",
    "refuted": "refuted",
    "undecided": "undecided",
    "holds": "hold",
}


NOT_RUN = "not run yet"


class Saved(NamedTuple):
    """A paper and what there is of it; `trouble` says what is wrong with it, `datasets` are empty
    then."""

    name: str
    reference: papers.Reference
    folder: Path
    verdicts: tuple[Verdict, ...]
    made: dict[str, Any]
    datasets: dict[str, Any]
    trouble: str


def read(name: str, folder: Path) -> Saved:
    """Read the results of the paper `name` in `folder/<name>`; ValueError where there is no such
    paper."""
    place = folder / name
    empty = Saved(name, papers.load(name).REFERENCE, place, (), {}, {}, NOT_RUN)
    if not (place / "provenance.json").exists():
        return empty
    try:
        verdicts = tuple(
            Verdict(**verdict) for verdict in json.loads((place / "verdicts.json").read_text())
        )
        made = json.loads((place / "provenance.json").read_text())
        made = {key: made[key] for key in MADE} | {
            key: made.get(key, old) for key, old in MADE_LATELY.items()
        }
        datasets = {key: dataset.load() for key, dataset in results.open(place / "results").items()}
    # What a damaged file raises is up to json, zarr, its codecs and the file system.
    except Exception as error:
        return damaged(empty, error)
    return empty._replace(verdicts=verdicts, made=made, datasets=datasets, trouble="")


def damaged(saved: Saved, error: Exception) -> Saved:
    """Return a paper of which nothing can be shown."""
    return Saved(*saved[:3], (), {}, {}, f"damaged results ({type(error).__name__})")


def counts(words: Iterable[str]) -> str:
    """Count verdicts in words, what holds first.

    >>> counts(["holds", "refuted", "holds", "fails"])
    '2 hold, 1 fails, 1 refuted'
    """
    found = Counter(words)
    order = ["holds", *(word for word in WORDS if word != "holds")]

    def text(word):
        return word if found[word] == 1 else WORDS[word]

    return ", ".join(f"{found[word]} {text(word)}" for word in order if found[word])


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
