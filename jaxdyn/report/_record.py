"""The record of each paper, kept beside its picture, and the README's table made of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdyn import papers
from jaxdyn.report._saved import Saved, counts, two_digits, write

HEAD = """| `make gallery` draws it | paper (CPU time at quick and at paper size) | what is reproduced | claims |
|---|---|---|---|"""


def record(saved: Saved, folder: Path) -> Path:
    """Write what a run at one of its sizes found, its verdicts and its cost, into
    `<folder>/<name>.json`.

    The cost of a run that took stored runs is not its own: then the one on record stays.  Raises
    ValueError where there are no results, or results of other options than a size's own.
    """
    if saved.trouble:
        raise ValueError(
            f"name: {saved.name!r}: {saved.trouble}; run it first: jaxdyn run {saved.name}"
        )
    if not saved.made["default"]:
        raise ValueError(
            f"name: {saved.name!r} was run with other options; run it with those of a size of its own"
        )
    path = folder / f"{saved.name}.json"
    size = saved.made["size"]
    known = json.loads(path.read_text()) if path.exists() else {}
    cost = saved.made["cpu_seconds"]
    if saved.made["reused"] or cost is None:
        cost = known.get(size, {}).get("cpu_seconds")
    verdicts = [f"{verdict.word}: {verdict.statement}" for verdict in saved.verdicts]
    known[size] = {"cpu_seconds": cost, "verdicts": verdicts}
    write(
        path,
        json.dumps({size: known[size] for size in ("quick", "paper") if size in known}, indent=1)
        + "\n",
    )
    return path


def table(names: Sequence[str], folder: Path) -> str:
    """Return the Markdown table of papers from the records in `folder`; ValueError where one has
    none."""
    return "\n".join([HEAD, *(_row(name, _read(name, folder)) for name in names)])


def _read(name, folder) -> dict[str, Any]:
    path = folder / f"{name}.json"
    if not path.exists():
        raise ValueError(
            f"records: {str(folder)!r} has no record of {name!r}; `make gallery` makes it"
        )
    return json.loads(path.read_text())


def _row(name, known):
    short, _, what = papers.load(name).REFERENCE.summary.partition(": ")
    sizes = [known[size] for size in ("quick", "paper") if size in known]
    costs = ", ".join(
        "?" if one["cpu_seconds"] is None else two_digits(one["cpu_seconds"]) for one in sizes
    )
    # Sizes may disagree, where one of them fails: then both are told.
    said = dict.fromkeys(
        counts(line.partition(":")[0] for line in one["verdicts"]) for one in sizes
    )
    picture = f'<img src="docs/gallery/{name}.png" width="220" alt="{short}">'
    return f"| {picture} | `{name}` ({costs} s) | **{short}**: {what} | {'; '.join(said)} |"
