"""The record of each paper, kept beside its picture, and the table of the catalogue made of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdyn import papers
from jaxdyn.report._saved import Ran, Saved, counts, two_digits, write

__all__ = ["record", "table"]

SIZES = ("quick", "paper")
HEAD = """| paper | what is reproduced | claims | CPU time at quick and at paper size |
|---|---|---|---|"""


def record(saved: Saved, folder: Path) -> Path:
    """Write what runs at one of the sizes found, verdicts and cost, into `<folder>/<name>.json`.

    The cost of a run that took stored runs is not its own: then the one on record stays.  Raises
    ValueError where an experiment has no results, or results of other options than a size's own.
    """
    path = folder / f"{saved.name}.json"
    known = _read(saved.name, folder)
    entries = {ran.experiment.name: _entry(saved.name, ran, known) for ran in saved.ran}
    write(path, json.dumps(entries, indent=1) + "\n")
    return path


def table(names: Sequence[str], folder: Path) -> str:
    """Return the Markdown table of papers from the records in `folder`; one without a record, such
    as a new one, is "not run yet"."""
    return "\n".join([HEAD, *(_row(name, _read(name, folder)) for name in names)])


def _entry(name, ran: Ran, known) -> dict[str, Any]:
    """Return the record of an experiment: {size: cost and verdicts}."""
    command = f"jaxdyn run {name} {ran.experiment.name}"
    if ran.trouble:
        raise ValueError(f"name: {command[11:]}: {ran.trouble}; run it first: {command}")
    if not ran.made["default"]:
        raise ValueError(
            f"name: {command[11:]} was run with other options; run it without: {command}"
        )
    before = known.get(ran.experiment.name, {})
    size = ran.made["size"]
    cost = ran.made["cpu_seconds"]
    if ran.made["reused"]:
        cost = before.get(size, {}).get("cpu_seconds")
    verdicts = [f"{verdict.word}: {verdict.statement}" for verdict in ran.verdicts]
    sizes = before | {size: {"cpu_seconds": cost, "verdicts": verdicts}}
    return {size: sizes[size] for size in SIZES if size in sizes}


def _read(name, folder) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _row(name, known):
    reference = papers.load(name).REFERENCE
    costs = []
    said = {}
    for size in SIZES:
        runs = [sizes[size] for sizes in known.values() if size in sizes]
        seconds = [run["cpu_seconds"] for run in runs]
        costs.append("?" if None in seconds or not runs else two_digits(sum(seconds)))
        words = [line.partition(":")[0] for run in runs for line in run["verdicts"]]
        # Sizes may disagree, where one of them fails: then both are told.
        if words:
            said[counts(words)] = True
    title = f"[{reference.name}](#{name}) ({reference.authors}, {reference.year})"
    cost = f"{', '.join(costs)} s" if said else "not run yet"
    return f"| {title} | {reference.reproduces} | {'; '.join(said)} | {cost} |"
